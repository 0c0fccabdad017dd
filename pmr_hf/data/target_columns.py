"""Encode the label column of a table as lists of class names, or as numbers."""

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import datasets
import numpy as np
from datasets import ClassLabel, Dataset
from transformers.utils import logging

from ..model.targets import MULTI_LABEL, REGRESSION
from .column_kinds import LIST_AS_TEXT
from .columns import ROW, names_of_ids, whole_column
from .labels import NUMBER, check_written_once, label_text


logger = logging.get_logger(__name__)

DEFAULT_SEPARATOR = "|"
SEPARATORS = ";,|"  # what files often have between two labels


def target_name(columns: Sequence[str], problem_type: str) -> str:
    """
    The name of the column that holds the targets of these columns: their names with commas between them.

    Raises:
        ValueError: for no column, the same column twice, or several columns if the problem is no regression.
    """
    if not columns or len(set(columns)) < len(columns):
        raise ValueError(f"Expected a label column, or several different ones, got {list(columns)}; correct them.")
    if len(columns) > 1 and problem_type != REGRESSION:
        raise ValueError(
            f"Expected one label column with problem_type={problem_type!r}, got {list(columns)}; name one, or put the "
            "names of a row's labels into one column, such as 'cat|dog', and train with "
            "problem_type='multi_label_classification'."
        )
    return ",".join(columns)


def encode_targets(
    splits: dict[str, Dataset], columns: Sequence[str], problem_type: str, separator: str = DEFAULT_SEPARATOR
) -> dict[str, Dataset]:
    """
    Encode the label columns of all splits as one, see [`target_name`]. A test split without labels is left out.

    Args:
        splits (`dict[str, Dataset]`): the splits, with the column `source_row`. One is `train`.
        columns (`Sequence[str]`): the columns; several only in a regression.
        problem_type (`str`): `"multi_label_classification"` for lists of names, or `"regression"` for fp64, or lists of
            fp64 if there are several columns or the cells are lists of numbers.
        separator (`str`, *optional*, defaults to `"|"`): what stands between two names in a text. Blanks around a name
            do not count, and an empty or missing cell has no names.

    Raises:
        ValueError: for a cell that is no list of names; in a regression, for one that is missing or no finite number.
            Also for a training split without any name, and for a name that the training split lacks.
    """
    label = target_name(columns, problem_type)
    several = problem_type == MULTI_LABEL
    parse: Callable[[Any], Any] = (lambda value: _names(value, separator)) if several else _numbers
    encoded = {}
    for name, split in splits.items():
        values = _values(split, columns)
        if name == "test" and all(value is None or value == [None] * len(columns) for value in values):
            logger.warning("The test split has no labels: it is left out.")
            continue
        parsed = [parse(value) for value in values]
        if None in parsed:
            i = parsed.index(None)
            expected = f"names with {separator!r} between two, or lists of names," if several else "a finite number"
            raise ValueError(
                f"Expected {expected} in {_named(columns)} of every row, got {values[i]!r:.80} in {split[i][ROW]}, one "
                f"of {parsed.count(None)} such rows; correct or drop them."
            )
        feature = datasets.Value("string" if several else "float64")
        if several or isinstance(parsed[0], list):
            feature = datasets.List(feature)
        encoded[name] = split.remove_columns(list(columns)).add_column(label, parsed, feature=feature)
    if several:
        _check_names(encoded, label)
        _warn_of_separator(whole_column(splits["train"], label).to_pylist(), label, separator)
    return encoded


def names_of(train: Dataset, label: str) -> list[str]:
    """The sorted names in the lists of a column."""
    return sorted({name for names in whole_column(train, label).to_pylist() for name in names})


def target_names(train: Dataset, columns: Sequence[str]) -> list[str]:
    """The names of the numbers to predict: those of their columns, or "size 1", "size 2" for lists in a column size."""
    first = train[0][target_name(columns, REGRESSION)]
    if len(columns) > 1 or not isinstance(first, list):
        return list(columns)
    return [f"{columns[0]} {i}" for i in range(1, len(first) + 1)]


def random_cut(size: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Split `size` rows at random. Returns the sorted indices of the rows that remain, and of those that are taken out: a
    `share`, in (0, 1), but at least one row, unless there is only one.
    """
    order = np.random.default_rng(seed).permutation(size)
    count = max(round(share * size), 1) if size > 1 else 0
    return np.sort(order[count:]), np.sort(order[:count])


def _values(split: Dataset, columns: Sequence[str]) -> list[Any]:
    """
    The values of a column, or lists of those of several. The ids of a `ClassLabel`, and lists of them, become names.
    """
    if len(columns) > 1:
        return [list(row) for row in zip(*(whole_column(split, name).to_pylist() for name in columns), strict=True)]
    feature, values = split.features[columns[0]], whole_column(split, columns[0]).to_pylist()
    inner = feature.feature if isinstance(feature, datasets.List | datasets.LargeList) else None
    if isinstance(inner, ClassLabel):
        return [None if ids is None else [inner.names[i] for i in ids] for ids in values]
    if isinstance(feature, ClassLabel):
        return names_of_ids(feature, values)
    return values


def _names(value: Any, separator: str) -> list[str] | None:
    """The names in a text or a list, each once. A missing cell has no names. Returns `None` for anything else."""
    if value is None:
        return []
    if isinstance(value, str) and LIST_AS_TEXT.fullmatch(value.strip()):
        return None
    parts = value.split(separator) if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        return None
    return list(dict.fromkeys(label_text(part) for part in parts if part.strip()))


def _numbers(value: Any) -> float | list[float] | None:
    """A number, or the numbers of a list; `None` if one of them is missing or no finite number."""
    if not isinstance(value, list):
        return _number(value)
    numbers = [_number(part) for part in value]
    return None if None in numbers or not numbers else numbers


def _named(columns: Sequence[str]) -> str:
    return ("column " if len(columns) == 1 else "columns ") + " and ".join(map(repr, columns))


def _number(value: Any) -> float | None:
    if isinstance(value, str) and NUMBER.fullmatch(value.strip()):
        value = float(value)
    known = isinstance(value, int | float | Decimal) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None


def _warn_of_separator(cells: list[Any], label: str, separator: str) -> None:
    """Warn if no text has the separator, but another mark that often stands between names."""
    texts = [cell for cell in cells if isinstance(cell, str)]
    if any(separator in text for text in texts):
        return
    for mark in SEPARATORS:
        count = sum(mark in text for text in texts)
        if count:
            logger.warning(
                f"No cell of column {label!r} has the separator {separator!r}, but {count} of {len(cells)} have "
                f"{mark!r}, so that each of these is one label. If they are several, set label_separator={mark!r} "
                "(--label_separator)."
            )
            return


def _check_names(splits: dict[str, Dataset], label: str) -> None:
    names = names_of(splits["train"], label)
    if not names:
        raise ValueError(
            f"Expected names of labels in column {label!r} of the training split, got none in any row; name another "
            "column."
        )
    check_written_once(f"label of column {label!r}", names)
    for split, rows in splits.items():
        unknown = sorted(set(names_of(rows, label)) - set(names))
        if unknown:
            raise ValueError(
                f"Expected the labels of the training split in {split}, got {unknown[:5]} too; add training rows with "
                "these labels, or take them out."
            )
