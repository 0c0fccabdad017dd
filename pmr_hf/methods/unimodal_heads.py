"""Base class of the methods that train a unimodal head for each modality beside the fusion head."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..model.missing_modalities import stack_masks
from ..model.modeling import MultimodalOutput
from ..training.prototype_trainer import PrototypeTrainer
from .method_checks import require_model


class UnimodalHeadsTrainer(PrototypeTrainer):
    """
    Base of the methods that train a unimodal head, a linear classifier on one embedding, for each modality.

    Training logs contain `m_ce_loss` for each modality m, or `m_mse_loss` in a regression. Evaluation adds
    `m_unimodal_accuracy`, or with another problem type `m_unimodal_micro_f1` or `m_unimodal_mae`.

    Raises:
        ValueError: if the model is not a [`MultimodalModel`] with `unimodal_heads=True`.
    """

    def on_new_model(self, model: nn.Module) -> None:
        """Prepare the model. Raises `ValueError` if it is no [`MultimodalModel`] or has no unimodal heads."""
        super().on_new_model(require_model(self, model))
        if not model.config.unimodal_heads:
            raise ValueError(
                f"Expected a MultimodalModel with unimodal heads for {type(self).__name__}, got one without; build it "
                "with `from_backbones(..., unimodal_heads=True)`."
            )

    def unimodal_losses(self, outputs: MultimodalOutput, labels: torch.Tensor) -> torch.Tensor:
        """The loss (M,) of each unimodal head, see [`mean_losses`]."""
        return mean_losses(self, outputs.unimodal_logits, outputs, labels)

    def modality_predictions(self, outputs: Any) -> dict[str, torch.Tensor]:
        """Add what each unimodal head predicts, as `m_unimodal_accuracy`, or the metric of another problem type."""
        return super().modality_predictions(outputs) | self.guesses("unimodal_", outputs.unimodal_logits, outputs)


def mean_losses(
    trainer: PrototypeTrainer, logits: Mapping[str, torch.Tensor], outputs: MultimodalOutput, labels: torch.Tensor
) -> torch.Tensor:
    """
    The losses (M,) of logits (B, K) by modality. Each is a mean over the samples that count, of all processes, weighted
    by `class_weights`. The next log shows them. They are scaled for DDP, which averages gradients over the processes.
    """
    names = trainer.modalities
    all_logits, all_labels = torch.cat([logits[name] for name in names]), torch.cat([labels] * len(names))
    losses = sample_losses(trainer, all_logits, all_labels).unflatten(0, (len(names), -1))  # (M, B)
    counted = stack_masks(trainer.counted_samples(outputs, labels), names, labels)  # (M, B)
    weights = sample_weights(trainer, labels)
    sums, totals = (torch.where(counted, values, 0).sum(1) for values in (losses, weights))
    trainer.track(tuple(f"{name}_{trainer.loss_name}" for name in names), sums, totals)
    totals = trainer.accelerator.reduce(totals, "mean")
    return sums / totals.clamp(min=torch.finfo(totals.dtype).tiny)


def sample_losses(trainer: PrototypeTrainer, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The losses (B,) of logits (B, K), as the fused loss has them, times `class_weights` and with label smoothing."""
    smoothing = trainer.args.label_smoothing_factor
    if trainer.class_weights is None and smoothing == 0:
        return trainer.unwrapped_model.loss_of(logits, labels, reduction="none")
    return F.cross_entropy(logits.float(), labels, trainer.class_weights, reduction="none", label_smoothing=smoothing)


def sample_weights(trainer: PrototypeTrainer, labels: torch.Tensor) -> torch.Tensor:
    """The weight (B,) of each sample in a mean of [`sample_losses`]: that of its class, or 1."""
    if trainer.class_weights is None:
        return torch.ones(len(labels), device=labels.device)
    return trainer.class_weights[labels]
