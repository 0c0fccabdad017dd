"""Embed a whole dataset: the encoders run once over all rows, and what follows is computed from the embeddings."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..model.modeling import MultimodalModel


Collator = Callable[[list[dict[str, Any]]], dict[str, Any]]  # for instance a `MultimodalCollator`


class Embedded(NamedTuple):
    """The embeddings of a whole dataset with N rows."""

    embeddings: dict[str, torch.Tensor]  # (N, D_m), by modality
    present: dict[str, torch.Tensor]  # (N,) bool, by modality
    labels: torch.Tensor  # (N,), or (N, K) of several labels or targets


def embed(model: MultimodalModel, rows: Dataset, collator: Collator, batch_size: int, description: str) -> Embedded:
    """Run a model over all rows and keep the embeddings on its device. `description` labels the progress bar."""
    embeddings: dict[str, list[torch.Tensor]] = {name: [] for name in model.config.modalities}
    present: dict[str, list[torch.Tensor]] = {name: [] for name in model.config.modalities}
    labels = []
    for batch in tqdm(DataLoader(rows, batch_size, collate_fn=collator), desc=description, leave=False):
        labels.append(batch.pop("labels").to(model.device))
        output = model(**{name: {key: v.to(model.device) for key, v in part.items()} for name, part in batch.items()})
        full = torch.ones(len(labels[-1]), dtype=torch.bool, device=model.device)
        for name, embedding in output.embeddings.items():
            embeddings[name].append(embedding)
            present[name].append(full if output.present is None else output.present[name])
    return Embedded(
        {name: torch.cat(parts) for name, parts in embeddings.items()},
        {name: torch.cat(parts) for name, parts in present.items()},
        torch.cat(labels),
    )
