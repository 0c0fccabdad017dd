"""Labels of segments, such as the seconds of a video. A method treats each labelled segment as a sample."""

from collections.abc import Mapping

import torch


def by_segment(
    embeddings: Mapping[str, torch.Tensor], labels: torch.Tensor, counted: Mapping[str, torch.Tensor] | None
) -> tuple[Mapping[str, torch.Tensor], torch.Tensor, Mapping[str, torch.Tensor] | None]:
    """
    Flatten a batch with labels of segments, so that each segment is one row.

    Args:
        embeddings (`Mapping[str, torch.Tensor]`): (B, D_m), or (B, T, D_m) for segments, by modality.
        labels (`torch.Tensor`): (B,), or (B, T) with -100 for segments without a label.
        counted (`Mapping[str, torch.Tensor]`, *optional*): the masks (B,) bool of the samples that count, by modality;
            all samples by default.

    Returns:
        Embeddings (B * T, D_m), labels (B * T,), and the masks (B * T,) bool of the rows that count, by modality. A
        segment without a label does not count. For labels (B,), the arguments are returned unchanged.

    Raises:
        ValueError: unless there is one embedding for each label.
    """
    if any(embedding.shape[:-1] != labels.shape for embedding in embeddings.values()):
        found = {name: tuple(embedding.shape) for name, embedding in embeddings.items()}
        raise ValueError(
            "Expected embeddings (B, D_m) and labels (B,), or (B, T, D_m) and (B, T) of segments, got embeddings "
            f"{found} and labels {tuple(labels.shape)}; pool embeddings of tokens, and turn one-hot labels to classes."
        )
    if labels.dim() == 1:
        return embeddings, labels, counted
    labelled = labels >= 0
    counted = {
        name: (labelled if counted is None else labelled & counted[name][:, None]).flatten() for name in embeddings
    }
    flat = {name: embedding.flatten(0, 1) for name, embedding in embeddings.items()}
    return flat, labels.flatten().clamp(min=0), counted
