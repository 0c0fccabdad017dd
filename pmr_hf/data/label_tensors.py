"""Convert the labels of rows to a tensor of the batch: one class, several labels, or numbers."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ..model.targets import MULTI_LABEL, SINGLE_LABEL
from .labels import integer_labels
from .shortened import shortened


NUMBER = int | float | np.number
Place = Callable[[int], str]  # where the label with this index comes from, for messages


def labels_tensor(
    problem_type: str,
    labels: Sequence[Any],
    num_labels: int | None = None,
    class_names: Sequence[str] | None = None,
    segments: bool = False,
    place: Place = "row {}".format,
) -> torch.Tensor:
    """
    Convert the labels of rows to a tensor, for a model of this problem type.

    Args:
        problem_type (`str`): one of [`~pmr_hf.model.targets.PROBLEM_TYPES`].
        labels (`Sequence`): one label per row.
        num_labels (`int`, *optional*): the number of classes, labels or targets, to check the labels.
        class_names (`Sequence[str]`, *optional*): the names of the classes or labels, in the order of their ids.
        segments (`bool`, *optional*, defaults to `False`): see [`~pmr_hf.data.labels.integer_labels`].
        place (`Callable`, *optional*): where the label with an index comes from, for messages.

    Returns:
        `torch.Tensor`: (B,) int64 classes, or (B, T) of segments; multi-hot labels (B, K) in fp32; or targets (B,) or
        (B, R) in fp64.

    Raises:
        ValueError: see `integer_labels` and `class_ids`, `multi_hot`, or `numeric_targets`, by problem type.
    """
    if problem_type == SINGLE_LABEL:
        return integer_labels(class_ids(labels, class_names, place), num_labels, segments)
    rows = [label.tolist() if isinstance(label, np.ndarray | torch.Tensor) else label for label in labels]
    if problem_type == MULTI_LABEL:
        return multi_hot(rows, num_labels, class_names, place)
    return numeric_targets(rows, num_labels, place)


def class_ids(labels: Sequence[Any], class_names: Sequence[str] | None, place: Place) -> Sequence[Any]:
    """The ids of class names. Other labels are returned unchanged. Raises `ValueError` for an unknown name."""
    if not class_names or isinstance(labels, np.ndarray) or not any(isinstance(label, str) for label in labels):
        return labels
    ids = {name: k for k, name in enumerate(class_names)}
    for i, label in enumerate(labels):
        if label not in ids:
            raise ValueError(
                f"Expected a class among {shortened(list(ids))} in {place(i)}, got {label!r:.80}; set the model's "
                "`id2label` to the names of all classes, or correct the label."
            )
    return [ids[label] for label in labels]


def multi_hot(
    labels: Sequence[Any], num_labels: int | None, class_names: Sequence[str] | None, place: Place
) -> torch.Tensor:
    """
    Convert lists of class names, or lists of K zeros and ones, to multi-hot labels (B, K) in fp32. An empty list stands
    for no label. Raises `ValueError` for any other label, such as a list of ids, and for an unknown name.
    """
    ids = {name: k for k, name in enumerate(class_names or ())}
    width = num_labels if num_labels is not None else len(ids) or max(map(_length, labels), default=0)
    result = torch.zeros(len(labels), width)
    for i, label in enumerate(labels):
        if isinstance(label, list | tuple) and all(isinstance(part, str) for part in label):
            unknown = [name for name in label if name not in ids]
            if unknown:
                raise ValueError(
                    f"Expected labels among {shortened(list(ids))} in {place(i)}, got {unknown[0]!r:.80}; set the "
                    "model's `id2label` to the names of all labels, or correct the label."
                )
            result[i, [ids[name] for name in label]] = 1
        elif _length(label) == width and all(isinstance(part, NUMBER) and part in (0, 1) for part in label):
            result[i] = torch.tensor([float(part) for part in label])
        else:
            raise ValueError(
                f"Expected a list of class names, or of {width or 'K'} zeros and ones, as the label of {place(i)}, got "
                f"{label!r:.80}; give names in place of ids, which could be mistaken for zeros and ones, and [] for a "
                "row without a label."
            )
    return result


def numeric_targets(labels: Sequence[Any], num_targets: int | None, place: Place) -> torch.Tensor:
    """
    Convert numbers to targets (B,), or lists of R numbers to targets (B, R), in fp64. Raises `ValueError` for a label
    that is no number, not finite, or of another size than the first or than `num_targets`.
    """
    size = _length(labels[0]) if labels else 0  # 0 for a number
    for i, label in enumerate(labels):
        parts = label if isinstance(label, list | tuple) else [label]
        numbers = all(isinstance(part, NUMBER) and not isinstance(part, bool) for part in parts)
        if not numbers or not np.isfinite(parts).all():
            raise ValueError(
                f"Expected a finite number, or a list of them, as the target of {place(i)}, got {label!r:.80}; correct "
                "it, or drop the row."
            )
        if _length(label) != size or (num_targets is not None and len(parts) != num_targets):
            count = num_targets if num_targets is not None else max(size, 1)
            raise ValueError(
                f"Expected {count} {'number' if count == 1 else 'numbers'} as the target of {place(i)}, as in the "
                f"other rows and in the model's `num_labels`, got {label!r:.80}; correct one of them."
            )
    return torch.tensor(labels, dtype=torch.float64)


def _length(label: Any) -> int:
    return len(label) if isinstance(label, list | tuple) else 0
