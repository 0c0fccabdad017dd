"""Uniform weights: the sum of the fused loss and of the loss of each unimodal head, and nothing else."""

from typing import Any

import torch

from ..training.prototype_terms import PrototypeTerms
from .unimodal_heads import UnimodalHeadsTrainer


class UniformTrainer(UnimodalHeadsTrainer):
    """
    Trainer that minimizes the fused loss plus the sum of the losses of the unimodal heads, each with weight 1.

    This is the baseline for the methods that blend or weight the same losses: MMPareto (Wei and Hu, ICML 2024, who call
    it the uniform baseline) and G-Blend (Wang et al., CVPR 2020, whose weights sum to 1). What such a method gains over
    joint training, but not over this baseline, comes from the unimodal losses alone.

    Args:
        model (`MultimodalModel`): the model, with `unimodal_heads=True`.
        args (`PrototypeTrainingArguments`): the arguments.
        kwargs: everything else that [`PrototypeTrainer`] takes.
    """

    description = "Trained with the sum of the fused loss and the loss of a head for each modality"

    def method_loss(
        self, loss: torch.Tensor, terms: PrototypeTerms | None, outputs: Any, labels: torch.Tensor
    ) -> torch.Tensor:
        """The sum of the fused and the unimodal losses."""
        return loss + self.loss_scale * self.unimodal_losses(outputs, labels).sum()
