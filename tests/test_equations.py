"""The terms of PMR (Eqs. 8-13) and their weights: against the oracle and numbers worked by hand, at any magnitude."""

import math

import numpy as np
import pytest
import torch
from helpers import oracle
from helpers.mean_terms import masked_score, prototypical_cross_entropy, prototypical_entropy, true_class_probability
from helpers.oracle_inputs import as_lists
from helpers.strategies import DTYPES, EPS, EXTREME, MODERATE, cast, classifiers
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pmr_hf.equations import imbalance_ratio, masked_mean, rebalance_weights
from pmr_hf.model.distance import prototype_logits


SCORES = st.floats(0, 1, width=32) | st.sampled_from([0.0, 1e-45, 1e-38, 1e-15, 1.0])


def test_terms_equal_the_oracle(case):
    embeddings, prototypes, seen, labels = case
    logits, mask = prototype_logits(embeddings, prototypes, seen), seen[labels]
    lists = as_lists(*case)
    score = true_class_probability(logits, labels)[mask].mean()
    assert score.item() == pytest.approx(oracle.score(*lists), abs=1e-5)
    pce = prototypical_cross_entropy(logits, labels, mask)
    assert pce.item() == pytest.approx(oracle.cross_entropy(*lists), abs=1e-5)
    entropy = prototypical_entropy(logits, mask)
    assert entropy.item() == pytest.approx(oracle.entropy(*lists), abs=1e-5)


def test_terms_without_a_mask_equal_the_oracle(case):
    embeddings, prototypes, _, labels = case
    logits = prototype_logits(embeddings, prototypes)
    lists = embeddings.tolist(), prototypes.tolist(), labels.tolist()
    assert true_class_probability(logits, labels).mean().item() == pytest.approx(oracle.score(*lists), abs=1e-5)
    assert prototypical_cross_entropy(logits, labels).item() == pytest.approx(oracle.cross_entropy(*lists), abs=1e-5)
    assert prototypical_entropy(logits).item() == pytest.approx(oracle.entropy(*lists), abs=1e-5)


def test_a_classifier_worked_by_hand():
    # Distances 3 and 4 to the two prototypes: p = (1, e^-1) / (1 + e^-1).
    logits = prototype_logits(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    torch.testing.assert_close(logits, torch.tensor([[-3.0, -4.0]]))
    p = 1 / (1 + math.exp(-1))
    assert true_class_probability(logits, torch.tensor([0])).item() == pytest.approx(p)
    assert prototypical_cross_entropy(logits, torch.tensor([1])).item() == pytest.approx(-math.log(1 - p))
    assert prototypical_entropy(logits).item() == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p))


def test_no_class_seen_at_all():
    embeddings, labels = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 1, 1, 0])
    seen = torch.zeros(2, dtype=torch.bool)
    logits = prototype_logits(embeddings, torch.zeros(2, 3), seen)
    loss = prototypical_cross_entropy(logits, labels, seen[labels]) + prototypical_entropy(logits, seen[labels])
    loss.backward()
    assert loss.item() == 0 and embeddings.grad.abs().max() == 0


@pytest.mark.parametrize(
    ("scores", "pce_weights", "per_weights"),
    [
        # rho = 0.8: beta = 1/0.8 - 1 = 0.25 accelerates modality 0; modality 1's entropy is raised with the same 0.25
        ([0.4, 0.5], [0.25, 0.0], [0.0, 0.25]),
        # rho = 1.25: gamma = 0.25
        ([0.5, 0.4], [0.0, 0.25], [0.25, 0.0]),
        ([0.3, 0.3], [0.0, 0.0], [0.0, 0.0]),
        # the clip: rho = 2 exactly, then above it, then 1/3
        ([0.8, 0.4], [0.0, 1.0], [1.0, 0.0]),
        ([0.9, 0.3], [0.0, 1.0], [1.0, 0.0]),
        ([0.3, 0.9], [1.0, 0.0], [0.0, 1.0]),
        # three modalities: the middle one is accelerated and held back at once
        ([0.6, 0.5, 0.4], [0.0, 0.2, 0.5], [0.5, 0.25, 0.0]),
    ],
)
def test_weights_worked_by_hand(scores, pce_weights, per_weights):
    pce, per = rebalance_weights(torch.tensor(scores))
    torch.testing.assert_close(pce, torch.tensor(pce_weights))
    torch.testing.assert_close(per, torch.tensor(per_weights))


def test_weights_equal_eq_11_as_printed_and_the_oracle_for_three():
    for i in range(1, 20):
        for j in range(1, 20):
            pce, per = rebalance_weights(torch.tensor([i / 20, j / 20]))
            expected = oracle.two_modality_weights(i / 20, j / 20)
            assert pce.tolist() == pytest.approx(expected[0], abs=1e-5)
            assert per.tolist() == pytest.approx(expected[1], abs=1e-5)
            pce, per = rebalance_weights(torch.tensor([i / 20, 0.37, j / 20]))
            expected = oracle.weights([i / 20, 0.37, j / 20])
            assert pce.tolist() == pytest.approx(expected[0], abs=1e-5)
            assert per.tolist() == pytest.approx(expected[1], abs=1e-5)


