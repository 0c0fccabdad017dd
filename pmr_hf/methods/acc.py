"""Gradient boost: the encoder of the slow modality gets a larger gradient of the fused loss, and nothing else."""

from typing import Any

import torch

from ..training.prototype_terms import PrototypeTerms
from .gradient_scaling import GradientScalingTrainer


class GradientBoostTrainer(GradientScalingTrainer):
    """
    Trainer that scales the gradient of each encoder by 1 + a^m, with the weights a^m of PMR (Eq. 11), in [1, 2].

    This stands for "Acc" in Fig. 2 of PMR (Fan et al., CVPR 2023), which asks whether a larger gradient in the same
    direction is enough to help the slow modality. The formula is ours, so that boost and PMR act on the same modality,
    at the same time and to the same degree. The paper gives none; the authors' code scales by 1 + tanh(alpha rho), with
    rho > 1 the score of the dominant modality over the slow one's by slices of the head, in convolutions alone and for
    the first 50 epochs.

    Args:
        model (`MultimodalModel`): the model.
        args (`PrototypeTrainingArguments`): the arguments.
        kwargs: everything else that [`PrototypeTrainer`] takes.
    """

    description = "Trained with a larger gradient for the slow modality"

    def gradient_scales(self, terms: PrototypeTerms, outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        return 1 + terms.pce_weights
