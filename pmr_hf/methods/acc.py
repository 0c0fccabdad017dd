"""Gradient boost ("Acc" in Fig. 2 of PMR): a larger gradient for the encoder of the slow modality, and nothing else."""

from typing import Any

import torch

from ..training.prototype_terms import PrototypeTerms
from .gradient_scaling import GradientScalingTrainer


class GradientBoostTrainer(GradientScalingTrainer):
    """
    Trainer that scales the gradient of each encoder by 1 + a^m, in [1, 2], where a^m is the weight of PMR (Eq. 11).

    This is the baseline "Acc" in Fig. 2 of PMR (Fan et al., CVPR 2023). It tests whether a larger gradient in the same
    direction is enough to help the slow modality.

    Deviations from the paper and its code:

    * The paper gives no formula; this one is ours. With the weights of PMR, both methods act on the same modality, at
      the same time and to the same degree.
    * The authors' code scales by 1 + tanh(alpha rho). There, rho > 1 is the score of the dominant modality divided by
      the score of the slow one, both computed from slices of the fusion head. The code scales convolutions only, and
      only in the first 50 epochs.

    Args:
        model (`MultimodalModel`): the model.
        args (`GradientScalingTrainingArguments`): the arguments.
        kwargs: everything else that [`PrototypeTrainer`] takes.
    """

    description = "Trained with a larger gradient for the slow modality"

    def gradient_scales(self, terms: PrototypeTerms, outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        """The scales 1 + a^m (M,), in [1, 2]."""
        return 1 + terms.pce_weights
