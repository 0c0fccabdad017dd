"""
Weights of the classes, so that rare classes count as much as common ones, or as much as a user says. Weights of rare
labels, of which a row may have several, are in `prototype_terms.py`.
"""

import json
import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..data.labels import NO_LABEL, NUMBER, written_short
from ..data.shortened import shortened


BALANCED = "balanced"


def parse_class_weights(setting: Any) -> str | dict[Any, float] | None:
    """
    The setting `class_weights`: `"balanced"`, a dict from classes to weights, or `None`. A text of the command line is
    read as JSON. Raises `ValueError` for anything else, and for weights that are not finite numbers of at least 0.
    """
    if setting is None or (isinstance(setting, str) and setting == BALANCED):
        return setting
    found = setting
    if isinstance(setting, str):
        try:
            found = json.loads(setting)
        except json.JSONDecodeError:
            found = None
    if isinstance(found, Mapping) and found:
        weights = list(found.values())
        numbers = all(isinstance(weight, Real) and not isinstance(weight, bool) for weight in weights)
        if numbers and all(math.isfinite(weight) and weight >= 0 for weight in weights) and any(weights):
            return dict(found)
    raise ValueError(
        f"Expected `class_weights` to be 'balanced', or weights of at least 0 by class such as {{\"rare\": 5.0}}, got "
        f"{setting!r:.200}; correct it."
    )


def class_weights(
    setting: str | Mapping[Any, float], labels: np.ndarray | None, num_labels: int, names: Mapping[int, str]
) -> torch.Tensor:
    """
    The weight of each class.

    Args:
        setting (`str | Mapping`): `"balanced"` for N / (K' n_k), where n_k of the N labelled training rows are of class
            k and K' classes have rows; or weights by class. A class is given by its name, where 1 and 1.0 are the
            same, or, if no name is a number, also by its number in 0..K-1. All other classes have weight 1.
        labels (`np.ndarray`, *optional*): all labels of the training set, (N,) or (N, T), where they are known.
        num_labels (`int`): number of classes K.
        names (`Mapping[int, str]`): the names of the classes, or none.

    Returns:
        `torch.Tensor`: (K,) fp32.

    Raises:
        ValueError: for a class that is not there or that is named twice, and for `"balanced"` if the labels are not
            known.
    """
    if setting == BALANCED:
        if labels is None:
            raise ValueError(
                "Expected a training set whose labels are known before training for `class_weights='balanced'`, such "
                "as a `datasets.Dataset` or a list of rows with a MultimodalCollator; give weights by class."
            )
        counts = np.bincount(labels[labels != NO_LABEL], minlength=num_labels)
        balanced = counts.sum() / (np.count_nonzero(counts) * counts.clip(1))
        return torch.tensor(np.where(counts > 0, balanced, 1.0), dtype=torch.float32)
    classes = {written_short(name): k for k, name in names.items()}
    if not any(NUMBER.fullmatch(name) for name in classes):
        classes = {str(k): k for k in range(num_labels)} | classes
    unknown = [key for key in setting if written_short(key) not in classes]
    if unknown:
        raise ValueError(
            f"Expected `class_weights` of the classes {shortened(list(names.values()) or list(classes))}, got "
            f"{shortened(unknown)} too; correct the names."
        )
    chosen = {key: classes[written_short(key)] for key in setting}
    if len(set(chosen.values())) < len(chosen):
        raise ValueError(f"Expected `class_weights` with each class once, got {shortened(list(setting))}; remove one.")
    weights = torch.ones(num_labels)
    for key, weight in setting.items():
        weights[chosen[key]] = float(weight)
    return weights


def weighted_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, smoothing: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The sum of the weighted cross entropies of a batch, and the sum of their weights. Their ratio is the weighted mean
    of `torch.nn.CrossEntropyLoss(weight=...)`.

    Args:
        logits (`torch.Tensor`): (B, K), or (B, T, K) for segments.
        labels (`torch.Tensor`): (B,) or (B, T) int64. A label of -100 does not count.
        weights (`torch.Tensor`): (K,).
        smoothing (`float`): label smoothing, in [0, 1).

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: two scalars.
    """
    logits, labels = logits.float().flatten(0, -2), labels.flatten()
    total = F.cross_entropy(logits, labels, weights, reduction="sum", label_smoothing=smoothing)
    return total, torch.where(labels == NO_LABEL, 0, weights[labels.clamp(min=0)]).sum()
