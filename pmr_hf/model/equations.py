"""
The equations of Prototypical Modal Rebalance (PMR), one small pure function each: tensors in, tensors out.

Fan, Xu, Wang, Wang, Guo, "PMR: Prototypical Modal Rebalance for Multimodal Learning", CVPR 2023 (arXiv 2211.07089).
Everything is computed in fp32, whatever the inputs and under any autocast, without a host synchronisation.
"""

import torch
from torch.autograd.function import once_differentiable
from torch.linalg import vector_norm


MIN_DISTANCE = 1e-6


def prototype_logits(
    embeddings: torch.Tensor, prototypes: torch.Tensor, seen: torch.Tensor | None = None
) -> torch.Tensor:
    """
    Logits of the prototype classifier, the negative Euclidean distance to each class prototype (Eq. 7).

    The square is expanded around the prototypes' mean, which costs one matrix product and keeps its digits for
    embeddings far from the origin. The nearest prototype's distance is then taken once more without expanding, because
    cancellation leaves no digit of a small one. Distances are floored at 1e-6, where the gradient is zero. They can be
    differentiated once.

    Args:
        embeddings (`torch.Tensor`): (B, D), or (M, B, D) of M modalities at once, of any floating dtype.
        prototypes (`torch.Tensor`): (K, D) or (M, K, D), class means; no gradient flows into them.
        seen (`torch.Tensor`, *optional*): (K,) or (M, K) bool, the classes that have a prototype; all by default.

    Returns:
        `torch.Tensor`: (B, K) or (M, B, K) fp32, at most -1e-6. An unseen class has the lowest finite logit.
    """
    if seen is None:
        seen = torch.ones(prototypes.shape[:-1], dtype=torch.bool, device=prototypes.device)
    if embeddings.dim() == 2:
        return prototype_logits(embeddings[None], prototypes[None], seen[None]).squeeze(0)
    with torch.autocast(embeddings.device.type, enabled=False):
        return _NegativeDistances.apply(embeddings.float(), prototypes.detach().float(), seen.bool())


class _NegativeDistances(torch.autograd.Function):
    # With the gradient of -d_k, (c_k - z) / d_k, written out: autograd keeps and runs three times as many operations,
    # which cost more than the matrix products where there are few classes.

    @staticmethod
    def forward(ctx, embeddings: torch.Tensor, prototypes: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        modalities, classes, width = prototypes.shape
        unseen = ~seen[:, None]  # (M, 1, K)
        prototypes = prototypes.masked_fill(unseen.mT, 0)
        center = prototypes.sum(1, keepdim=True) / seen.sum(1).clamp(min=1)[:, None, None]  # (M, 1, D)
        embeddings, prototypes = embeddings - center, prototypes.sub_(center)

        squared = torch.bmm(embeddings, prototypes.mT).mul_(-2)  # (M, B, K)
        # A norm takes no copy of the prototypes, as a sum of squares would.
        squared.add_(vector_norm(prototypes, dim=2).square_()[:, None])
        squared.add_(vector_norm(embeddings, dim=2, keepdim=True).square_())
        nearest = squared.masked_fill_(unseen, torch.inf).argmin(2, keepdim=True)  # (M, B, 1)
        rows = nearest + classes * torch.arange(modalities, device=nearest.device)[:, None, None]
        offsets = embeddings - prototypes.view(-1, width).index_select(0, rows.flatten()).view_as(embeddings)
        squared.scatter_(2, nearest, offsets.square().sum(2, keepdim=True))
        logits = squared.clamp_(min=MIN_DISTANCE**2).sqrt_().neg_()
        logits.masked_fill_(unseen, torch.finfo(logits.dtype).min)
        ctx.save_for_backward(embeddings, prototypes, nearest, offsets, logits)
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        embeddings, prototypes, nearest, offsets, logits = ctx.saved_tensors
        weights = (gradient / logits).masked_fill_(logits >= -MIN_DISTANCE, 0)  # (M, B, K)
        near = weights.gather(2, nearest)
        weights.scatter_(2, nearest, 0)
        gradient = embeddings * weights.sum(2, keepdim=True) - torch.bmm(weights, prototypes)
        return gradient.add_(offsets * near), None, None


def cross_entropies(log_probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """-log p_i(y_i) of each sample, in nats: log-probabilities (..., B, K) and labels (B,) to (..., B)."""
    classes = labels.expand(log_probabilities.shape[:-1])[..., None]
    return -log_probabilities.gather(-1, classes).squeeze(-1)


def entropies(log_probabilities: torch.Tensor) -> torch.Tensor:
    """Entropy H(p_i) of each sample, in [0, log K] nats: log-probabilities (..., B, K) to (..., B)."""
    return -(log_probabilities.exp() * log_probabilities).sum(-1)


def true_class_probability(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Probability of each sample's own class, p_i(y_i) of Eq. 8: (..., B, K) and (B,) to (..., B) in [0, 1]."""
    return (-cross_entropies(logits.float().log_softmax(-1), labels)).exp()


def masked_mean(values: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Mean over B of the values (..., B) that the bool mask (..., B) keeps; 0 where it keeps none."""
    if mask is None:
        return values.mean(-1)
    return torch.where(mask, values, 0).sum(-1) / mask.sum(-1).clamp(min=1)


def prototypical_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Prototypical cross entropy, PCE (Eq. 9): the mean over the samples in `mask` of -log p_i(y_i), in nats."""
    return masked_mean(cross_entropies(logits.float().log_softmax(-1), labels), mask)


def prototypical_entropy(logits: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Entropy H(p) of the prototype classifier (Eq. 13): mean over the samples in `mask`, in [0, log K] nats."""
    return masked_mean(entropies(logits.float().log_softmax(-1)), mask)


def rebalance_weights(scores: torch.Tensor, present: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Coefficients of the PCE and of the entropy terms (Eq. 11 and its form for M modalities).

    With s^m the mean true-class probability of modality m, PCE weighs a^m = clip(max_l s^l / s^m - 1, 0, 1), so that
    the slow modalities are accelerated, and the entropy e^m = clip(s^m / min_l s^l - 1, 0, 1), so that the dominant
    ones are held back. For two modalities these are the beta and gamma of Eqs. 10, 11 and 13.

    Args:
        scores (`torch.Tensor`): (M,), s^m.
        present (`torch.Tensor`, *optional*): (M,) bool. An absent modality weighs 0 and is compared with no other.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: PCE weights (M,) and entropy weights (M,), in [0, 1] and without gradient.
    """
    scores = _positive(scores)
    present = torch.ones_like(scores, dtype=torch.bool) if present is None else present.bool()
    highest = torch.where(present, scores, 0).max()
    lowest = torch.where(present, scores, torch.inf).min()
    pce_weights = (highest / scores - 1).clamp(0, 1)
    per_weights = (scores / lowest - 1).clamp(0, 1)
    return torch.where(present, pce_weights, 0), torch.where(present, per_weights, 0)


def imbalance_ratio(scores: torch.Tensor) -> torch.Tensor:
    """Each modality's score over the least, rho^m = s^m / min_l s^l (Eq. 8 for M modalities): (M,) to (M,), >= 1."""
    scores = _positive(scores)
    return scores / scores.min()


def _positive(scores: torch.Tensor) -> torch.Tensor:
    # A probability can underflow to 0; two such modalities are level, and 0 / 0 must not be NaN.
    return scores.detach().float().clamp(min=torch.finfo(torch.float32).tiny)
