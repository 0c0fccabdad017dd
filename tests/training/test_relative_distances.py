"""`relative_distances`: the terms by distances in units of those between the prototypes, against explicit loops."""

import math
from itertools import combinations

import pytest
import torch

from pmr_hf.model.label_prototypes import LabelPrototypes
from pmr_hf.model.prototypes import Prototypes
from pmr_hf.training.prototype_terms import sample_values


WIDTHS = {"image": 4, "text": 3}
LABELS = torch.tensor([0, 1, 2, 1, 2, 0, 2])


def sample(size=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: size * torch.randn(len(LABELS), width, generator=generator) for name, width in WIDTHS.items()}


def fitted(embeddings, present=None):
    prototypes = Prototypes(WIDTHS, 3)
    prototypes.momentum_update(prototypes.class_sums(embeddings, LABELS, present), 0.0)
    return prototypes


def terms_by_loops(vectors, means, labels):
    """PCE and entropy of each sample, by lists of fp64 numbers. `means` holds the classes that are known."""
    squares = [math.dist(a, b) ** 2 for a, b in combinations(means.values(), 2)]
    spread = math.sqrt(sum(squares) / len(squares))
    terms = []
    for vector, label in zip(vectors, labels, strict=True):
        weights = {k: math.exp(-10 * math.dist(vector, mean) / spread) for k, mean in means.items()}
        shares = {k: weight / sum(weights.values()) for k, weight in weights.items()}
        pce = -math.log(shares[label]) if label in shares else None
        terms.append((pce, -sum(share * math.log(share) for share in shares.values())))
    return terms


@pytest.mark.parametrize("known", [[0, 1, 2], [0, 2]])
def test_terms_are_those_of_loops(known):
    embeddings = sample()
    has = torch.isin(LABELS, torch.tensor(known))
    prototypes = fitted(sample(seed=1), {"image": has, "text": has})
    values = sample_values(prototypes, embeddings, LABELS, relative=True)
    for m, name in enumerate(WIDTHS):
        means = {k: prototypes.mean(name)[k].double().tolist() for k in known}
        expected = terms_by_loops(embeddings[name].double().tolist(), means, LABELS.tolist())
        assert values.known[m].tolist() == [pce is not None for pce, _ in expected]
        for i, (pce, entropy) in enumerate(expected):
            assert values.entropy[m, i].item() == pytest.approx(entropy, rel=1e-4, abs=1e-6)
            if pce is not None:
                assert values.pce[m, i].item() == pytest.approx(pce, rel=1e-4, abs=1e-6)
                assert values.scores[m, i].item() == pytest.approx(math.exp(-pce), rel=1e-4, abs=1e-6)


def test_the_size_of_the_embeddings_changes_nothing():
    small, large = (
        sample_values(fitted(sample(size, seed=1)), sample(size), LABELS, relative=True) for size in (1.0, 1000.0)
    )
    for name, a, b in zip(small._fields, small, large, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)
    plain = sample_values(fitted(sample(1000.0, seed=1)), sample(1000.0), LABELS)
    assert plain.pce.max() > 100 > 20 > large.pce.max()  # in nats


def test_the_gradient_is_that_of_the_plain_terms_in_these_units():
    embeddings = {name: values.requires_grad_() for name, values in sample().items()}
    prototypes = fitted(sample(seed=1))
    sample_values(prototypes, embeddings, LABELS, relative=True).pce.sum().backward()
    for (name, vectors), spread in zip(embeddings.items(), prototypes.spreads(), strict=True):
        scaled = (10 / spread * vectors.detach()).requires_grad_()
        means = 10 / spread * prototypes.mean(name)
        logits = -torch.linalg.vector_norm(scaled[:, None] - means, dim=-1)
        torch.nn.functional.cross_entropy(logits, LABELS, reduction="sum").backward()
        torch.testing.assert_close(vectors.grad, 10 / spread * scaled.grad, rtol=1e-4, atol=1e-5)


def test_two_exclusive_labels_are_two_classes():
    classes = torch.tensor([0, 1, 1, 0, 1, 0, 0])
    one, two = Prototypes(WIDTHS, 2), LabelPrototypes(WIDTHS, 2)
    labels = torch.nn.functional.one_hot(classes, 2).float()
    for prototypes, given in ((one, classes), (two, labels)):
        prototypes.momentum_update(prototypes.class_sums(sample(seed=1), given), 0.0)
    single = sample_values(one, sample(), classes, relative=True)
    double = sample_values(two, sample(), labels, relative=True)
    for name, a, b in zip(single._fields, single, double, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5, msg=name)


def test_a_label_without_a_prototype_stays_finite():
    labels = torch.tensor([[1.0, 1], [0, 1]])
    prototypes = LabelPrototypes({"text": 2}, 2)
    embeddings = {"text": torch.tensor([[0.0, 1], [2, 3]])}
    prototypes.momentum_update(prototypes.class_sums(embeddings, labels), 0.0)
    values = sample_values(prototypes, embeddings, labels, relative=True)
    assert all(part.isfinite().all() for part in values) and values.pce.max() < 1e-3


def test_the_argument_reaches_the_terms_of_a_trainer(make_trainer):
    losses = {}
    for relative in (False, True):
        trainer = make_trainer(relative_distances=relative, prototype_fraction=1.0)
        trainer.refresh_prototypes(0.0)
        batch = next(iter(trainer.get_train_dataloader()))
        embeddings = trainer.model(**batch).embeddings
        found = trainer.prototype_terms(embeddings, batch["labels"])
        expected = sample_values(trainer.prototypes, embeddings, batch["labels"], relative=relative)
        assert torch.equal(found.pce, expected.pce) and torch.equal(found.entropy, expected.entropy)
        losses[relative] = found.pce.mean().item()
    assert abs(losses[True] - losses[False]) > 0.01
    assert trainer.args.hyper_parameters["distances"] == "relative to those between prototypes"
