"""What a model predicts (one class, any number of labels, or numbers), the loss of each, and the scale of numbers."""

import torch
from torch.nn import functional as F

from .fp32_buffers import Fp32Buffers


SINGLE_LABEL, MULTI_LABEL, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
# What `problem_type` of a config may be, as in transformers. `None` stands for the first.
PROBLEM_TYPES = (SINGLE_LABEL, MULTI_LABEL, REGRESSION)
# The metric of a modality alone, whose name ends the key, as in `image_prototype_accuracy`
MODALITY_METRIC = {SINGLE_LABEL: "accuracy", MULTI_LABEL: "micro_f1", REGRESSION: "mae"}
LEAST_STEPS = 16  # the least standard deviation of targets, in steps of fp32 at their mean


class TargetScale(Fp32Buffers):
    """
    The mean and the standard deviation of the targets of a regression. They are saved with the weights, so that a model
    trains on standardised targets and predicts in the user's units.

    There are two persistent buffers in fp32: `mean` (R,), at first 0, and `std` (R,), at first 1.

    Args:
        num_targets (`int`): number of targets R.
    """

    def __init__(self, num_targets: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_targets, dtype=torch.float32))
        self.register_buffer("std", torch.ones(num_targets, dtype=torch.float32))

    @property
    def is_fitted(self) -> bool:
        """Whether the mean or the standard deviation of a target differs from 0 and 1."""
        return bool((self.mean != 0).any() or (self.std != 1).any())

    @torch.no_grad()
    def fit(self, targets: torch.Tensor) -> None:
        """
        Set the mean and the standard deviation to those of the targets (N,) or (N, R). A target that never changes gets
        the standard deviation 1.

        Raises:
            ValueError: for targets of another shape, no targets, or targets that are not finite. Also for targets whose
                differences fp32 does not hold, since they are too large, too small, or far from 0 and close together.
        """
        targets = torch.as_tensor(targets).detach().to("cpu", torch.float64)
        rows = targets[:, None] if targets.dim() == 1 else targets
        if rows.dim() != 2 or len(rows) == 0 or rows.shape[1] != len(self.mean) or not rows.isfinite().all():
            raise ValueError(
                f"Expected finite targets of shape (rows, {len(self.mean)}), got {tuple(targets.shape)}, finite: "
                f"{bool(targets.isfinite().all())}; give the targets of the training rows."
            )
        mean, std, fp32 = rows.mean(0), rows.std(0, correction=0), torch.finfo(torch.float32)
        varies = std > 1e-12 * mean.abs()  # above what rounding leaves of equal targets
        told_apart = (std > fp32.tiny) & (std > LEAST_STEPS * fp32.eps * mean.abs())
        lost = (rows.abs().amax(0) > fp32.max) | (varies & ~told_apart)
        if lost.any():
            r = int(lost.nonzero()[0])
            raise ValueError(
                f"Expected targets that fp32 holds and tells apart, got target {r} with the mean {mean[r]:.9g} and the "
                f"standard deviation {std[r]:.3g}; subtract a constant, such as the mean, or take another unit."
            )
        self.mean.copy_(mean)
        self.std.copy_(torch.where(varies, std, 1))

    def restore(self, standardised: torch.Tensor) -> torch.Tensor:
        """Standardised values (B, R) in the user's units, in fp32."""
        return standardised.float() * self.std + self.mean

    def standardise(self, values: torch.Tensor) -> torch.Tensor:
        """Values (B, R) in the user's units, minus the mean and over the standard deviation, in fp32."""
        return (values.float() - self.mean) / self.std


def target_loss(problem_type: str, logits: torch.Tensor, labels: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """
    The loss of logits (B, K): the cross entropy of classes (B,), the binary cross entropy of multi-hot labels (B, K),
    or the squared error of standardised targets (B, K). The loss of a sample is the mean over its labels or targets.

    Args:
        problem_type (`str`): one of `PROBLEM_TYPES`.
        logits (`torch.Tensor`): (B, K), of any dtype. For a regression, the standardised predictions.
        labels (`torch.Tensor`): the labels.
        reduction (`str`, *optional*, defaults to `"mean"`): `"mean"` for a scalar, `"none"` for (B,).
    """
    if problem_type == SINGLE_LABEL:
        return F.cross_entropy(logits.float(), labels, reduction=reduction)
    loss = F.binary_cross_entropy_with_logits if problem_type == MULTI_LABEL else F.mse_loss
    each = loss(logits.float(), labels.float(), reduction="none").mean(1)
    return each if reduction == "none" else each.mean()


def check_labels(problem_type: str, labels: torch.Tensor, size: int, num_labels: int) -> None:
    """
    Raise `ValueError` for labels of another shape or type than `size` samples of the model need: (B,) int64 classes,
    (B, K) floats of 0 and 1, or (B, R) floats, which may be (B,) for one target.
    """
    if problem_type == SINGLE_LABEL:
        shapes, right_type, types = [(size,)], labels.dtype == torch.long, torch.int64
        advice = "give the class of each sample"
        if labels.dim() == 2:
            advice += "; labels of segments (B, T) need a model that is not a MultimodalModel"
    else:
        shapes = [(size, num_labels)] + [(size,)] * (problem_type == REGRESSION and num_labels == 1)
        right_type, types = labels.is_floating_point(), torch.float32
        advice = "give a 0 or 1 for each label" if problem_type == MULTI_LABEL else "give the targets of each sample"
    if tuple(labels.shape) not in shapes or not right_type:
        raise ValueError(
            f"Expected `labels` of shape {shapes[0]} and type {types}, got {tuple(labels.shape)} and {labels.dtype}; "
            f"{advice}."
        )
