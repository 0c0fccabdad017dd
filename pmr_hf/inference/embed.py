"""Embed a whole dataset: the encoders run once over all rows, and what follows is computed from the embeddings."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.collator import MultimodalCollator
from ..data.table_values import frames_as_datasets
from ..model.modeling import MultimodalModel


Collator = Callable[[list[dict[str, Any]]], dict[str, Any]]  # for instance a `MultimodalCollator`


class Embedded(NamedTuple):
    """The embeddings of a whole dataset with N rows."""

    embeddings: dict[str, torch.Tensor]  # (N, D_m), by modality
    present: dict[str, torch.Tensor]  # (N,) bool, by modality
    labels: torch.Tensor  # (N,), or (N, K) of several labels or targets


def embed(model: MultimodalModel, rows: Dataset, collator: Collator, batch_size: int, description: str) -> Embedded:
    """
    Run a model over all rows and keep the embeddings on its device. `description` labels the progress bar.

    Raises:
        ValueError: for no rows, several splits in place of rows, batches without labels, and class names of another
            order than in the model.
    """
    rows = frames_as_datasets(rows)
    if isinstance(collator, MultimodalCollator):
        collator = collator.matched(model.config.num_labels, model.config.problem, model.config.id2label)
        collator.check_class_names(rows)
    if isinstance(rows, dict) or len(rows) == 0:
        found = f"the splits {list(rows)}" if isinstance(rows, dict) else "none"
        raise ValueError(f"Expected the rows of one dataset with labels, got {found}; give one split that has rows.")
    embeddings: dict[str, list[torch.Tensor]] = {name: [] for name in model.config.modalities}
    present: dict[str, list[torch.Tensor]] = {name: [] for name in model.config.modalities}
    labels = []
    for batch in tqdm(DataLoader(rows, batch_size, collate_fn=collator), desc=description, leave=False):
        if "labels" not in batch:
            raise ValueError(
                f"Expected batches with labels, got {list(batch)}; give a collator with `label=`, the column of labels."
            )
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
