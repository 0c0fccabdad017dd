"""The terms of a batch by the class prototypes."""

from typing import NamedTuple

import torch


# What is logged of each modality, after its name
TERMS = ("pce_loss", "entropy", "score", "pce_weight", "per_weight")


class PrototypeTerms(NamedTuple):
    """
    The terms of a batch by the class prototypes, in the order of the modalities. Only `pce` and `entropy` have a
    gradient.

    Args:
        pce (`torch.Tensor`): (M, B), -log p^m_i(y_i) of this process's samples (Eq. 9).
        entropy (`torch.Tensor`): (M, B), H(p^m_i) of this process's samples.
        counted (`torch.Tensor`): (M, B) bool, the samples that count: those that have the modality, whose class has a
            prototype of it, and that are not repeated to fill the last batch.
        scores (`torch.Tensor`): (M,), s^m, the mean of p^m_i(y_i) over the samples of all processes that count.
        counts (`torch.Tensor`): (M,), the number of these samples.
        pce_weights (`torch.Tensor`): (M,), a^m (Eq. 11).
        per_weights (`torch.Tensor`): (M,), e^m.
    """

    pce: torch.Tensor
    entropy: torch.Tensor
    counted: torch.Tensor
    scores: torch.Tensor
    counts: torch.Tensor
    pce_weights: torch.Tensor
    per_weights: torch.Tensor
