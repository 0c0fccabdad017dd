"""Shapley values, which give the share of each modality in a decision."""

from collections.abc import Callable
from math import comb

import torch


def shapley_values(value: Callable[[tuple[bool, ...]], torch.Tensor], modalities: int) -> torch.Tensor:
    """
    Exact Shapley values (Shapley, 1953) of the modalities, from the values of all their 2^M subsets.

    The value phi_m is what modality m adds to the modalities before it, averaged over all orders of the modalities: the
    sum over S without m of |S|! (M - |S| - 1)! / M! * (v(S + m) - v(S)). The values sum to v(all) - v(none). A modality
    that changes nothing has value 0, and two modalities with the same effect have the same value.

    Args:
        value (`Callable`): the function v, which maps a subset, given as one bool per modality, to values (B,).
        modalities (`int`): the number M of modalities.

    Returns:
        `torch.Tensor`: (M, B), the Shapley value of each modality for each of the B values.
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
