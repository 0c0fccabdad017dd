"""Linear probes: how well a linear classifier reads the classes from the embeddings of one modality."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..model.modeling import MultimodalModel


PROBE_ROWS = 10_000  # at most so many training rows fit a linear probe

Collator = Callable[[list[dict[str, Any]]], dict[str, Any]]  # such as `MultimodalCollator`


class Embedded(NamedTuple):
    """The embeddings of a whole data set, N rows."""

    embeddings: dict[str, torch.Tensor]  # (N, D_m) of each modality
    present: dict[str, torch.Tensor]  # (N,) of each modality, bool
    labels: torch.Tensor  # (N,)


def embed(model: MultimodalModel, rows: Dataset, collator: Collator, batch_size: int, description: str) -> Embedded:
    """Run a model over all rows and keep the embeddings on its device. `description` labels the progress bar."""
    embeddings: dict[str, list[torch.Tensor]] = {name: [] for name in model.config.modalities}
    present: dict[str, list[torch.Tensor]] = {name: [] for name in model.config.modalities}
    labels = []
    for batch in tqdm(DataLoader(rows, batch_size, collate_fn=collator), desc=description, leave=False):
        labels.append(batch.pop("labels").to(model.device))
        output = model(**{name: {key: v.to(model.device) for key, v in part.items()} for name, part in batch.items()})
        full = torch.ones_like(labels[-1], dtype=torch.bool)
        for name, embedding in output.embeddings.items():
            embeddings[name].append(embedding)
            present[name].append(full if output.present is None else output.present[name])
    return Embedded(
        {name: torch.cat(parts) for name, parts in embeddings.items()},
        {name: torch.cat(parts) for name, parts in present.items()},
        torch.cat(labels),
    )


def probe_accuracy(name: str, fitted: Embedded, tested: Embedded) -> float:
    """Accuracy of logistic regression on the standardised embeddings of one modality, where it is present."""

    def rows(data: Embedded) -> tuple[Any, Any]:
        present = data.present[name]
        return data.embeddings[name][present].float().cpu().numpy(), data.labels[present].cpu().numpy()

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return probe.fit(*rows(fitted)).score(*rows(tested))
