"""Valuation: contributions and copies worked by hand, and the loss of a step and a run against loops."""

from functools import cache
from itertools import permutations

import pytest
import torch
from helpers.all_methods import rows_of_three
from helpers.fusing import logits_of_sample
from helpers.gradients import gradients, gradients_of_step
from helpers.snapshots import snapshot
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


def loss_by_loops(trainer, outputs, labels, has):
    """
    The loss of a batch, each of whose samples has the modalities in `has`, and the sum of the copies of each modality.
    """
    model, names, args = trainer.model, trainer.modalities, trainer.args
    weights = torch.tensor([(args.class_weights or {}).get(str(k), 1.0) for k in range(4)])

    def loss_of(logits, label):
        logs = logits.log_softmax(0)
        hard, soft = -weights[label] * logs[label], -(weights * logs).mean()
        return (1 - args.label_smoothing_factor) * hard + args.label_smoothing_factor * soft

    total, copied = 0.0, dict.fromkeys(names, 0.0)
    for i, (label, own) in enumerate(zip(labels.tolist(), has, strict=True)):
        z = {name: outputs.embeddings[name][i] for name in names}

        @cache
        def benefit(used, z=z, label=label):
            return len(used) * (len(used) > 0 and logits_of_sample(model, z, used).argmax().item() == label)

        total = total + loss_of(logits_of_sample(model, z, own), label)
        orders = list(permutations(own))
        for name in own:
            before = [frozenset(order[: order.index(name)]) for order in orders]
            phi = sum(benefit(others | {name}) - benefit(others) for others in before) / len(orders)
            if phi < 1 and len(own) > 1:
                copied[name] += args.valuation_rate * (1 - phi)
                alone = loss_of(logits_of_sample(model, z, (name,)), label)
                total = total + args.valuation_rate * (1 - phi) * alone
    return total / weights[labels].sum(), copied


@pytest.mark.parametrize(
    ("settings", "fusion"),
    [({}, "concat"), ({}, "attention"), ({"class_weights": {"0": 4.0}, "label_smoothing_factor": 0.1}, "concat")],
)
def test_a_step_against_loops(prepared, digits, settings, fusion):
    trainer, _ = prepared(ValuationTrainer, valuation_rate=1.5, fusion=fusion, **settings)
    model, columns = trainer.model, {"image": "picture", "text": "caption"}
    trainer.train_dataset = digits.map(holes, with_indices=True, features=digits.features)
    with torch.no_grad():
        for vector in model.absent.values():
            vector.normal_()
    trainer.value_rows()
    assert model.training
    batch = next(iter(trainer.get_train_dataloader()))
    rows = [trainer.train_dataset[row] for row in batch[ROWS].tolist()]
    has = [[name for name, column in columns.items() if row[column]] for row in rows]
    model.zero_grad()
    outputs = model(**{name: batch[name] for name in columns})
    loss, copied = loss_by_loops(trainer, outputs, batch["labels"], has)
    assert sum(copied.values()) > 0 and {len(own) for own in has} == {1, 2}
    loss.backward()
    expected = gradients(model)
    found = gradients_of_step(trainer, batch)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4, msg=name)
    logs = trainer.summarize(trainer.term_sums.totals(trainer.accelerator))
    assert logs["image_copies"] + logs["text_copies"] > 0 and -0.5 <= logs["text_contribution"] <= 1.5


def test_a_run_on_three_modalities_against_loops(make_trainer_of_three):
    """The rows are valued before each of three epochs of one batch."""
    has = ["abc", "ab", "bc", "ca"] * 6
    rows = [row | dict.fromkeys(set("abc") - set(own)) for row, own in zip(rows_of_three(24), has, strict=True)]
    trainer = make_trainer_of_three(
        ValuationTrainer,
        train_dataset=rows,
        per_device_train_batch_size=24,
        num_train_epochs=3,
        train_sampling_strategy="sequential",
        lr_scheduler_type="constant",
        optim="sgd",
        learning_rate=0.1,
        max_grad_norm=0.0,
    )
    start = snapshot(trainer.model)
    trainer.train()
    found = snapshot(trainer.model)
    trainer.model.load_state_dict(start)
    batch = trainer.data_collator(rows)
    for entry in trainer.state.log_history[:3]:
        trainer.model.zero_grad()
        loss, copied = loss_by_loops(trainer, trainer.model(**batch), batch["labels"], has)
        loss.backward()
        for name, copies in copied.items():
            assert entry[f"{name}_copies"] == pytest.approx(copies / 18) and copies > 0
        with torch.no_grad():
            for parameter in trainer.model.parameters():
                parameter -= 0.1 * (0 if parameter.grad is None else parameter.grad)
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(found[name], parameter, atol=1e-6, rtol=1e-5, msg=name)


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
