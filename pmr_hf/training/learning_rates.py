"""Optimizer parameter groups of one encoder alone, such as those with a learning rate of their own."""

from typing import Any

import torch
from torch import nn

from ..model.modeling import MultimodalModel


Group = dict[str, Any]


def own_groups(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> list[Group]:
    """
    Move some parameters of an optimizer to parameter groups that hold no others, and return these groups. They have the
    settings of the groups that the parameters came from. Parameters that the optimizer does not hold are left out.
    """
    own, groups = set(parameters), []
    for group in list(optimizer.param_groups):
        chosen = [parameter for parameter in group["params"] if parameter in own]
        if 0 < len(chosen) < len(group["params"]):
            group["params"] = [parameter for parameter in group["params"] if parameter not in own]
            optimizer.add_param_group({**group, "params": chosen})
            group = optimizer.param_groups[-1]
        if chosen:
            groups.append(group)
    return groups


def set_modality_learning_rates(
    optimizer: torch.optim.Optimizer, model: MultimodalModel, rates: dict[str, float]
) -> None:
    """
    Move the parameters of each encoder in `rates` to new parameter groups, which differ only in the learning rate.
    `rates` maps modalities to learning rates.

    Raises:
        ValueError: if the optimizer holds no parameter of such an encoder, because the encoder is frozen or the
            optimizer updates its parameters in another way.
    """
    for name, rate in rates.items():
        groups = own_groups(optimizer, list(model.backbones[name].parameters()))
        if not groups:
            raise ValueError(
                f"Expected the {type(optimizer).__name__} to hold parameters of the encoder of {name!r}, which is in "
                "`modality_learning_rates`, found none; leave the rate out if the encoder is frozen, or choose another "
                "`optim`."
            )
        for group in groups:
            group["lr"] = rate


def fill_gradients(optimizer: torch.optim.Optimizer, *args) -> None:
    """
    Set the gradient to zero for parameters that have none, such as an unused pooler of BERT. Without it, the optimizer
    has no state for them, and FSDP cannot resume. Register this function as a hook before the optimizer step.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
