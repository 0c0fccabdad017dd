"""Gradients of single losses in single encoders, and the angles between them."""

import torch
from accelerate import Accelerator
from torch import nn

from ..equations import masked_mean
from .prototype_terms import PrototypeTerms


def gradients_of(loss: torch.Tensor, parameters: list[nn.Parameter]) -> torch.Tensor:
    """Gradient of a scalar in all parameters, as one vector (P,) in fp32; zero where it does not depend on them."""
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    pairs = zip(parameters, found, strict=True)
    return torch.cat([(torch.zeros_like(part) if own is None else own).flatten().float() for part, own in pairs])


def gradient_products(accelerator: Accelerator, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """|l|^2, |r|^2 and l . r, (3,), of two gradients (P,), each first averaged over the processes."""
    left, right = accelerator.reduce(left, "mean"), accelerator.reduce(right, "mean")
    return torch.stack([left @ left, right @ right, left @ right])


def cosines(products: torch.Tensor) -> torch.Tensor:
    """Cosines (M,), in [-1, 1], of pairs of gradients by their products (M, 3); 0 where one of them is zero."""
    left, right, both = products.unbind(-1)
    lengths = left.sqrt() * right.sqrt()
    return torch.where(lengths > 0, both / lengths.clamp(min=torch.finfo(torch.float32).tiny), 0).clamp(-1, 1)


def gradient_cosines(
    accelerator: Accelerator, loss: torch.Tensor, terms: PrototypeTerms, parameters: dict[str, list[nn.Parameter]]
) -> dict[str, torch.Tensor]:
    """
    By modality, the cosine between the gradients of a loss and of the modality's own prototypical cross entropy in its
    encoder (Fig. 2c of PMR). Encoders that are not trained are left out.

    Args:
        accelerator (`Accelerator`): averages gradients over processes.
        loss (`torch.Tensor`): a scalar.
        terms (`PrototypeTerms`): of the same batch.
        parameters (`dict[str, list[torch.nn.Parameter]]`): of each encoder, by modality, in the order of the terms.
    """
    products = {}
    for pce, counted, (name, own) in zip(terms.pce, terms.counted, parameters.items(), strict=True):
        if own:
            alone = gradients_of(masked_mean(pce, counted), own)
            products[name] = gradient_products(accelerator, gradients_of(loss, own), alone)
    if not products:
        return {}
    return dict(zip(products, cosines(torch.stack(list(products.values()))), strict=True))
