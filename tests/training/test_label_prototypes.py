"""Prototypes of several labels: against the oracle, and against one label where both are the same."""

import math

import pytest
import torch
from helpers import label_oracle, oracle

from pmr_hf import PMRTrainer
from pmr_hf.equations import rebalance_weights
from pmr_hf.model.label_prototypes import LabelPrototypes
from pmr_hf.model.prototypes import Prototypes
from pmr_hf.training.prototype_terms import balanced_label_weights, sample_values


WIDTHS = {"image": 4, "text": 3}


def sample(labels, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(len(labels), width, generator=generator) for name, width in WIDTHS.items()}


def fitted(cls, embeddings, labels, num_labels, present=None):
    prototypes = cls(WIDTHS, num_labels)
    prototypes.momentum_update(prototypes.class_sums(embeddings, labels, present), 0.0)
    return prototypes


@pytest.mark.parametrize("case", ["all known", "a label that all have", "a label without a positive in one modality"])
def test_terms_are_those_of_the_oracle(case):
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 2, (12, 3), generator=generator).float()
    present = None
    if case == "a label that all have":
        labels[:, 1] = 1
    elif case != "all known":
        present = {"image": labels[:, 2] == 0, "text": torch.ones(12, dtype=torch.bool)}
    embeddings = sample(labels)
    prototypes = fitted(LabelPrototypes, embeddings, labels, 3, present)
    values = sample_values(prototypes, embeddings, labels)
    rows = {name: range(12) if present is None else present[name].nonzero()[:, 0].tolist() for name in WIDTHS}
    means = [
        [
            label_oracle.prototypes_of_label(embeddings[name][rows[name]].tolist(), labels[rows[name]].tolist(), k)
            for k in range(3)
        ]
        for name in WIDTHS
    ]
    expected = label_oracle.terms([embeddings[name].tolist() for name in WIDTHS], means, labels.tolist())
    for m, (pce, entropy, score) in enumerate(expected):
        assert values.pce[m].mean().item() == pytest.approx(pce, rel=1e-5)
        assert values.entropy[m].mean().item() == pytest.approx(entropy, rel=1e-5)
        assert values.scores[m].mean().item() == pytest.approx(score, rel=1e-5)
    weights = rebalance_weights(values.scores.mean(1))
    for found, by_hand in zip(weights, oracle.weights([score for _, _, score in expected]), strict=True):
        assert found.tolist() == pytest.approx(by_hand, rel=1e-4, abs=1e-5)


def test_samples_with_and_without_a_label_count_alike():
    labels = torch.tensor([[1, 0, 1], [0, 0, 1], [0, 1, 1], [0, 0, 1], [0, 0, 1], [0, 1, 1]]).float()
    weights = balanced_label_weights(labels)
    expected = torch.tensor([[6 / 10, 6 / 2], [6 / 8, 6 / 4], [1, 1]])  # all have the last label
    torch.testing.assert_close(weights, expected)
    embeddings = sample(labels)
    prototypes = fitted(LabelPrototypes, embeddings, labels, 3)
    values = sample_values(prototypes, embeddings, labels, weights)
    pairs, plain = prototypes.pairs(embeddings), sample_values(prototypes, embeddings, labels)
    for m in range(2):
        losses, scores = [], []
        for k in range(2):  # the last label has no prototype without it
            for value in (0, 1):
                found = [-pairs[m, i, k, value].item() for i in range(6) if labels[i, k] == value]
                losses.append(sum(found) / len(found))
                scores.append(sum(math.exp(-loss) for loss in found) / len(found))
        assert values.pce[m].mean().item() == pytest.approx(sum(losses) / 4, rel=1e-5)
        assert values.scores[m].mean().item() == pytest.approx(sum(scores) / 4, rel=1e-5)
    torch.testing.assert_close(values.entropy, plain.entropy)


