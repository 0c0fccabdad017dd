"""Losses of each modality alone, by a linear head of its own, for the methods that blend them with the fused loss."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..model.missing_modalities import stack_masks
from ..model.modeling import MultimodalModel, MultimodalOutput
from ..training.counted_samples import classes_of
from ..training.prototype_trainer import PrototypeTrainer


class UnimodalHeadsTrainer(PrototypeTrainer):
    """
    Base of the methods that train a classifier of each modality's embedding beside the fused one.

    Train logs have `m_ce_loss` for each modality m, and evaluation adds `m_unimodal_accuracy`.

    Raises:
        ValueError: for a model that is no [`MultimodalModel`] with `unimodal_heads=True`.
    """

    def on_new_model(self, model: nn.Module) -> None:
        super().on_new_model(model)
        if not isinstance(model, MultimodalModel) or not model.config.unimodal_heads:
            raise ValueError(
                f"Expected a MultimodalModel with unimodal heads for {type(self).__name__}, got a "
                f"{type(model).__name__} without; build it with `from_backbones(..., unimodal_heads=True)`."
            )

    def unimodal_losses(self, outputs: MultimodalOutput, labels: torch.Tensor) -> torch.Tensor:
        """
        Cross entropy of each modality's own head, (M,): means over the samples of all processes that have the modality,
        of which this process holds its part, so that the mean over the processes of its gradient is the whole.
        """
        losses = torch.stack(
            [
                F.cross_entropy(outputs.unimodal_logits[name].float(), labels, reduction="none")
                for name in self.prototypes.widths
            ]
        )  # (M, B)
        counted = stack_masks(self.counted_samples(outputs, labels), self.prototypes.widths, labels)
        sums, counts = torch.where(counted, losses, 0).sum(1), counted.float().sum(1)
        self.track(tuple(f"{name}_ce_loss" for name in self.prototypes.widths), sums, counts)
        return sums * self.accelerator.num_processes / self.accelerator.reduce(counts, "sum").clamp(min=1)

    def modality_predictions(self, outputs: Any) -> dict[str, torch.Tensor]:
        return super().modality_predictions(outputs) | {
            f"{name}_unimodal_accuracy": classes_of(name, logits, outputs)
            for name, logits in outputs.unimodal_logits.items()
        }
