"""The prototypes of a model of several labels. For each label, they tell samples with it from samples without it."""

from collections.abc import Mapping

import torch
from torch.nn import functional as F

from .distance import MIN_DISTANCE
from .missing_modalities import Masks, stack_masks
from .prototypes import SHARPNESS, Prototypes, Sums, in_every_modality


class LabelPrototypes(Prototypes):
    """
    Two prototypes of each label and modality: class 2 k is the mean of the samples without label k, and class 2 k + 1
    of those with it. If each sample has exactly one of two labels, the answers are those of [`Prototypes`] with two
    classes. The paper has a single label; this extension is ours.

    Args:
        widths (`dict[str, int]`): width D_m of each modality's embedding, in the order of the modalities.
        num_labels (`int`): number of labels K. The buffers have 2 K classes.
    """

    def __init__(self, widths: dict[str, int], num_labels: int):
        super().__init__(widths, 2 * num_labels)
        self.num_labels = num_labels

    def forward(self, embeddings: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """
        The logits (B, K) in fp32 of every modality, whose sigmoid is the probability of each label. A label that lacks
        one of its two prototypes has the logit 0.
        """
        return dict(zip(self.widths, self._log_odds(embeddings), strict=True))

    def pairs(self, embeddings: Mapping[str, torch.Tensor], relative: bool = False) -> torch.Tensor:
        """
        The log-probabilities (M, B, K, 2) in fp32 that a sample lacks and that it has each label (Eq. 7), by
        [`LabelPrototypes.relative_logits`] if `relative`.
        """
        logits = self.relative_logits(embeddings) if relative else self.stacked_logits(embeddings)
        return logits.unflatten(-1, (self.num_labels, 2)).log_softmax(-1)

    def relative_logits(self, embeddings: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """
        The logits -10 d / D (M, B, 2 K) in fp32 of the two distances d of each label, where D is the distance between
        its two prototypes. A label that lacks one of them keeps -d.
        """
        scale = torch.where(self.known(), SHARPNESS / self._gaps(), 1).repeat_interleave(2, 1)
        return self.stacked_logits(embeddings) * scale[:, None]

    def known(self) -> torch.Tensor:
        """The labels that have both prototypes in each modality, (M, K) bool."""
        return self.stacked_seen().unflatten(-1, (self.num_labels, 2)).all(-1)

    def common_labels(self) -> torch.Tensor:
        """The labels with both prototypes in every modality, (K,) bool. A modality without such labels is left out."""
        return in_every_modality(self.known())

    def answer(self, embeddings: Mapping[str, torch.Tensor], present: Masks | None = None) -> torch.Tensor:
        """
        The answer of all prototype classifiers together, as logits (B, K) in fp32. The probability of a label is the
        mean over the modalities of softmax(-10 d / D) of its two distances d, where D is the distance between its two
        prototypes. The mean is over the modalities that a sample has and that know the label; without any, the logit is
        0. `present` has the masks (B,) bool, by modality, of the samples that have it; all by default.
        """
        log_odds = self._log_odds(embeddings)
        scale = (SHARPNESS / self._gaps())[:, None]  # (M, 1, K)
        counts = stack_masks(present, self.widths, log_odds[0])[..., None] & self.known()[:, None]  # (M, B, K)
        mean = torch.where(counts, (log_odds * scale).sigmoid(), 0).sum(0) / counts.sum(0).clamp(min=1)
        return torch.where(counts.any(0), mean.logit(eps=1e-7), 0)

    @torch.no_grad()
    def class_sums(
        self,
        embeddings: Mapping[str, torch.Tensor],
        labels: torch.Tensor,
        present: Mapping[str, torch.Tensor] | None = None,
        sums: Sums | None = None,
    ) -> Sums:
        """Like [`Prototypes.class_sums`] for multi-hot labels (B, K): each sample counts in K of the 2 K classes."""
        for k, has_label in enumerate(labels.long().unbind(1)):
            sums = super().class_sums(embeddings, 2 * k + has_label, present, sums)
        return self.zero_sums() if sums is None else sums

    def _log_odds(self, embeddings: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The logits (M, B, K) of each label, 0 where a prototype is missing."""
        without, having = self.stacked_logits(embeddings).unflatten(-1, (self.num_labels, 2)).unbind(-1)
        known = self.known()[:, None]
        return torch.where(known, having, 0) - torch.where(known, without, 0)

    def _gaps(self) -> torch.Tensor:
        """The distance (M, K) between the two prototypes of each label, at least 1e-6."""
        gaps = []
        for name in self.widths:
            without, having = self.mean(name).unflatten(0, (self.num_labels, 2)).unbind(1)
            gaps.append(F.pairwise_distance(without, having, eps=0))
        return torch.stack(gaps).clamp(min=MIN_DISTANCE)
