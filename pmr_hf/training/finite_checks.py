"""Checks of `MultimodalTrainer`: loss terms must be finite at each log and save, and weights at each save."""

import math

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.tensor import DTensor


def stop_not_finite(step: int, found: str) -> None:
    """Raise `FloatingPointError` with the optimizer step and a description of what is not finite."""
    raise FloatingPointError(
        f"Expected finite losses and weights at step {step}, got {found}; nothing was saved since, so resume from the "
        "last checkpoint with a lower learning rate or `max_grad_norm`, or look for the inputs that are not finite."
    )


def check_finite_terms(totals: dict[str, tuple[float, float]], step: int) -> None:
    """Raise `FloatingPointError` if a sum is not finite. `totals` maps each logged term to its sum and count."""
    bad = {name: total for name, (total, _) in totals.items() if not math.isfinite(total)}
    if bad:
        stop_not_finite(step, ", ".join(f"{name}={total}" for name, total in bad.items()))


def check_finite_weights(model: nn.Module, accelerator: Accelerator, step: int) -> None:
    """Raise `FloatingPointError` if a parameter or prototype is not finite, or a buffer is NaN, in any process."""
    finite, sharded = {}, False
    for name, parameter in model.named_parameters():
        sharded |= isinstance(parameter, DTensor)
        values = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        finite[name] = values.isfinite().all()
    for name, buffer in model.named_buffers():
        # A buffer of an encoder may be a mask of -inf.
        finite[name] = buffer.isfinite().all() if "prototypes." in name else ~buffer.isnan().any()
    flags = torch.stack(list(finite.values())).float()
    if sharded:
        flags = accelerator.reduce(flags, "mean")
    names = [name for name, flag in zip(finite, flags.tolist(), strict=True) if flag < 1]
    if names:
        stop_not_finite(step, f"{len(names)} of {len(finite)} weights, first {names[0]}")
