"""
Samples that lack modalities: which ones they have, modality dropout, and what stands in for an absent embedding.

Everywhere, `present` says which samples of a batch have a modality: one mask (B,) bool per modality, by name, or `None`
if all samples have all modalities.
"""

from collections.abc import Collection, Mapping

import torch
from torch import nn


def all_present(names: Collection[str], like: torch.Tensor) -> dict[str, torch.Tensor]:
    """Masks (B,) of samples that all have each of the modalities `names`. `like` (B, ...) gives B and the device."""
    return dict.fromkeys(names, torch.ones(len(like), dtype=torch.bool, device=like.device))


def stack_masks(masks: Mapping[str, torch.Tensor] | None, names: Collection[str], like: torch.Tensor) -> torch.Tensor:
    """
    The masks of several modalities as one tensor.

    Args:
        masks (`Mapping[str, torch.Tensor]`, *optional*): (B,) bool by modality. `None` stands for masks of `True` only.
        names (`Collection[str]`): the M modalities, in the order of the rows of the result.
        like (`torch.Tensor`): (B, ...), which gives B and the device if `masks` is `None`.

    Returns:
        `torch.Tensor`: (M, B) bool.
    """
    if masks is None:
        return torch.ones(len(names), len(like), dtype=torch.bool, device=like.device)
    return torch.stack([masks[name] for name in names])


def drop_modalities(present: Mapping[str, torch.Tensor], probability: float) -> dict[str, torch.Tensor]:
    """
    Modality dropout: the masks (B,) of `present`, with each modality of each sample dropped at random. `probability` is
    in [0, 1). A sample that would lose all its modalities keeps all of them.
    """
    before = torch.stack(list(present.values()))  # (modalities, B)
    after = before & (torch.rand(before.shape, device=before.device) >= probability)
    after = torch.where(after.any(0), after, before)
    return dict(zip(present, after, strict=True))


class AbsentVectors(nn.ParameterDict):
    """
    The learned vector (D_m,) of each modality, which replaces its embedding in samples that lack it. They begin as 0.

    Args:
        widths (`dict[str, int]`): width D_m of each modality's embedding at the fusion head.
    """

    def __init__(self, widths: Mapping[str, int]):
        super().__init__({name: torch.zeros(width) for name, width in widths.items()})

    def replace(
        self, embeddings: Mapping[str, torch.Tensor], present: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Embeddings (B, D_m) by modality, with the learned vector where `present` (B,) says that a sample lacks it."""
        return {
            name: torch.where(present[name][:, None], embedding, self[name].to(embedding.dtype))
            for name, embedding in embeddings.items()
        }


def spread_rows(values: torch.Tensor, rows: torch.Tensor, size: int) -> torch.Tensor:
    """The values (N, ...) of the samples at the indices `rows` (N,) among `size` samples; zeros for the others."""
    return values.new_zeros(size, *values.shape[1:]).index_copy(0, rows, values)
