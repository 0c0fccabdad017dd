"""The terms that the class prototypes give for a batch."""

from collections.abc import Mapping
from typing import NamedTuple

import torch

from ..equations import prototypical_cross_entropy, prototypical_entropy, true_class_probability
from ..model.label_prototypes import LabelPrototypes
from ..model.prototypes import Prototypes, in_every_modality


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
            classes with a prototype in every modality count here, both as the true class and as an answer, so that
            the scores can be compared.
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


class SampleValues(NamedTuple):
    """
    What the prototypes of each modality give for each sample, (M, B). Only `pce` and `entropy` have a gradient.

    Args:
        pce (`torch.Tensor`): the prototypical cross entropy.
        entropy (`torch.Tensor`): the entropy.
        scores (`torch.Tensor`): the probability of the true class, among the classes that all modalities know.
        known (`torch.Tensor`): bool, the samples whose class has a prototype of the modality.
        compared (`torch.Tensor`): bool, the samples among these whose class has a prototype of every modality.
    """

    pce: torch.Tensor
    entropy: torch.Tensor
    scores: torch.Tensor
    known: torch.Tensor
    compared: torch.Tensor


def balanced_label_weights(labels: torch.Tensor) -> torch.Tensor:
    """
    The weights (K, 2) of the samples without and with each label, 1 / (2 share), for multi-hot labels (N, K). The mean
    weight of the N samples is 1, and both halves have the same sum. A label that all or none have weighs 1.
    """
    shares = torch.stack([1 - labels.double().mean(0), labels.double().mean(0)], 1)  # (K, 2)
    both = (shares > 0).all(1, keepdim=True)
    return torch.where(both, 1 / (2 * torch.where(both, shares, 1)), 1).float()


def sample_values(
    prototypes: Prototypes,
    embeddings: Mapping[str, torch.Tensor],
    labels: torch.Tensor,
    label_weights: torch.Tensor | None = None,
    relative: bool = False,
) -> SampleValues:
    """
    The values of samples with embeddings (B, D_m), by modality, and classes (B,), or multi-hot labels (B, K).
    `label_weights` are [`balanced_label_weights`], which multiply PCE and score of each label. With `relative`, the
    logits are those of [`Prototypes.relative_logits`].
    """
    if isinstance(prototypes, LabelPrototypes):
        return _values_of_labels(prototypes, embeddings, labels, label_weights, relative)
    logits = prototypes.relative_logits(embeddings) if relative else prototypes.stacked_logits(embeddings)  # (M, B, K)
    seen = prototypes.stacked_seen()  # (M, K)
    known = seen[:, labels]  # (M, B)
    log_probabilities = logits.log_softmax(-1)
    pce = prototypical_cross_entropy(log_probabilities, labels)
    with torch.no_grad():
        common = in_every_modality(seen)  # (K,)
        among_common = logits.masked_fill(~common, torch.finfo(logits.dtype).min).log_softmax(-1)
        scores = true_class_probability(prototypical_cross_entropy(among_common, labels))
    return SampleValues(pce, prototypical_entropy(log_probabilities), scores, known, known & common[labels])


def _values_of_labels(
    prototypes: LabelPrototypes,
    embeddings: Mapping[str, torch.Tensor],
    labels: torch.Tensor,
    label_weights: torch.Tensor | None,
    relative: bool,
) -> SampleValues:
    """The values for several labels, each a mean over the labels that count. Each label has two classes."""
    pairs = prototypes.pairs(embeddings, relative)  # (M, B, K, 2)
    known, common = prototypes.known(), prototypes.common_labels()  # (M, K), (K,)
    pce = prototypical_cross_entropy(pairs, labels.long())  # (M, B, K)
    entropy = prototypical_entropy(pairs)
    scores = true_class_probability(pce.detach())
    if label_weights is not None:
        weights = label_weights.gather(1, labels.long().T).T  # (B, K)
        pce, scores = pce * weights, scores * weights
    counts = known.sum(1, keepdim=True).clamp(min=1)
    compared = (known.any(1) & common.any())[:, None].expand(pce.shape[:2])
    return SampleValues(
        torch.where(known[:, None], pce, 0).sum(-1) / counts,
        torch.where(known[:, None], entropy, 0).sum(-1) / counts,
        torch.where(common, scores, 0).sum(-1) / common.sum().clamp(min=1),
        known.any(1)[:, None].expand(pce.shape[:2]),
        compared,
    )
