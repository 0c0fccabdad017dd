"""How much each modality brings to a decision: Shapley values over the subsets of modalities."""

from collections.abc import Callable
from math import comb

import torch


def shapley_values(value: Callable[[tuple[bool, ...]], torch.Tensor], modalities: int) -> torch.Tensor:
    """
    Shapley values (Shapley, 1953) of a game that modalities play together, exact, by all of their 2^M subsets.

    phi_m is the mean, over all orders in which the modalities may join, of what m adds to those that joined before it:
    sum over S without m of |S|! (M - |S| - 1)! / M! * (v(S + m) - v(S)). They sum to v(all) - v(none), a modality that
    changes nothing has 0, and two that do the same have the same.

    Args:
        value (`Callable`): v, from which of the modalities take part to values (B,).
        modalities (`int`): their number M.

    Returns:
        `torch.Tensor`: (M, B).
    """
    values = [value(tuple(bool(subset >> m & 1) for m in range(modalities))) for subset in range(2**modalities)]
    shares = []
    for m in range(modalities):
        share = torch.zeros_like(values[0])
        for subset in range(2**modalities):
            if not subset >> m & 1:
                orders = modalities * comb(modalities - 1, subset.bit_count())
                share = share + (values[subset | 1 << m] - values[subset]) / orders
        shares.append(share)
    return torch.stack(shares)
