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
from torch.utils.flop_counter import FlopCounterMode

from pmr_hf.model.distance import prototype_logits


WIDTH = 16
EXPONENTS = st.integers(-3, 36)


@pytest.fixture(scope="module", params=["direct", "expanded"], autouse=True)
def distances(request):
    """Few distances are computed one by one, and many from an expanded square. Here each test runs with both."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pmr_hf.model.distance.DIRECT", {"direct": 2**62, "expanded": 0}[request.param])
        yield request.param


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def check_logits(embeddings, prototypes, seen=None, tolerance=2e-6):
    """Compare distances, classes and gradients with those in fp64, from differences."""
    seen = torch.ones(len(prototypes), dtype=torch.bool) if seen is None else seen
    embeddings = embeddings.detach().requires_grad_()
    logits = prototype_logits(embeddings, prototypes, seen)
    weights = normal(*logits.shape, seed=9) * seen
    (gradient,) = torch.autograd.grad(logits, embeddings, weights)
    exact = embeddings.detach().double().requires_grad_()
    expected = -torch.linalg.vector_norm(exact[:, None] - prototypes[seen].double(), dim=2).clamp(min=1e-6)
    (right,) = torch.autograd.grad(expected, exact, weights[:, seen].double())
    torch.testing.assert_close(logits[:, seen].double(), expected.detach(), rtol=tolerance, atol=0)
    assert ((gradient - right).norm(dim=1) <= 10 * tolerance * right.norm(dim=1)).all()
    probabilities = logits.log_softmax(1)
    assert probabilities.isfinite().all() and not probabilities.exp()[:, ~seen].any()


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


@pytest.mark.parametrize("classes", [2, 3, 5, 10, 100])
@pytest.mark.parametrize("spread", [1e3, 1e4, 1e5, 1e8, 1e19, 1e30, 1e36])
def test_one_prototype_far_from_the_others(classes, spread):
    prototypes = normal(classes, WIDTH)
    prototypes[-1] *= spread
    near_the_far_one = prototypes[-1:] + spread * 1e-3 * normal(2, WIDTH, seed=1)
    check_logits(torch.cat([normal(8, WIDTH, seed=2), near_the_far_one]), prototypes)


@pytest.mark.parametrize(("classes", "far"), [(5, 2), (5, 3), (10, 4), (10, 5), (30, 10), (100, 30)])
@pytest.mark.parametrize("spread", [1e3, 1e6, 1e20])
def test_several_far_prototypes_in_several_directions(classes, far, spread):
    prototypes = normal(classes, WIDTH)
    prototypes[torch.randperm(classes, generator=torch.Generator().manual_seed(3))[:far]] *= spread
    check_logits(torch.cat([normal(8, WIDTH, seed=4), prototypes + 0.1 * normal(classes, WIDTH, seed=5)]), prototypes)


@pytest.mark.parametrize("number", [2, 3, 4])
@pytest.mark.parametrize("apart", [0.0, 1e-4, 1e-2])
def test_prototypes_close_together_at_a_large_radius(number, apart):
    """Two prototypes 1e-4 apart at radius 240 had distances of 0.0625."""
    prototypes = normal(12, WIDTH)
    prototypes[:number] = 240 * prototypes[0] / prototypes[0].norm()
    prototypes[:number] += apart * normal(number, WIDTH, seed=6)
    check_logits(prototypes[:1] + 1e-3 * normal(6, WIDTH, seed=7), prototypes)


@pytest.mark.parametrize("magnitude", [1e3, 1e8, 1e19, 1e30, 1e36])
def test_far_embeddings_beside_near_ones(magnitude):
    embeddings = torch.cat([normal(4, WIDTH, seed=1) * magnitude, normal(4, WIDTH, seed=2)])
    check_logits(embeddings, normal(10, WIDTH))
    check_logits(embeddings[:4], normal(10, WIDTH) * magnitude)


@given(st.lists(EXPONENTS, min_size=1, max_size=9), st.lists(EXPONENTS, min_size=1, max_size=4), st.integers(0, 2**20))
def test_each_prototype_and_each_embedding_of_any_magnitude(exponents, others, seed):
    prototypes = normal(len(exponents), WIDTH, seed=seed) * 10.0 ** torch.tensor(exponents)[:, None]
    embeddings = normal(len(others), WIDTH, seed=seed + 1) * 10.0 ** torch.tensor(others)[:, None]
    beside = prototypes * (1 + 1e-3 * normal(*prototypes.shape, seed=seed + 2))
    check_logits(torch.cat([embeddings, beside]), prototypes, tolerance=1e-5)


@given(st.lists(st.booleans(), min_size=1, max_size=14), st.floats(0, 30), st.sampled_from([0.0, math.nan, math.inf]))
def test_rows_of_unseen_classes_change_nothing_whatever_they_hold(seen, exponent, garbage):
    seen = torch.tensor(seen)
    prototypes = torch.where(seen[:, None], normal(len(seen), WIDTH) * 10.0**exponent, garbage)
    embeddings = (normal(3, WIDTH, seed=1) * 10.0**exponent).requires_grad_()
    if seen.any():
        check_logits(embeddings, prototypes, seen)
    logits = prototype_logits(embeddings, prototypes, seen)
    assert torch.equal(logits[:, ~seen], torch.full_like(logits[:, ~seen], torch.finfo(torch.float32).min))
    if seen.any():
        (gradient,) = torch.autograd.grad(logits[:, seen].sum(), embeddings)
        assert gradient.isfinite().all()


def test_many_distances_cost_one_matrix_product_each_way(distances):
    embeddings, prototypes = normal(2, 8, WIDTH).requires_grad_(), normal(2, 40, WIDTH)
    with FlopCounterMode(display=False) as counter:
        prototype_logits(embeddings, prototypes).sum().backward()
    products = {"direct": 1, "expanded": 2}[distances]  # one by one, only the gradient is a product
    assert counter.get_total_flops() == products * (2 * 2 * 8 * 40 * WIDTH)


def test_which_distances_are_computed_one_by_one(monkeypatch):
    """With `DIRECT` multiplications, and not with one more."""
    embeddings, prototypes = normal(2, 8, WIDTH), normal(2, 40, WIDTH)
    flops = []
    for most in (2 * 8 * 40 * WIDTH, 2 * 8 * 40 * WIDTH - 1):
        monkeypatch.setattr("pmr_hf.model.distance.DIRECT", most)
        with FlopCounterMode(display=False) as counter:
            prototype_logits(embeddings, prototypes)
        flops.append(counter.get_total_flops())
    assert flops == [0, 2 * 2 * 8 * 40 * WIDTH]
