"""Valuation: contributions and copies worked by hand, and the loss of a step against loops."""

import pytest
import torch
from helpers.gradients import gradients, gradients_of_step
from torch.nn import functional as F

from pmr_hf import ValuationTrainer
from pmr_hf.methods.valuation import ROWS, contributions_of, copies_of


# Each sample: its class, the strength and class of the vote of each modality or None, the contributions, and the copies
SAMPLES = [
    (0, ((3, 0), (2, 1), (2, 1)), (1, -1 / 2, -1 / 2), (0, 3, 3)),  # v(a) = 1, v(ab) = v(ac) = 2, v(abc) = 0
    (1, ((1, 1), (1, 1), (1, 1)), (1, 1, 1), (0, 0, 0)),
    (2, ((1, 2), (0, 2), (0, 2)), (2, 1 / 2, 1 / 2), (0, 1, 1)),  # without a, the first class is predicted
    (3, ((1, 1), (1, 1), (1, 1)), (0, 0, 0), (2, 2, 2)),
    (0, ((3, 0), None, (2, 1)), (3 / 2, 0, 1 / 2), (0, 0, 1)),  # of two modalities
    (1, ((1, 1), (2, 0), None), (1 / 2, -1 / 2, 0), (1, 3, 0)),
    (1, ((1, 1), None, None), (1, 0, 0), (0, 0, 0)),  # of one
    (1, (None, (1, 2), None), (0, 0, 0), (0, 2, 0)),
]


@torch.no_grad()
def embedding_is_logits(model):
    for classifier in model.fusion.classifiers.values():
        classifier.weight.copy_(torch.eye(4, 6))
        classifier.bias.zero_()


def test_contributions_and_copies_by_hand(make_model_of_three):
    model = make_model_of_three(fusion="sum")
    embedding_is_logits(model)
    votes = [[(0, 0) if vote is None else vote for vote in votes] for _, votes, _, _ in SAMPLES]
    embeddings = {
        name: torch.stack([strength * F.one_hot(torch.tensor(k), 6).float() for strength, k in column])
        for name, column in zip("abc", zip(*votes, strict=True), strict=True)
    }
    present = torch.tensor([[vote is not None for vote in votes] for _, votes, _, _ in SAMPLES]).T
    labels = torch.tensor([label for label, _, _, _ in SAMPLES])
    with torch.no_grad():
        found = contributions_of(model, embeddings, present, labels)
    torch.testing.assert_close(found.T, torch.tensor([list(values) for _, _, values, _ in SAMPLES]))
    assert (found[:, 1] == 1).all()  # to the bit, since less would be sampled again
    copies = torch.where(present, copies_of(found, 2.0), 0).T
    torch.testing.assert_close(copies, torch.tensor([list(map(float, copies)) for *_, copies in SAMPLES]))


def test_contributions_to_several_labels_by_hand(make_model_of_three):
    """Modality a finds all of four labels, b half of them, and both together what a finds; the sample lacks c."""
    model = make_model_of_three(fusion="sum", problem_type="multi_label_classification")
    embedding_is_logits(model)
    embeddings = {
        "a": torch.tensor([[2.0, -2, 2, -2, 0, 0]]),
        "b": torch.tensor([[1.0, 1, -1, -1, 0, 0]]),
        "c": torch.zeros(1, 6),
    }
    present = torch.tensor([[True], [True], [False]])
    with torch.no_grad():
        found = contributions_of(model, embeddings, present, torch.tensor([[1.0, 0, 1, 0]]))
    assert found.flatten().tolist() == [(1 + 2 - 0.5) / 2, (0.5 + 2 - 1) / 2, 0]


def holes(row, i):
    return {
        "caption": None if i % 5 == 0 else row["caption"],
        "picture": None if i % 7 == 1 else row["picture"],
    }


@pytest.mark.parametrize("settings", [{}, {"class_weights": {"0": 4.0}, "label_smoothing_factor": 0.1}])
def test_a_step_against_loops(prepared, digits, settings):
    trainer, _ = prepared(ValuationTrainer, valuation_rate=1.5, **settings)
    model, names = trainer.model, ("image", "text")
    trainer.train_dataset = digits.map(holes, with_indices=True, features=digits.features)
    with torch.no_grad():
        for vector in model.absent.values():
            vector.normal_()
    trainer.value_rows()
    assert model.training
    batch = next(iter(trainer.get_train_dataloader()))
    rows, labels = batch[ROWS].tolist(), batch["labels"]
    inputs = {name: batch[name] for name in names}
    weights = torch.tensor([settings.get("class_weights", {}).get(str(k), 1.0) for k in range(4)])
    smoothing = settings.get("label_smoothing_factor", 0.0)

    def logits_of(outputs, i, used):
        z = {name: outputs.embeddings[name][i] if name in used else model.absent[name] for name in names}
        return model.fusion({name: value[None] for name, value in z.items()})[0]

    def loss_of(logits, label):
        logs = logits.log_softmax(0)
        hard, soft = -weights[label] * logs[label], -(weights * logs).mean()
        return (1 - smoothing) * hard + smoothing * soft

    model.zero_grad()
    outputs = model(**inputs)
    total, copied = 0.0, 0.0
    for i, (row, label) in enumerate(zip(rows, labels.tolist(), strict=True)):
        has = [name for name in names if trainer.train_dataset[row]["picture" if name == "image" else "caption"]]
        benefit = {
            used: len(used) * (len(used) > 0 and logits_of(outputs, i, used).argmax().item() == label)
            for used in ((), ("image",), ("text",), names)
        }
        total = total + loss_of(logits_of(outputs, i, has), label)
        for name in has:
            (other,) = set(names) - {name}
            phi = benefit[(name,)]
            if other in has:
                phi = (benefit[(name,)] + benefit[names] - benefit[(other,)]) / 2
            if phi < 1:
                copied += 1.5 * (1 - phi)
                total = total + 1.5 * (1 - phi) * loss_of(logits_of(outputs, i, [name]), label)
    assert copied > 0
    (total / weights[labels].sum()).backward()
    expected = gradients(model)
    found = gradients_of_step(trainer, batch)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4, msg=name)
    logs = trainer.summarize(trainer.term_sums.totals(trainer.accelerator))
    assert logs["image_copies"] + logs["text_copies"] > 0 and -0.5 <= logs["text_contribution"] <= 1.5


def test_what_is_refused(make_trainer, make_args, digits):
    with pytest.raises(ValueError, match="Expected a training set whose rows have numbers for ValuationTrainer"):
        make_trainer(
            cls=ValuationTrainer,
            train_dataset=digits.to_iterable_dataset(),
            max_steps=2,
            prototype_source="online",
        )
    with pytest.raises(ValueError, match="Expected more epochs than `valuation_warmup_epochs`, which is 2"):
        make_trainer(cls=ValuationTrainer, valuation_warmup_epochs=2).train()
    with pytest.raises(ValueError, match="got a `compute_loss_func`"):
        make_trainer(cls=ValuationTrainer, trainer_kwargs={"compute_loss_func": lambda *args, **kwargs: 0})
    for name, value in (("valuation_rate", -1.0), ("valuation_warmup_epochs", -1), ("valuation_epochs", 0)):
        with pytest.raises(ValueError, match=f"Expected `{name}`"):
            make_args(ValuationTrainer.args_class, **{name: value})
