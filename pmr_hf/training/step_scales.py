"""Factors on the steps that an optimizer makes for each encoder."""

from typing import Any

import torch
from torch import nn

from ..model.modeling import MultimodalModel
from .learning_rates import Group, own_groups


class StepScales:
    """
    Factors (M,) on the next step of an optimizer for the encoders of M modalities. The factor of a step is the mean of
    those of its micro-batches.
    """

    def __init__(self):
        self.clear()

    def add(self, scales: torch.Tensor) -> None:
        """Add the factors (M,) of a micro-batch."""
        self._sum, self._count = self._sum + scales, self._count + 1

    def clear(self) -> None:
        """Forget all micro-batches."""
        self._sum: torch.Tensor | float = 0.0
        self._count = 0

    @property
    def mean(self) -> torch.Tensor | None:
        """The mean (M,) over the micro-batches that were added since the last `clear`; `None` if there are none."""
        return self._sum / self._count if self._count else None

    def apply_to(self, optimizer: torch.optim.Optimizer, model: MultimodalModel) -> None:
        """
        Make an optimizer multiply its steps by the factors. The parameters of each modality move to parameter groups of
        their own, whose learning rates are multiplied during the step alone. This is exact for each optimizer whose
        step is proportional to the learning rate.
        """
        for name in model.backbones:
            for group in own_groups(optimizer, modality_parameters(model, name)):
                group["modality"] = name  # DeepSpeed replaces the parameters, and steps with one group at a time
        rates: list[tuple[Group, Any]] = []  # the groups that are scaled now, with their own rates

        def scale(optimizer: torch.optim.Optimizer, *args) -> None:
            if self.mean is None:  # FSDP makes a step without a batch, to create the state of the optimizer
                return
            factors = dict(zip(model.backbones, self.mean.tolist(), strict=True))
            rates.extend((group, group["lr"]) for group in optimizer.param_groups if "modality" in group)
            for group, rate in rates:
                group["lr"] = rate * factors[group["modality"]]

        def restore(*args) -> None:
            for group, rate in rates:
                group["lr"] = rate
            rates.clear()

        optimizer.register_step_pre_hook(scale)
        optimizer.register_step_post_hook(restore)


def modality_parameters(model: MultimodalModel, name: str) -> list[nn.Parameter]:
    """The parameters between a modality's input and the fusion: encoder, projection, vector of absent embeddings."""
    projection = model.projections[name].parameters() if name in model.projections else ()
    return [*model.backbones[name].parameters(), *projection, model.absent[name]]