def test_balanced_labels_in_a_trainer(make_trainer, make_model, make_args, digits, collator):
    names = ["zero", "big"]
    tags = [["zero"] * (label == 0) + ["big"] * (label > 1) for label in digits["label"]]
    rows = digits.remove_columns("label").add_column("label", tags)

    def make(rows, **kwargs):
        kinds = {"num_labels": 2, "problem_type": "multi_label_classification", "id2label": dict(enumerate(names))}
        args = make_args(num_train_epochs=1, balance_labels=True)
        return PMRTrainer(model=make_model(**(kinds | kwargs)), args=args, train_dataset=rows, data_collator=collator)

    trainer = make(rows)
    share = sum("zero" in labels for labels in tags) / len(tags)
    assert trainer.label_weights[0].tolist() == pytest.approx([0.5 / (1 - share), 0.5 / share])
    trainer.train()
    assert "image_pce_loss" in trainer.state.log_history[0]
    with pytest.raises(ValueError, match=r"Expected several labels per sample for `balance_labels`.*got single_label"):
        make(digits, num_labels=4, problem_type="single_label_classification", id2label=None)
    with pytest.raises(ValueError, match=r"labels are known before training.*got IterableDataset; leave it out"):
        PMRTrainer(
            model=trainer.model,
            args=make_args(balance_labels=True, prototype_source="online", max_steps=2),
            train_dataset=rows.to_iterable_dataset(),
            data_collator=collator,
        )


def test_two_exclusive_labels_are_two_classes():
    classes = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 1])
    labels = torch.nn.functional.one_hot(classes, 2).float()
    before, embeddings = sample(classes, seed=5), sample(classes)
    single, double = fitted(Prototypes, before, classes, 2), fitted(LabelPrototypes, before, labels, 2)
    one, two = sample_values(single, embeddings, classes), sample_values(double, embeddings, labels)
    for name, a, b in zip(one._fields, one, two, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6, msg=name)
    for a, b in zip(rebalance_weights(one.scores.mean(1)), rebalance_weights(two.scores.mean(1)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
    present = {"image": classes == 0, "text": classes >= 0}
    answers = single.answer(embeddings, present).exp(), double.answer(embeddings, present).sigmoid()
    torch.testing.assert_close(*answers, atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_two_classes():
    classes = torch.tensor([0, 1, 1, 0])
    labels, before = torch.nn.functional.one_hot(classes, 2).float(), sample(classes, seed=5)
    gradients = []
    for cls, given in ((Prototypes, classes), (LabelPrototypes, labels)):
        embeddings = {name: values.requires_grad_() for name, values in sample(classes).items()}
        values = sample_values(fitted(cls, before, given, 2), embeddings, given)
        (values.pce - 0.1 * values.entropy).sum().backward()
        gradients.append([embedding.grad for embedding in embeddings.values()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_a_label_without_two_prototypes_gets_no_answer():
    labels = torch.tensor([[1.0, 1], [1, 0]])
    embeddings = sample(labels)
    prototypes = fitted(LabelPrototypes, embeddings, labels, 2)
    assert prototypes.known().tolist() == [[False, True]] * 2
    for logits in [*prototypes(embeddings).values(), prototypes.answer(embeddings)]:
        assert (logits[:, 0] == 0).all() and (logits[0, 1] > 0) and (logits[1, 1] < 0)


def trained(make_model, make_args, digits, collator, cls, num_labels=2, problem_type=None, rows=None, **kwargs):
    """A model trained on whether a digit is 0 or not, as one class or as two exclusive labels."""
    odd = [int(label > 0) for label in digits["label"]]
    values = [[1 - i, i] for i in odd] if problem_type else odd
    data = digits.remove_columns("label").add_column("label", values)
    model = make_model(num_labels=num_labels, problem_type=problem_type, unimodal_heads=True)
    args = make_args(cls.args_class, num_train_epochs=1, **kwargs)
    trainer = cls(model=model, args=args, train_dataset=data, eval_dataset=data, data_collator=collator)
    trainer.train()
    return trainer


def test_pmr_trains_two_exclusive_labels_with_the_terms_of_two_classes(make_model, make_args, digits, collator):
    # Without a step, both models stay the same, since only their fused losses differ.
    settings = {"learning_rate": 0.0, "per_device_train_batch_size": 16}
    one = trained(make_model, make_args, digits, collator, PMRTrainer, **settings)
    accuracy = one.evaluate()["eval_image_prototype_accuracy"]
    several = "multi_label_classification"
    two = trained(make_model, make_args, digits, collator, PMRTrainer, problem_type=several, **settings)
    terms = [f"{name}_{term}" for name in WIDTHS for term in ("pce_loss", "entropy", "score", "pce_weight")]
    for a, b in zip(one.state.log_history[:4], two.state.log_history[:4], strict=True):
        for term in [*terms, "rho"]:
            assert a[term] == pytest.approx(b[term], abs=1e-5), term
    metrics = two.evaluate()
    assert {"eval_mAP", "eval_micro_f1", "eval_image_prototype_micro_f1", "eval_prototypes_micro_f1"} <= metrics.keys()
    assert metrics["eval_image_prototype_micro_f1"] == pytest.approx(accuracy)
