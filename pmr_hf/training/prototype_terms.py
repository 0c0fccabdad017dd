"""The terms that the class prototypes give for a batch."""

from typing import NamedTuple

import torch


# The log keys of each modality, without the prefix with its name
TERMS = ("pce_loss", "entropy", "score", "pce_weight", "per_weight")


class PrototypeTerms(NamedTuple):
    """
    The terms that the class prototypes give for a batch, in the order of the modalities. Only `pce` and `entropy` have
    a gradient.

    Args:
        pce (`torch.Tensor`): (M, B), the prototypical cross entropy -log p^m_i(y_i) of this process's samples (Eq. 9).
            With `class_weights`, it is multiplied by the weight of the class over the mean weight of the samples that
            count. (The log has it without.)
        entropy (`torch.Tensor`): (M, B), the entropy H(p^m_i) of this process's samples (Eq. 13).
        counted (`torch.Tensor`): (M, B) bool, the samples that count. They have the modality, their class has a
            prototype of it, and they do not only repeat another sample to fill the last batch.
        counts (`torch.Tensor`): (M,), the number of samples that count, of all processes.
        scores (`torch.Tensor`): (M,), s^m, the mean of p^m_i(y_i) over the samples that count, of all processes. Only
            classes that have a prototype of every modality are samples and answers here, so that all scores compare.
        score_counts (`torch.Tensor`): (M,), the number of samples in the scores.
        pce_weights (`torch.Tensor`): (M,), the weights a^m of PCE (Eq. 11), in [0, 1].
        per_weights (`torch.Tensor`): (M,), the weights e^m of the entropy, in [0, 1].
    """

    pce: torch.Tensor
    entropy: torch.Tensor
    counted: torch.Tensor
    counts: torch.Tensor
    scores: torch.Tensor
    score_counts: torch.Tensor
    pce_weights: torch.Tensor
    per_weights: torch.Tensor
