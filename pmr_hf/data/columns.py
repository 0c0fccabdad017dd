"""Functions for the columns of a dataset, and the name of the column with the source of each row."""

import csv
from collections.abc import Collection, Mapping
from typing import Any

import datasets
import pyarrow as pa


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
            f"Expected names of columns as in image=picture or vitals=age,weight, got {text!r} "
            f"({error}); correct --columns."
        ) from error
    if not names or not all(names):
        raise ValueError(
            f"Expected names of columns with a comma between two of them, got {text!r}; correct --columns."
        )
    return names[0] if len(names) == 1 else names


def number_columns(columns: Mapping[str, str | list[str]], numbers_in: Collection[str]) -> set[str]:
    """The columns that only the modalities `numbers_in` read. A column of a text modality, too, keeps its strings."""
    others = {part for name, column in columns.items() if name not in numbers_in for part in as_list(column)}
    return {part for name in numbers_in for part in as_list(columns[name])} - others


def whole_column(dataset: datasets.Dataset, column: str) -> pa.ChunkedArray:
    """A column of all rows, as Arrow holds it, which is much faster than `dataset[column]` for a selection of rows."""
    # The Arrow table holds all rows. A selection or a shuffle only adds indices into it.
    values = dataset.data.column(column)
    return values if dataset._indices is None else values.take(dataset._indices.column(0))


def holds_strings(feature: Any) -> bool:
    """Whether a column of a dataset holds strings or lists of strings, as a column of paths does."""
    feature = getattr(feature, "feature", feature)
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")