def test_weights_of_absent_modalities_and_of_zero_scores():
    pce, per = rebalance_weights(torch.tensor([0.4, 0.0, 0.5]), torch.tensor([True, False, True]))
    torch.testing.assert_close(pce, torch.tensor([0.25, 0, 0]))
    torch.testing.assert_close(per, torch.tensor([0, 0, 0.25]))
    for present in (None, torch.tensor([False, False])):
        pce, per = rebalance_weights(torch.zeros(2), present)
        assert pce.tolist() == per.tolist() == [0, 0]
    scores = torch.tensor([0.2, 0.4], requires_grad=True)
    assert not any(weights.requires_grad for weights in rebalance_weights(scores))


def test_imbalance_ratio():
    torch.testing.assert_close(imbalance_ratio(torch.tensor([0.6, 0.2, 0.3])), torch.tensor([3.0, 1.0, 1.5]))
    assert imbalance_ratio(torch.zeros(2)).tolist() == [1, 1]


def test_no_host_synchronisation_and_nothing_of_samples_by_classes_by_width():
    """No operation of the terms reads a scalar or makes a tensor that grows with B x K x D."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            assert "_local_scalar_dense" not in str(function), f"{function} reads the device"
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                assert result.numel() < 8 * 3 * 4, f"{function} made {tuple(result.shape)}"
            return result

    embeddings, labels = torch.randn(8, 4, requires_grad=True), torch.randint(0, 3, (8,))
    prototypes, seen = torch.randn(3, 4), torch.tensor([True, True, False])
    with Watch():
        logits = prototype_logits(embeddings, prototypes, seen)
        mask = seen[labels]
        scores = torch.stack([true_class_probability(logits, labels).mean(), logits.softmax(1).mean()])
        pce_weights, per_weights = rebalance_weights(scores, torch.stack([mask.any(), mask.any()]))
        imbalance_ratio(scores)
        loss = pce_weights[0] * prototypical_cross_entropy(logits, labels, mask)
        (loss - per_weights[0] * prototypical_entropy(logits, mask)).backward()


@given(classifiers(MODERATE), DTYPES)
def test_terms_of_any_classifier_equal_the_oracle(case, dtype):
    embeddings, prototypes, seen, labels = case
    mask = seen[labels]
    assume(mask.any())
    embeddings, prototypes = cast(embeddings, dtype), cast(prototypes, dtype)
    logits = prototype_logits(embeddings, prototypes, seen)
    lists = as_lists(embeddings, prototypes, seen, labels)
    score = masked_score(logits, labels, mask)
    # Of two prototypes at one place, one gets the exact distance, and the other loses digits: 1e-3 at a distance of 30.
    assert score == pytest.approx(oracle.score(*lists), abs=2e-3)
    assert prototypical_cross_entropy(logits, labels, mask) == pytest.approx(oracle.cross_entropy(*lists), abs=5e-3)
    assert prototypical_entropy(logits, mask) == pytest.approx(oracle.entropy(*lists), abs=5e-3)


@given(classifiers(), st.integers(2, 3))
def test_a_batch_given_twice_has_the_same_terms(case, times):
    embeddings, prototypes, seen, labels = case
    found = []
    for count in (1, times):
        y = labels.repeat(count)
        logits = prototype_logits(embeddings.repeat(count, 1), prototypes, seen)
        terms = (term(logits, y, seen[y]) for term in (masked_score, prototypical_cross_entropy))
        found.append([*terms, prototypical_entropy(logits, seen[y])])
    torch.testing.assert_close(found[1], found[0])


@given(st.lists(st.tuples(SCORES, st.booleans()), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_weights_of_any_scores_are_in_range_and_equal_the_oracle(modalities, random):
    scores, present = (torch.tensor(column) for column in zip(*modalities, strict=True))
    pce, per = rebalance_weights(scores, present)
    for weights in (pce, per):
        assert weights.shape == scores.shape and ((weights >= 0) & (weights <= 1)).all()
        assert not weights[~present].any()
    floored = scores.double().clamp(min=torch.finfo(torch.float32).tiny)[present].tolist()
    if floored:
        expected = oracle.weights(floored)
        assert pce[present].tolist() == pytest.approx(expected[0], abs=1e-6)
        assert per[present].tolist() == pytest.approx(expected[1], abs=1e-6)
        assert pce[present][scores[present].argmax()] == 0  # the dominant one is not accelerated
        assert per[present][scores[present].argmin()] == 0  # and the slow one is not held back
    order = list(range(len(scores)))
    random.shuffle(order)
    shuffled = rebalance_weights(scores[order], present[order])
    assert torch.equal(shuffled[0], pce[order]) and torch.equal(shuffled[1], per[order])
    # The score of an absent modality changes no other weight.
    other = rebalance_weights(torch.where(present, scores, 0.5), present)
    assert torch.equal(other[0], pce) and torch.equal(other[1], per)


@given(st.lists(SCORES, min_size=1, max_size=5))
def test_ratios_are_finite_and_at_least_1(scores):
    ratios = imbalance_ratio(torch.tensor(scores))
    assert ratios.isfinite().all() and ratios.min() == 1
    assert ratios[torch.tensor(scores).argmax()] == ratios.max()


@given(arrays(np.float64, 4, elements=EXTREME), st.lists(st.booleans(), min_size=4, max_size=4))
def test_a_masked_mean_lies_between_what_it_keeps_and_reads_nothing_else(values, mask):
    values, mask = torch.tensor(values, dtype=torch.float32), torch.tensor(mask)
    mean = masked_mean(torch.where(mask, values, torch.nan), mask)
    if not mask.any():
        assert mean == 0
    else:
        slack = 4 * EPS * values[mask].abs().max()
        assert values[mask].min() - slack <= mean <= values[mask].max() + slack
