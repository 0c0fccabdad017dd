"""The labels of a dataset that are known before its rows are read."""

from typing import Any

import datasets
import numpy as np

from ..model.targets import MULTI_LABEL
from .collator import MultimodalCollator
from .columns import labels_in


def labels_of(dataset: Any, collator: Any) -> np.ndarray | None:
    """
    All labels of a dataset, or `None` if they are only known once its rows are read: classes (N,) or (N, T), multi-hot
    labels (N, K) int64, or targets (N,) or (N, R) fp64.
    """
    if not isinstance(collator, MultimodalCollator) or collator.label is None:
        return None
    if isinstance(dataset, datasets.Dataset) and dataset.format["type"] != "custom":
        labels = labels_in(dataset, collator.label)
    elif isinstance(dataset, list):
        labels = [row[collator.label] for row in dataset]
    else:
        return None
    values = collator.convert_labels(labels).numpy()
    return values.astype(np.int64) if collator.problem_type == MULTI_LABEL else values
