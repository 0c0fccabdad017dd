"""Parameter groups of the optimizer: a learning rate for each encoder of `modality_learning_rates`."""

import torch

from ..model.modeling import MultimodalModel


def set_modality_learning_rates(
    optimizer: torch.optim.Optimizer, model: MultimodalModel, rates: dict[str, float]
) -> None:
    """Move the encoders of these modalities to groups of their own, which differ in the learning rate alone."""
    for name, rate in rates.items():
        own = set(model.backbones[name].parameters())
        for group in list(optimizer.param_groups):
            chosen = [parameter for parameter in group["params"] if parameter in own]
            if chosen:
                group["params"] = [parameter for parameter in group["params"] if parameter not in own]
                optimizer.add_param_group({**group, "params": chosen, "lr": rate})


def fill_gradients(optimizer: torch.optim.Optimizer, *args) -> None:
    """
    Give zeros to parameters without a gradient, such as BERT's pooler where nothing uses it: FSDP cannot resume an
    optimizer that lacks their state. A hook before the optimizer's step.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
