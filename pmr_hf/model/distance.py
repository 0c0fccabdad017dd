"""
Distances to class prototypes, which are the logits of the prototype classifier (Eq. 7 of PMR), and their gradient.

All results are in fp32, for inputs of any dtype and under any autocast, and nothing waits for the device.
"""

import torch
from torch.autograd.function import once_differentiable
from torch.linalg import vector_norm
from torch.nn.functional import embedding

from .exact_sums import WITHOUT_FP64


MIN_DISTANCE = 1e-6
# Up to this many multiplications, distances are computed directly in fp64, which takes the fewest operations
DIRECT = 2**20
# How many nearest prototypes have exact distances, and among how many prototypes the center is looked for
NEAREST, CANDIDATES = 4, 9


def prototype_logits(
    embeddings: torch.Tensor, prototypes: torch.Tensor, seen: torch.Tensor | None = None
) -> torch.Tensor:
    """
    The logits of the prototype classifier: the negative Euclidean distance to each class prototype (Eq. 7).

    Few distances are computed directly, in fp64. If there are many, if the device has no fp64, or if the model is
    exported or compiled, the squared distance is expanded around a prototype in the midst of the others. This costs one
    matrix product, and stays accurate far from the origin, and if some prototypes are far from the others. The
    distances to the four nearest prototypes are then computed again without expansion, because cancellation would lose
    all digits of a small distance. One error remains: if more than four prototypes are close together, and R times as
    far from the midst, their distances lose a factor R^2 of the 1e7 that fp32 resolves. Vectors above 1e16 are scaled,
    so that no square overflows. Distances are floored at 1e-6, where the gradient is zero. They can be differentiated
    once.

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
    # An exported or compiled model takes batches of any size, so their size must not choose its operations.
    expands = torch.compiler.is_compiling() or embeddings.device.type in WITHOUT_FP64
    expands = expands or embeddings.shape[-2] * prototypes.numel() > DIRECT
    distances = _ExpandedDistances if expands else _DirectDistances
    with torch.autocast(embeddings.device.type, enabled=False):
        return distances.apply(embeddings.float(), prototypes.detach().float(), seen.bool())


class _DirectDistances(torch.autograd.Function):
    # In fp64, no square of fp32 numbers overflows, and differences of embeddings keep the digits of fp32.

    @staticmethod
    def forward(ctx, embeddings: torch.Tensor, prototypes: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        seen = seen[..., None]
        wide, classes = embeddings.double(), torch.where(seen, prototypes, 0).double()
        distances = torch.cdist(wide, classes, compute_mode="donot_use_mm_for_euclid_dist")  # (M, B, K)
        lowest = torch.finfo(torch.float32).min
        logits = distances.clamp_(MIN_DISTANCE, -lowest).neg_().masked_fill_(~seen.mT, lowest)
        ctx.save_for_backward(wide, classes, logits)
        return logits.float()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        wide, classes, logits = ctx.saved_tensors
        weights = (gradient / logits).masked_fill_(logits >= -MIN_DISTANCE, 0)  # (M, B, K)
        return (wide * weights.sum(2, keepdim=True)).sub_(torch.bmm(weights, classes)).float(), None, None


class _ExpandedDistances(torch.autograd.Function):
    # The gradient of -d_k is (c_k - z) / d_k, and is written out here. Autograd would run three times as many
    # operations, which cost more than the matrix products if there are few classes.

    @staticmethod
    def forward(ctx, embeddings: torch.Tensor, prototypes: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        rows, center = _rows_and_center(prototypes, seen)
        table = prototypes.flatten(0, 1)
        moved = embeddings - center  # (M, B, D)
        classes = embedding(rows, table).sub_(center)  # (M, K, D)
        a, b = _scales(moved), _scales(classes)  # all 1 below 1e16
        classes.div_(b)
        scaled, b = moved / a, b.mT

        norms = vector_norm(scaled, dim=2, keepdim=True)
        distances = torch.bmm(scaled.div_(a), classes.mT).mul_(-2 / b)  # (M, B, K), squares over (a b)^2
        distances.add_((norms / b).square_()).add_((vector_norm(classes, dim=2)[:, None] / a).square_())
        distances.clamp_(min=0).sqrt_().mul_(a).mul_(b).masked_fill_(~seen[:, None], torch.inf)

        nearest = distances.topk(min(NEAREST, distances.shape[2]), largest=False).indices  # (M, B, N)
        near_scales = torch.maximum(a, b.expand_as(distances).gather(2, nearest))
        near_rows = rows.gather(1, nearest.flatten(1)).view_as(nearest)
        # One by one, since all at once would be a larger tensor than the prototypes.
        offsets = [
            embedding(row, table).sub_(embeddings).div_(scale[..., None])
            for row, scale in zip(near_rows.unbind(2), near_scales.unbind(2), strict=True)
        ]
        exact = torch.stack([vector_norm(offset, dim=2) for offset in offsets], dim=2).mul_(near_scales)
        lowest = torch.finfo(distances.dtype).min
        logits = distances.scatter_(2, nearest, exact).clamp_(MIN_DISTANCE, -lowest).neg_()
        logits.masked_fill_(~seen[:, None], lowest)
        ctx.save_for_backward(moved, classes, b, nearest, near_scales, logits, *offsets)
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        moved, classes, b, nearest, near_scales, logits, *offsets = ctx.saved_tensors
        weights = (gradient / logits).masked_fill_(logits >= -MIN_DISTANCE, 0)  # (M, B, K)
        near = weights.gather(2, nearest).mul_(near_scales)
        weights.scatter_(2, nearest, 0)
        result = moved * weights.sum(2, keepdim=True) - torch.bmm(weights.mul_(b), classes)
        for offset, weight in zip(offsets, near.unbind(2), strict=True):
            result.addcmul_(offset, weight[..., None], value=-1)
        return result, None, None


def _rows_and_center(prototypes: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The row of each class among the M * K prototypes, (M, K), and the center of each modality, (M, 1, D). An unseen
    class gets the row of a seen one, since its own may hold anything. The center is one of nine evenly spaced seen
    prototypes: the one with the smallest distance to its fourth nearest of them, itself included. (The prototypes of a
    smaller cluster have exact distances.)
    """
    modalities, classes = seen.shape
    numbers = torch.arange(max(modalities, classes), device=seen.device)
    first = numbers[:modalities, None] * classes
    size = min(CANDIDATES, classes)
    ranks = numbers[:size] * seen.sum(1, keepdim=True) // size  # (M, 9)
    candidates = torch.searchsorted(seen.cumsum(1), ranks + 1).clamp_(max=classes - 1)
    rows = torch.where(seen, numbers[:classes], candidates[:, :1]).add_(first)
    vectors = embedding(candidates.add_(first), prototypes.flatten(0, 1))  # (M, 9, D)
    distances = torch.cdist(vectors, vectors, p=1)  # without squares, which could overflow
    reach = distances.topk(min(NEAREST, size), largest=False).values[..., -1]
    return rows, vectors[numbers[:modalities], reach.argmin(1), None]


def _scales(vectors: torch.Tensor) -> torch.Tensor:
    """A scale (M, N, 1) of each vector (M, N, D), at least 1, by which no square of its parts overflows."""
    return torch.maximum(vectors.amax(2, keepdim=True), -vectors.amin(2, keepdim=True)).mul_(2.0**-54).clamp_(min=1)
