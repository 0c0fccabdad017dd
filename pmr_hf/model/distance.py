"""
Distances to class prototypes, which are the logits of the prototype classifier (Eq. 7 of PMR), and their gradient.

All computations are in fp32, for inputs of any dtype and under any autocast, and need no host synchronisation.
"""

import torch
from torch.autograd.function import once_differentiable
from torch.linalg import vector_norm


MIN_DISTANCE = 1e-6


def prototype_logits(
    embeddings: torch.Tensor, prototypes: torch.Tensor, seen: torch.Tensor | None = None
) -> torch.Tensor:
    """
    The logits of the prototype classifier: the negative Euclidean distance to each class prototype (Eq. 7).

    The squared distance is expanded around the mean of the prototypes. This costs one matrix product, and stays
    accurate for embeddings far from the origin. The distance to the nearest prototype is then computed again without
    expansion, because cancellation would lose all digits of a small distance. Distances are floored at 1e-6, where the
    gradient is zero. They can be differentiated once.

    Args:
        embeddings (`torch.Tensor`): (B, D), or (M, B, D) for M modalities at once, of any floating dtype.
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
    # The gradient of -d_k is (c_k - z) / d_k, and is written out here. Autograd would run three times as many
    # operations, which cost more than the matrix products if there are few classes.

    @staticmethod
    def forward(ctx, embeddings: torch.Tensor, prototypes: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        modalities, classes, width = prototypes.shape
        unseen = ~seen[:, None]  # (M, 1, K)
        prototypes = prototypes.masked_fill(unseen.mT, 0)
        center = prototypes.sum(1, keepdim=True) / seen.sum(1).clamp(min=1)[:, None, None]  # (M, 1, D)
        embeddings, prototypes = embeddings - center, prototypes.sub_(center)

        squared = torch.bmm(embeddings, prototypes.mT).mul_(-2)  # (M, B, K)
        # A norm does not copy the prototypes, as a sum of squares would.
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
