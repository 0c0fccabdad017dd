"""Encode the label column of a table as lists of class names, or as numbers."""

import math
from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
from datasets import ClassLabel, Dataset
from transformers.utils import logging

from ..model.targets import MULTI_LABEL
from .columns import ROW, whole_column
from .labels import NUMBER


logger = logging.get_logger(__name__)

DEFAULT_SEPARATOR = "|"


def encode_targets(
    splits: dict[str, Dataset], label: str, problem_type: str, separator: str = DEFAULT_SEPARATOR
) -> dict[str, Dataset]:
    """
    Encode the column `label` of all splits. A test split without labels is left out.

    Args:
        splits (`dict[str, Dataset]`): the splits, with the column `source_row`. One is `train`.
        label (`str`): the column.
        problem_type (`str`): `"multi_label_classification"` for lists of names, or `"regression"` for fp64.
        separator (`str`, *optional*, defaults to `"|"`): what stands between two names in a text. Blanks around a name
            do not count, and an empty text has no names.

    Raises:
        ValueError: for a row whose label is missing or is no list of names or no finite number, or for a name that the
            training split lacks.
    """
    parse: Callable[[Any], Any] = (lambda value: _names(value, separator)) if problem_type == MULTI_LABEL else _number
    encoded = {}
    for name, split in splits.items():
        values = _named_values(split, label)
        if name == "test" and all(value is None for value in values):
            logger.warning("The test split has no labels: it is left out.")
            continue
        parsed = [parse(value) for value in values]
        if None in parsed:
            i = parsed.index(None)
            expected = f"names with {separator!r} between two" if problem_type == MULTI_LABEL else "a finite number"
            raise ValueError(
                f"Expected {expected} in column {label!r} of every row, got {values[i]!r:.80} in {split[i][ROW]}, one "
                f"of {parsed.count(None)} such rows; correct or drop them."
            )
        feature = datasets.Value("float64")
        if problem_type == MULTI_LABEL:
            feature = datasets.List(datasets.Value("string"))
        encoded[name] = split.remove_columns(label).add_column(label, parsed, feature=feature)
    if problem_type == MULTI_LABEL:
        _check_names(encoded, label)
    return encoded


def names_of(train: Dataset, label: str) -> list[str]:
    """The sorted names in the lists of a column."""
    return sorted({name for names in whole_column(train, label).to_pylist() for name in names})


def random_cut(size: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Sorted indices of `size` rows that remain, and of the share in (0, 1) that is taken out at random: at least one row,
    unless there is only one.
    """
    order = np.random.default_rng(seed).permutation(size)
    count = max(round(share * size), 1) if size > 1 else 0
    return np.sort(order[count:]), np.sort(order[:count])


def _named_values(split: Dataset, label: str) -> list[Any]:
    """The values of a column. The ids of lists of a `ClassLabel` become names."""
    feature, values = split.features[label], whole_column(split, label).to_pylist()
    inner = feature.feature if isinstance(feature, datasets.List | datasets.LargeList) else None
    if isinstance(inner, ClassLabel):
        return [None if ids is None else [inner.names[i] for i in ids] for ids in values]
    return values


def _names(value: Any, separator: str) -> list[str] | None:
    """The names in a text or a list, each once; none in an empty cell of a csv file, which is `None`."""
    if value is None:
        return []
    parts = value.split(separator) if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        return None
    return list(dict.fromkeys(part.strip() for part in parts if part.strip()))


def _number(value: Any) -> float | None:
    if isinstance(value, str) and NUMBER.fullmatch(value.strip()):
        value = float(value)
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None


def _check_names(splits: dict[str, Dataset], label: str) -> None:
    names = names_of(splits["train"], label)
    if not names:
        raise ValueError(
            f"Expected names of labels in column {label!r} of the training split, got none in any row; name another "
            "column."
        )
    for split, rows in splits.items():
        unknown = sorted(set(names_of(rows, label)) - set(names))
        if unknown:
            raise ValueError(
                f"Expected the labels of the training split in {split}, got {unknown[:5]} too; add training rows with "
                "these labels, or take them out."
            )
