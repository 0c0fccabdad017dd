"""
Sums that keep their digits, however many values are added.

They are in fp64. Where a device has no fp64, a sum is a pair of fp32 tensors: the sum, and the sum of its rounding
errors (Knuth's two-sum, as in Neumaier's summation). Both can be added up over processes. Nothing waits for the device.
"""

from collections.abc import Sequence

import torch


WITHOUT_FP64 = {"mps", "xpu"}


def is_pair(total: torch.Tensor) -> bool:
    """Whether a sum is a pair of fp32 tensors, in one tensor (2, ...)."""
    return total.device.type in WITHOUT_FP64


def zero_sum(shape: Sequence[int], device: torch.device) -> torch.Tensor:
    """A sum of this shape, to which [`add`] and [`add_rows`] can add."""
    if device.type in WITHOUT_FP64:
        return torch.zeros(2, *shape, dtype=torch.float32, device=device)
    return torch.zeros(*shape, dtype=torch.float64, device=device)


def add(total: torch.Tensor, values: torch.Tensor) -> None:
    """Add all values (S, ...) to a sum (...), in place."""
    if not is_pair(total):
        total.add_(values.sum(0, dtype=total.dtype))
        return
    for value in values:
        _add_to_pair(total, value)


def add_rows(total: torch.Tensor, rows: torch.Tensor, values: torch.Tensor) -> None:
    """Add values (B, ...) to the rows (B,) of a sum (K, ...), in place."""
    values = values.to(total.dtype)
    if not is_pair(total):
        total.index_add_(0, rows, values)
        return
    # The leading 12 bits of up to 4,096 values add up without an error, and so little is left that its error is small.
    # See Rump, Ogita and Oishi, "Accurate floating-point summation", 2008.
    unit = 4096 * values.abs().amax(0)
    leading = (values + unit) - unit
    for part in (leading, values - leading):
        _add_to_pair(total, torch.zeros_like(total[0]).index_add_(0, rows, part))


def _add_to_pair(total: torch.Tensor, values: torch.Tensor) -> None:
    before, values = total[0].clone(), values.to(total.dtype)
    after = before + values
    added = after - before
    total[0] = after
    total[1] += (before - (after - added)) + (values - added)


def value_of(total: torch.Tensor) -> torch.Tensor:
    """The value (...) of a sum, in fp64, or in fp32 on a device without fp64."""
    return total.sum(0) if is_pair(total) else total


def to_file(total: torch.Tensor) -> torch.Tensor:
    """The value (...) of a sum in fp64 on the CPU, which does not depend on the device."""
    values = total.cpu().double()
    return values.sum(0) if is_pair(total) else values


def from_file(total: torch.Tensor, saved: torch.Tensor) -> None:
    """Set a sum to a value on the CPU, in fp64 or fp32, that [`to_file`] or an earlier version has saved."""
    if is_pair(total):
        rounded = saved.float()
        saved = torch.stack([rounded, (saved.double() - rounded.double()).float()])
    total.copy_(saved)
