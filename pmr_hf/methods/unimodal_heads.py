"""Base class of the methods that train a unimodal head for each modality beside the fusion head."""

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
    Base of the methods that train a unimodal head, a linear classifier on one embedding, for each modality.

    Training logs contain `m_ce_loss` for each modality m. Evaluation adds `m_unimodal_accuracy`.

    Raises:
        ValueError: if the model is not a [`MultimodalModel`] with `unimodal_heads=True`.
    """

    def on_new_model(self, model: nn.Module) -> None:
        """Prepare the model. Raises `ValueError` if it has no unimodal heads."""
        super().on_new_model(model)
        if not isinstance(model, MultimodalModel) or not model.config.unimodal_heads:
            raise ValueError(
                f"Expected a MultimodalModel with unimodal heads for {type(self).__name__}, got a "
                f"{type(model).__name__} without; build it with `from_backbones(..., unimodal_heads=True)`."
            )

    def unimodal_losses(self, outputs: MultimodalOutput, labels: torch.Tensor) -> torch.Tensor:
        """
        The cross entropy (M,) of each unimodal head. It is scaled for DDP, which averages gradients over the processes:
        the average over the processes is the mean over the samples that count, of all processes.
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
        """Add the classes (B,) that each unimodal head predicts, as `m_unimodal_accuracy`."""
        return super().modality_predictions(outputs) | {
            f"{name}_unimodal_accuracy": classes_of(name, logits, outputs)
            for name, logits in outputs.unimodal_logits.items()
        }
