import math

import pytest
import torch
from helpers import oracle
from helpers.mean_terms import prototypical_cross_entropy, prototypical_entropy, true_class_probability

from pmr_hf.model.distance import prototype_logits
from pmr_hf.model.equations import imbalance_ratio, rebalance_weights


BATCH, CLASSES, WIDTH = 12, 5, 7
UNSEEN = 3


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def case(request):
    """Embeddings, prototypes, a mask with one class never seen, and labels that name that class too."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(BATCH, WIDTH, generator=generator).to(request.param)
    prototypes = torch.randn(CLASSES, WIDTH, generator=generator)
    prototypes[UNSEEN] = 0
    seen = torch.ones(CLASSES, dtype=torch.bool)
    seen[UNSEEN] = False
    labels = torch.arange(BATCH) % CLASSES
    return embeddings, prototypes, seen, labels


def as_lists(embeddings, prototypes, seen, labels):
    rows = [row if ok else None for row, ok in zip(prototypes.tolist(), seen.tolist(), strict=True)]
    return embeddings.tolist(), rows, labels.tolist()


def test_prototype_logits_equal_the_oracle(case):
    embeddings, prototypes, seen, _ = case
    logits = prototype_logits(embeddings, prototypes, seen)
    assert logits.dtype == torch.float32 and logits.shape == (BATCH, CLASSES)
    expected = torch.tensor([oracle.probabilities(z, as_lists(*case)[1]) for z in embeddings.tolist()])
    torch.testing.assert_close(logits.softmax(1), expected, atol=1e-5, rtol=1e-5)
    distances = torch.tensor([[oracle.distance(z, c) for c in prototypes.tolist()] for z in embeddings.tolist()])
    torch.testing.assert_close(-logits[:, seen], distances[:, seen], atol=1e-5, rtol=1e-5)


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


def test_a_hand_worked_classifier():
    # Distances 3 and 4 to the two prototypes: p = (1, e^-1) / (1 + e^-1).
    logits = prototype_logits(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    torch.testing.assert_close(logits, torch.tensor([[-3.0, -4.0]]))
    p = 1 / (1 + math.exp(-1))
    assert true_class_probability(logits, torch.tensor([0])).item() == pytest.approx(p)
    assert prototypical_cross_entropy(logits, torch.tensor([1])).item() == pytest.approx(-math.log(1 - p))
    assert prototypical_entropy(logits).item() == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p))


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
    assert embeddings.grad[1].norm() > 0  # towards its own class, though it sits on another's prototype


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
    embeddings = torch.zeros(2, 3, requires_grad=True)  # the unseen class's zero row is the nearest of all
    prototypes = torch.tensor([[9.0, 9, 9], [0, 0, 0], [8, 8, 8]])
    for seen in ([True, False, True], [False, False, True]):
        logits = prototype_logits(embeddings, prototypes, torch.tensor(seen))
        assert logits.isfinite().all() and not (logits.argmax(1) == 1).any()
        assert logits.softmax(1)[:, 1].tolist() == [0, 0]
        entropy, pce = prototypical_entropy(logits), prototypical_cross_entropy(logits, torch.tensor([2, 2]))
        (gradient,) = torch.autograd.grad(entropy + pce, embeddings)
        assert entropy.isfinite() and pce.isfinite() and gradient.isfinite().all()


def test_no_class_seen_at_all():
    embeddings, labels = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 1, 1, 0])
    seen = torch.zeros(2, dtype=torch.bool)
    logits = prototype_logits(embeddings, torch.zeros(2, 3), seen)
    loss = prototypical_cross_entropy(logits, labels, seen[labels]) + prototypical_entropy(logits, seen[labels])
    loss.backward()
    assert loss.item() == 0 and embeddings.grad.abs().max() == 0


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_extreme_magnitudes_stay_finite(scale):
    generator = torch.Generator().manual_seed(4)
    embeddings = (scale * torch.randn(6, 16, generator=generator)).requires_grad_()
    prototypes = scale * torch.randn(3, 16, generator=generator)
    logits = prototype_logits(embeddings, prototypes)
    loss = prototypical_cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1, 2])) - prototypical_entropy(logits)
    loss.backward()
    assert loss.isfinite() and embeddings.grad.isfinite().all()


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
def test_hand_worked_weights(scores, pce_weights, per_weights):
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
    """Every operation of the terms, watched: no scalar is read, and nothing grows with B x K x D."""
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
