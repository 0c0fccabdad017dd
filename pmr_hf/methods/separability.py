"""How well clusters of a modality's embeddings agree with the classes: their purity."""

from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch.utils.data import Dataset

from ..data.labels import NO_LABEL
from ..model.missing_modalities import stack_masks
from ..training.counted_samples import present_samples
from ..training.finite_checks import stop_not_finite
from ..training.prototype_trainer import PrototypeTrainer
from ..training.row_pass import pass_over_rows


EmbeddedRows = dict[str, tuple[np.ndarray, np.ndarray]]  # by modality, embeddings (N_m, D_m) and classes (N_m,)


def cluster_purity(embeddings: np.ndarray, labels: np.ndarray, num_clusters: int, seed: int) -> float:
    """
    The purity of the clusters that k-means finds in the embeddings, each dimension of which is scaled to [-1, 1] first.
    The best of ten runs of k-means is taken. One thread runs them, since the order of sums differs between threads.

    Args:
        embeddings (`np.ndarray`): (N, D), at least as many as clusters.
        labels (`np.ndarray`): (N,), the classes.
        num_clusters (`int`): the number of clusters.
        seed (`int`): determines the clusters.

    Returns:
        `float`: in (0, 1], see [`purity`].
    """
    from sklearn.cluster import KMeans  # slow to import
    from sklearn.preprocessing import minmax_scale

    scaled = minmax_scale(embeddings, feature_range=(-1, 1))
    with threadpool_limits(1):
        clusters = KMeans(num_clusters, n_init=10, random_state=seed).fit_predict(scaled)
    return purity(labels, clusters)


def purity(labels: np.ndarray, clusters: np.ndarray) -> float:
    """The share, in (0, 1], of the samples whose class (N,) is the most frequent one of their cluster (N,)."""
    counts = np.zeros((clusters.max() + 1, labels.max() + 1), dtype=np.int64)
    np.add.at(counts, (clusters, labels), 1)
    return float(counts.max(1).sum() / len(labels))


def embed_rows(trainer: PrototypeTrainer, dataset: Dataset, rows: list[int]) -> EmbeddedRows:
    """
    Embed these rows of a labelled dataset in evaluation mode. A row counts in the modalities that it has. Every process
    embeds a part of the rows, and gets the embeddings of all of them, in the order of `rows`. No random state is
    changed.

    Raises:
        ValueError: for a batch without labels, or labels that are not integers in 0..K-1.
        FloatingPointError: if the embeddings are not finite.
    """
    names = trainer.modalities
    parts: list[list[torch.Tensor]] = []  # by batch, the labels (N, M) and the embeddings of each modality (N, D_m)

    def keep(outputs: Any, labels: torch.Tensor, new: int) -> None:
        embeddings = trainer.embeddings_fn(outputs)
        present = stack_masks(present_samples(outputs), names, labels).T  # (B, M)
        batch = [torch.where(present, labels[:, None], NO_LABEL), *(embeddings[name] for name in names)]
        parts.append([in_order(trainer, values) for values in batch])  # repeated rows are the last ones, and cut off

    pass_over_rows(trainer, dataset, rows, keep, trainer.args.seed, "Separability of the embeddings")
    labels, *by_modality = (torch.cat(values)[: len(rows)] for values in zip(*parts, strict=True))
    embedded = {}
    for name, values, classes in zip(names, by_modality, labels.T, strict=True):
        counted = classes >= 0
        if not values[counted].isfinite().all():
            stop_not_finite(trainer.state.global_step, f"embeddings of {name} that are not finite")
        embedded[name] = values[counted].numpy(), classes[counted].numpy()
    return embedded


def in_order(trainer: PrototypeTrainer, values: torch.Tensor) -> torch.Tensor:
    """The values (B, D) of all P processes, which take rows in turn: (P * B, D) in the order of rows, on the CPU."""
    values = values.float() if values.is_floating_point() else values
    gathered = trainer.accelerator.gather(values.contiguous()).cpu()
    return gathered.unflatten(0, (trainer.args.world_size, -1)).transpose(0, 1).flatten(0, 1)
