"""Which rows of a dataset the prototypes are taken from: the draw of the subset."""

import math
from typing import Any

import numpy as np
import torch

from ..data.collator import MultimodalCollator
from ..data.known_labels import labels_of
from ..data.missing_values import present_rows
from ..model.targets import MULTI_LABEL


# A draw has at least this number of rows of each class with each modality, or all such rows. Fewer give poor means.
LEAST_ROWS = 20


class PrototypeRows:
    """
    Draws the rows that a refresh takes the prototypes from: a share of all rows, and further rows of each class that
    has fewer than 20 rows with some modality in this share. With several labels, the draw has at least 20 rows with
    and 20 without each label. Where fewer rows exist, it has all of them.

    The classes and the missing modalities must be known before rows are read. They are known for a
    `datasets.Dataset` without a transform and for a list, with a [`MultimodalCollator`]. The draw from any other
    dataset is a share of its rows without regard to classes, of at least 20 times `num_labels` rows.

    Args:
        dataset: a map-style dataset with a length.
        collator: collates the rows.
        num_labels (`int`, *optional*): the number of classes or labels, if it is known.
    """

    def __init__(self, dataset: Any, collator: Any, num_labels: int | None = None):
        self.dataset = dataset
        self.num_labels = num_labels
        self.labels: np.ndarray | None = None  # (N,), or (N, T) of segments, or (N, K) of several labels
        self.present: list[np.ndarray] = []  # (N,) bool of each modality
        labels = prototype_classes(dataset, collator)
        if labels is not None and isinstance(collator, MultimodalCollator):
            self.labels, self.present = labels, list(present_rows(dataset, collator.columns).values())

    def draw(self, fraction: float, seed: int) -> list[int]:
        """
        Draw the indices of the rows, at least one and none twice. `fraction` is in (0, 1]. A seed always gives the same
        rows.
        """
        size = len(self.dataset)
        order = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).numpy()
        chosen = np.arange(size) < math.ceil(fraction * size)  # of the rows in the drawn order
        if self.labels is None:
            chosen |= np.arange(size) < LEAST_ROWS * (self.num_labels or 0)
        else:
            labels = self.labels[order].reshape(size, -1)
            for present in self.present:
                counted = present[order, None] & (labels >= 0)
                first = rank_in_class(labels[counted]) < LEAST_ROWS
                chosen[counted.nonzero()[0][first]] = True
        return order[chosen].tolist()


def prototype_classes(dataset: Any, collator: Any) -> np.ndarray | None:
    """
    The classes (N, ...) of all rows among the prototypes, or `None` as for [`labels_of`]. Of several labels, they are
    (N, K): class 2 k + y for label k, where y is 1 if the row has it.
    """
    labels = labels_of(dataset, collator)
    if labels is None or collator.problem_type != MULTI_LABEL:
        return labels
    return 2 * np.arange(labels.shape[1]) + labels


def rank_in_class(labels: np.ndarray) -> np.ndarray:
    """For each of the labels (N,), how many of the labels before it are equal to it, (N,)."""
    by_class = np.argsort(labels, kind="stable")
    in_order = labels[by_class]
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[by_class] = np.arange(len(labels)) - np.searchsorted(in_order, in_order)
    return ranks


def rows_of_process(rows: list[int], processes: int, index: int) -> tuple[list[int], int]:
    """
    The rows that one of n processes embeds, which are every n-th row, and the number of these rows that count. Sharded
    models need the same number of batches in each process. The last row may therefore repeat another one, and then does
    not count.
    """
    own = [rows[(index + i) % len(rows)] for i in range(0, len(rows), processes)]
    return own, len(rows[index::processes])
