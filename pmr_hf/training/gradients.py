"""The gradient of one loss in one encoder, and the cosine between two such gradients."""

import torch
from accelerate import Accelerator
from torch import nn

from ..equations import masked_mean
from .prototype_terms import PrototypeTerms


def gradients_of(loss: torch.Tensor, parameters: list[nn.Parameter]) -> torch.Tensor:
    """
    The gradient of a scalar with respect to all parameters, as one fp32 vector (P,). It is zero for parameters that the
    scalar does not depend on.
    """
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    pairs = zip(parameters, found, strict=True)
    return torch.cat([(torch.zeros_like(part) if own is None else own).flatten().float() for part, own in pairs])


def gradient_products(accelerator: Accelerator, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """
    The products |l|^2, |r|^2 and l . r of two gradients l and r (P,), as one tensor (3,). Both gradients are averaged
    over the processes first.
    """
    left, right = accelerator.reduce(left, "mean"), accelerator.reduce(right, "mean")
    return torch.stack([left @ left, right @ right, left @ right])


def cosines(products: torch.Tensor) -> torch.Tensor:
    """
    The cosines (M,), in [-1, 1], of M pairs of gradients, from their [`gradient_products`] (M, 3). The cosine is 0 if
    one of the gradients is zero.
    """
    left, right, both = products.unbind(-1)
    lengths = left.sqrt() * right.sqrt()
    return torch.where(lengths > 0, both / lengths.clamp(min=torch.finfo(torch.float32).tiny), 0).clamp(-1, 1)


def gradient_cosines(
    accelerator: Accelerator, loss: torch.Tensor, terms: PrototypeTerms, parameters: dict[str, list[nn.Parameter]]
) -> dict[str, torch.Tensor]:
    """
    The cosine between two gradients in the encoder of each modality (Fig. 2c of PMR): the gradient of a loss, and the
    gradient of the modality's own prototypical cross entropy.

    Args:
        accelerator (`Accelerator`): averages gradients over processes.
        loss (`torch.Tensor`): a scalar.
        terms (`PrototypeTerms`): the terms of the same batch.
        parameters (`dict[str, list[torch.nn.Parameter]]`): the trained parameters of each encoder, by modality, in the
            order of the terms.

    Returns:
        `dict[str, torch.Tensor]`: scalars in [-1, 1], by modality. Encoders that are not trained are left out.
    """
    products = {}
    for pce, counted, (name, own) in zip(terms.pce, terms.counted, parameters.items(), strict=True):
        if own:
            alone = gradients_of(masked_mean(pce, counted), own)
            products[name] = gradient_products(accelerator, gradients_of(loss, own), alone)
    if not products:
        return {}
    return dict(zip(products, cosines(torch.stack(list(products.values()))), strict=True))
