"""Functions for the columns of a dataset, and the name of the column with the source of each row."""

import csv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets import Dataset


ROW = "source_row"  # the column that says where a row comes from, for messages


def as_list(value: str | list[str]) -> list[str]:
    """Put a string into a list. A list is returned unchanged."""
    return [value] if isinstance(value, str) else value


def parse_column(text: str) -> str | list[str]:
    """
    Parse the value of a modality in --columns: the name of a column, or several names with commas between them. A name
    that contains a comma stands in double quotes, as in a csv file.

    Raises:
        ValueError: for an empty name, or a quote that does not close.
    """
    try:
        names = next(csv.reader([text], strict=True))
    except csv.Error as error:
        raise ValueError(
            f"Expected names of columns as in image=picture or vitals=age,weight, got {text!r} ({error}); correct it."
        ) from error
    if not names or not all(names):
        raise ValueError(f"Expected names of columns with a comma between two of them, got {text!r}; correct it.")
    return names[0] if len(names) == 1 else names


def number_columns(columns: Mapping[str, str | list[str]], numbers_in: Collection[str]) -> set[str]:
    """The columns that only the modalities `numbers_in` read. One that another modality also reads stays as it is."""
    others = {part for name, column in columns.items() if name not in numbers_in for part in as_list(column)}
    return {part for name in numbers_in for part in as_list(columns[name])} - others


def whole_column(dataset: Dataset, column: str) -> pa.ChunkedArray:
    """A column of all rows, as Arrow holds it, which is much faster than `dataset[column]` for a selection of rows."""
    # The Arrow table holds all rows. A selection or a shuffle only adds indices into it.
    values = dataset.data.column(column)
    return values if dataset._indices is None else values.take(dataset._indices.column(0))


def labels_in(dataset: Dataset, column: str) -> np.ndarray | list[Any]:
    """The labels of all rows: an array if all are integers, else a list."""
    values = whole_column(dataset, column)
    if pa.types.is_integer(values.type) and not values.null_count:
        return values.to_numpy()
    return values.to_pylist()


def holds_strings(feature: Any) -> bool:
    """Whether a column of a dataset holds strings or lists of strings, as a column of paths does."""
    feature = getattr(feature, "feature", feature)
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")


def undecoded(rows: Dataset) -> Dataset:
    """
    Let a dataset return pictures, sound and video, and lists of them, as the files `{"bytes", "path"}`. If `datasets`
    decodes them itself, it stops at the first file that cannot be read.
    """
    for column, feature in rows.features.items():
        if decodes(feature):
            rows = rows.cast_column(column, _undecoded_feature(feature))
    return rows


def decodes(feature: Any) -> bool:
    """Whether a column of a dataset decodes files."""
    return bool(_undecoded_feature(feature) != feature)


def _undecoded_feature(feature: Any) -> Any:
    if isinstance(feature, (datasets.Image, datasets.Audio, datasets.Video)):
        return replace(feature, decode=False)
    if isinstance(feature, (datasets.List, datasets.LargeList)):
        return replace(feature, feature=_undecoded_feature(feature.feature))
    return feature


def with_class_names(rows: Dataset, columns: Collection[str]) -> Dataset:
    """
    Write the names of classes in place of their ids in each of these columns that is a `ClassLabel`. Another table of
    the same classes may number them in another way.
    """
    for column in rows.column_names:
        feature = rows.features[column]
        if column in columns and isinstance(feature, datasets.ClassLabel):
            names = names_of_ids(feature, whole_column(rows, column).to_pylist())
            rows = _replaced(rows, column, names, "string")
    return rows


def names_of_ids(feature: datasets.ClassLabel, ids: Sequence[int | None]) -> list[str | None]:
    """The names of the ids of classes, `None` for a missing one."""
    return [None if i is None or i < 0 else feature.names[i] for i in ids]


def _replaced(rows: Dataset, column: str, values: Any, dtype: str) -> Dataset:
    # The new column comes first, since a dataset without columns has no rows.
    new = f"{column} as {dtype}"
    rows = rows.add_column(new, values, feature=datasets.Value(dtype))
    return rows.remove_columns(column).rename_column(new, column)


def with_numbers(rows: Dataset, columns: Collection[str]) -> Dataset:
    """Convert to fp64 each of these columns whose strings are all numbers or missing."""
    for column in rows.column_names:
        feature = rows.features[column]
        if column in columns and isinstance(feature, datasets.Value) and holds_strings(feature):
            texts = whole_column(rows, column).to_pylist()
            try:
                values = np.array([(text and text.strip()) or None for text in texts], dtype=np.float64)
            except ValueError:
                continue  # the collator names the row when it reads this column
            rows = _replaced(rows, column, values, "float64")
    return rows
