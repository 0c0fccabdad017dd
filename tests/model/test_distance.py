"""Prototype logits (the negative distances of Eq. 7) and their gradients: against the oracle, and at any magnitude."""

import math

import pytest
import torch
from helpers import oracle
from helpers.mean_terms import masked_score, prototypical_cross_entropy, prototypical_entropy, true_class_probability
from helpers.oracle_inputs import as_lists
from helpers.strategies import DTYPES, EPS, MODERATE, cast, classifiers
from hypothesis import assume, given
from hypothesis import strategies as st

from pmr_hf.model.distance import prototype_logits


@given(classifiers(), DTYPES)
def test_terms_and_gradients_are_finite_and_in_range_at_any_magnitude(case, dtype):
    embeddings, prototypes, seen, labels = case
    embeddings, prototypes = cast(embeddings, dtype).requires_grad_(), cast(prototypes, dtype)
    logits, mask = prototype_logits(embeddings, prototypes, seen), seen[labels]
    assert logits.dtype == torch.float32 and logits.shape == (len(labels), len(seen))
    assert logits.isfinite().all() and (logits <= -1e-6).all()
    scores = true_class_probability(logits, labels)
    assert ((scores >= 0) & (scores <= 1)).all()
    torch.testing.assert_close(logits.softmax(1).sum(1), torch.ones(len(labels)))
    pce, entropy = prototypical_cross_entropy(logits, labels, mask), prototypical_entropy(logits, mask)
    assert pce.isfinite() and pce >= 0
    assert 0 <= entropy <= math.log(max(seen.sum(), 1)) + 1e-6
    (gradient,) = torch.autograd.grad(pce - entropy + scores.sum(), embeddings)
    assert gradient.dtype == dtype and gradient.isfinite().all()


@given(classifiers(), DTYPES)
def test_distances_equal_the_oracle_as_far_as_fp32_has_digits(case, dtype):
    """The expanded square loses the digits that are small beside its largest term."""
    embeddings, prototypes, seen, _ = case
    assume(seen.any())
    embeddings, prototypes = cast(embeddings, dtype).float(), cast(prototypes, dtype).float()
    logits = prototype_logits(embeddings, prototypes, seen).double()
    center = prototypes[seen].double().mean(0)
    reach = (prototypes[seen].double() - center).norm(dim=1).max()
    for z, row in zip(embeddings.double(), logits, strict=True):
        lost = 8 * EPS * ((z - center).norm() + reach).item() ** 2
        for c, logit in zip(prototypes[seen].double(), row[seen], strict=True):
            distance = oracle.distance(z.tolist(), c.tolist())
            assert -logit == pytest.approx(distance, rel=1e-6, abs=min(math.sqrt(lost), lost / distance))


@given(classifiers(MODERATE), st.randoms(use_true_random=False), st.integers(-1000, 1000))
def test_neither_the_order_nor_the_origin_matters(case, random, shift):
    embeddings, prototypes, seen, labels = case
    samples, classes = list(range(len(labels))), list(range(len(seen)))
    random.shuffle(samples)
    random.shuffle(classes)
    before = prototype_logits(embeddings, prototypes, seen)
    after = prototype_logits(embeddings[samples] + shift, prototypes[classes] + shift, seen[classes])
    torch.testing.assert_close(after, before[samples][:, classes], atol=2e-2, rtol=1e-5)
    moved = torch.tensor(classes).argsort()[labels[samples]]
    for term in (masked_score, prototypical_cross_entropy):
        expected = term(before, labels, seen[labels])
        torch.testing.assert_close(term(after, moved, seen[labels][samples]), expected, atol=2e-2, rtol=1e-5)


def test_prototype_logits_equal_the_oracle(case):
    embeddings, prototypes, seen, _ = case
    logits = prototype_logits(embeddings, prototypes, seen)
    assert logits.dtype == torch.float32 and logits.shape == (12, 5)
    expected = torch.tensor([oracle.probabilities(z, as_lists(*case)[1]) for z in embeddings.tolist()])
    torch.testing.assert_close(logits.softmax(1), expected, atol=1e-5, rtol=1e-5)
    distances = torch.tensor([[oracle.distance(z, c) for c in prototypes.tolist()] for z in embeddings.tolist()])
    torch.testing.assert_close(-logits[:, seen], distances[:, seen], atol=1e-5, rtol=1e-5)


