"""Gradients of single losses in single encoders, and how they lie to each other."""

import torch
from accelerate import Accelerator
from torch import nn


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
