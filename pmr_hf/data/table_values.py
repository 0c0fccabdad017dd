"""Tables in memory as datasets: pandas DataFrames and lists of rows."""

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset

from ..model.media_values import is_null


AnyTable = Dataset | pd.DataFrame | Sequence[Mapping[str, Any]]
# The errors for a column that Arrow cannot hold. Not all of Arrow's own are a `ValueError`.
FAILURES = (pa.ArrowException, OverflowError, ValueError)


def as_dataset(table: AnyTable, columns: Collection[str] | None = None) -> Dataset:
    """
    The rows of a pandas DataFrame or of a list of dicts as a `datasets.Dataset`. A `Dataset` only loses its format.

    Texts stay texts, paths become texts, NaN, `pandas.NA` and `pandas.NaT` become `None`, and the index of a DataFrame
    is left out. A row may lack keys that another has.

    Args:
        table (`Dataset | DataFrame | list[dict]`): the rows.
        columns (`Collection[str]`, *optional*): take only these columns. If one of them is not there, or if the table
            is a `datasets.Dataset`, all are taken.

    Raises:
        TypeError: for anything else.
        ValueError: for names of columns that are no texts or not unique, and for a column of several types, or of a
            type that Arrow does not hold, such as intervals.
    """
    if isinstance(table, Dataset):
        return table.with_format(None)
    if isinstance(table, pd.DataFrame):
        names = _chosen_names(list(table.columns), columns)
        values = {name: table[name].tolist() for name in names}
    elif isinstance(table, Sequence) and all(isinstance(row, Mapping) for row in table):
        names = _chosen_names(list(dict.fromkeys(name for row in table for name in row)), columns)
        values = {name: [row.get(name) for row in table] for name in names}
    else:
        raise TypeError(
            f"Expected a `datasets.Dataset`, a pandas DataFrame or a list of dicts, got a {type(table).__name__}; "
            "convert it, or read a file with `pmr_hf.data.tables.load_table`."
        )
    known = {name: [_plain(cell) for cell in cells] for name, cells in values.items()}
    try:
        return Dataset.from_dict(known)
    except FAILURES as error:
        found = {
            name: sorted({type(cell).__name__ for cell in cells} - {"NoneType"})
            for name, cells in known.items()
            if not _arrow_holds(cells)
        }
        raise ValueError(
            f"Expected texts, numbers or other values of one type in each column, got {found} ({error}); convert them, "
            "for instance to texts, or leave these columns out."
        ) from error


def frames_as_datasets(data: Any) -> Any:
    """
    A pandas DataFrame, or each of a dict of them, as a `datasets.Dataset`. Raises `TypeError` for the name of a file
    and for a table of Arrow. Anything else is returned unchanged.
    """
    if type(data) is dict:  # not a DatasetDict
        return {name: frames_as_datasets(rows) for name, rows in data.items()}
    return as_dataset(data) if isinstance(data, (pd.DataFrame, pa.Table, str, os.PathLike)) else data


def _chosen_names(names: list[Any], columns: Collection[str] | None) -> list[str]:
    """The names that are among `columns`, or all of them."""
    if columns is not None and set(columns) <= set(names):
        names = [name for name in names if name in columns]
    wrong = [name for name in names if not isinstance(name, str) or names.count(name) > 1]
    if wrong:
        raise ValueError(f"Expected texts as names of columns, each once, got {wrong[:5]}; rename these columns.")
    return names


def _plain(cell: Any) -> Any:
    """A cell as Arrow takes it."""
    if isinstance(cell, os.PathLike):
        return os.fspath(cell)
    if isinstance(cell, np.ndarray) and cell.dtype == object:  # a list, as pandas reads it from parquet
        return cell.tolist()
    return None if _is_nan(cell) else cell


def _arrow_holds(cells: list[Any]) -> bool:
    try:
        Dataset.from_dict({"column": cells})
    except FAILURES:
        return False
    return True


def _is_nan(value: Any) -> bool:
    """Whether pandas takes a value as missing."""
    return is_null(value) or (isinstance(value, float) and value != value)
