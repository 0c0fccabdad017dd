"""
Functions for samples that lack modalities: presence masks, modality dropout, and replacements of absent embeddings.

Throughout the package, `present` maps each modality to a mask (B,) bool of the samples that have it. `None` means that
all samples have all modalities. `pmr_hf/inference/answers.py` chooses the answer of samples that lack some.
"""

from collections.abc import Collection, Mapping

import torch
from torch import nn


Masks = Mapping[str, torch.Tensor]


def all_present(names: Collection[str], like: torch.Tensor) -> dict[str, torch.Tensor]:
    """
    The masks (B,) bool of a batch in which all samples have all modalities `names`. `like` (B, ...) gives B and the
    device.
    """
    return dict.fromkeys(names, torch.ones(len(like), dtype=torch.bool, device=like.device))


def stack_masks(masks: Mapping[str, torch.Tensor] | None, names: Collection[str], like: torch.Tensor) -> torch.Tensor:
    """
    Stack the masks of several modalities into one tensor.

    Args:
        masks (`Mapping[str, torch.Tensor]`, *optional*): (B,) bool by modality. `None` stands for masks that are all
            `True`.
        names (`Collection[str]`): the M modalities, in the order of the rows of the result.
        like (`torch.Tensor`): a tensor (B, ...) that gives B and the device if `masks` is `None`.

    Returns:
        `torch.Tensor`: (M, B) bool.
    """
    if masks is None:
        return torch.ones(len(names), len(like), dtype=torch.bool, device=like.device)
    return torch.stack([masks[name] for name in names])


def drop_modalities(present: Mapping[str, torch.Tensor], probability: float) -> dict[str, torch.Tensor]:
    """
    Drop each modality of each sample at random (modality dropout). Takes and returns masks (B,) bool by modality.
    `probability` is in [0, 1). A sample that would lose all its modalities keeps all of them.
    """
    before = torch.stack(list(present.values()))  # (modalities, B)
    after = before & (torch.rand(before.shape, device=before.device) >= probability)
    after = torch.where(after.any(0), after, before)
    return dict(zip(present, after, strict=True))


class AbsentVectors(nn.ParameterDict):
    """
    One learned vector (D_m,) per modality, at first 0. It replaces the modality's embedding in samples that lack it.

    Args:
        widths (`dict[str, int]`): width D_m of each modality's embedding at the fusion head.
    """

    def __init__(self, widths: Mapping[str, int]):
        super().__init__({name: torch.zeros(width) for name, width in widths.items()})

    def replace(
        self, embeddings: Mapping[str, torch.Tensor], present: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """
        Replace the embeddings (B, D_m) of each modality by its vector in the samples that lack it. `present` has the
        masks (B,) bool, by modality, of the samples that have it.
        """
        return {
            name: torch.where(present[name][:, None], embedding, self[name].to(embedding.dtype))
            for name, embedding in embeddings.items()
        }


def spread_rows(values: torch.Tensor, rows: torch.Tensor, size: int) -> torch.Tensor:
    """Place the values (N, ...) at the indices `rows` (N,) of a tensor (size, ...) of zeros."""
    return values.new_zeros(size, *values.shape[1:]).index_copy(0, rows, values)