def test_gradients_equal_those_of_the_exact_distance(case):
    embeddings, prototypes, seen, labels = case
    ours = embeddings.float().requires_grad_()
    logits = prototype_logits(ours, prototypes, seen)
    (prototypical_cross_entropy(logits, labels, seen[labels]) - prototypical_entropy(logits, seen[labels])).backward()
    exact = embeddings.float().requires_grad_()
    logits = -(exact[:, None] - prototypes[seen][None]).norm(dim=2)
    renumbered = torch.cumsum(seen.long(), 0) - 1
    mask = seen[labels]
    log_p = logits[mask].log_softmax(1)
    pce = -log_p[torch.arange(int(mask.sum())), renumbered[labels[mask]]].mean()
    (pce + (log_p.exp() * log_p).sum(1).mean()).backward()
    torch.testing.assert_close(ours.grad, exact.grad, atol=1e-5, rtol=1e-4)


def test_an_embedding_equal_to_a_prototype():
    prototypes = 20 * torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    embeddings = prototypes[[1, 1, 2]].clone().requires_grad_()
    logits = prototype_logits(embeddings, prototypes)
    torch.testing.assert_close(logits[[0, 1, 2], [1, 1, 2]], torch.full((3,), -1e-6))
    loss = prototypical_cross_entropy(logits, torch.tensor([1, 0, 3])) - prototypical_entropy(logits)
    loss.backward()
    assert embeddings.grad.isfinite().all()
    assert embeddings.grad[1].norm() > 0  # towards its own class, from the place of another class's prototype


@pytest.mark.parametrize("offset", [0.0, 100.0, 1e4])
def test_accuracy_far_from_the_origin(offset):
    generator = torch.Generator().manual_seed(2)
    embeddings = (torch.randn(64, 512, generator=generator) + offset).float()
    prototypes = (torch.randn(30, 512, generator=generator) + offset).float()
    seen = torch.arange(30) != 7
    prototypes[7] = 0  # an unseen class must not pull the center
    exact = -(embeddings.double()[:, None] - prototypes.double()[None]).norm(dim=2)
    torch.testing.assert_close(
        prototype_logits(embeddings, prototypes, seen)[:, seen].double(), exact[:, seen], atol=1e-4, rtol=0
    )


def test_distances_stay_fp32_under_autocast():
    generator = torch.Generator().manual_seed(3)
    embeddings, prototypes = torch.randn(8, 32, generator=generator), torch.randn(4, 32, generator=generator)
    expected = prototype_logits(embeddings, prototypes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(prototype_logits(embeddings, prototypes), expected)


def test_an_unseen_class_never_wins_and_gives_no_nan():
    embeddings = torch.zeros(2, 3, requires_grad=True)  # the zero row of the unseen class is the nearest
    prototypes = torch.tensor([[9.0, 9, 9], [0, 0, 0], [8, 8, 8]])
    for seen in ([True, False, True], [False, False, True]):
        logits = prototype_logits(embeddings, prototypes, torch.tensor(seen))
        assert logits.isfinite().all() and not (logits.argmax(1) == 1).any()
        assert logits.softmax(1)[:, 1].tolist() == [0, 0]
        entropy, pce = prototypical_entropy(logits), prototypical_cross_entropy(logits, torch.tensor([2, 2]))
        (gradient,) = torch.autograd.grad(entropy + pce, embeddings)
        assert entropy.isfinite() and pce.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_extreme_magnitudes_stay_finite(scale):
    generator = torch.Generator().manual_seed(4)
    embeddings = (scale * torch.randn(6, 16, generator=generator)).requires_grad_()
    prototypes = scale * torch.randn(3, 16, generator=generator)
    logits = prototype_logits(embeddings, prototypes)
    loss = prototypical_cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1, 2])) - prototypical_entropy(logits)
    loss.backward()
    assert loss.isfinite() and embeddings.grad.isfinite().all()
