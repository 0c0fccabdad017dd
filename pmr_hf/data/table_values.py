"""Tables in memory as datasets: pandas DataFrames and lists of rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
from datasets import Dataset

from ..model.media_values import is_null


AnyTable = Dataset | pd.DataFrame | Sequence[Mapping[str, Any]]


def as_dataset(table: AnyTable) -> Dataset:
    """
    The rows of a pandas DataFrame or of a list of dicts as a `datasets.Dataset`. A dataset only loses its format.

    Texts stay texts, NaN, `pandas.NA` and `pandas.NaT` become `None`, and the index of a DataFrame is left out. A row
    may lack keys that another has.

    Raises:
        TypeError: for anything else.
        ValueError: for names of columns that are no texts or not unique, and for values of several types in a column.
    """
    if isinstance(table, Dataset):
        return table.with_format(None)
    if isinstance(table, pd.DataFrame):
        _check_names(list(table.columns))
        columns = {name: table[name].tolist() for name in table.columns}
    elif isinstance(table, Sequence) and all(isinstance(row, Mapping) for row in table):
        names = list(dict.fromkeys(name for row in table for name in row))
        _check_names(names)
        columns = {name: [row.get(name) for row in table] for name in names}
    else:
        raise TypeError(
            f"Expected a `datasets.Dataset`, a pandas DataFrame or a list of dicts, got a {type(table).__name__}; "
            "convert it."
        )
    known = {name: [None if _is_nan(value) else value for value in values] for name, values in columns.items()}
    try:
        return Dataset.from_dict(known)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        mixed = {
            name: sorted({type(value).__name__ for value in values} - {"NoneType"}) for name, values in known.items()
        }
        found = {name: kinds for name, kinds in mixed.items() if len(kinds) > 1}
        raise ValueError(
            f"Expected values of one type in each column, got {found} ({error}); convert them, for instance to texts."
        ) from error


def frames_as_datasets(data: Any) -> Any:
    """A pandas DataFrame, or each of a dict of them, as a `datasets.Dataset`. Anything else is returned unchanged."""
    if type(data) is dict:  # not a DatasetDict
        return {name: frames_as_datasets(rows) for name, rows in data.items()}
    return as_dataset(data) if isinstance(data, pd.DataFrame) else data


def _check_names(names: list[Any]) -> None:
    wrong = [name for name in names if not isinstance(name, str) or names.count(name) > 1]
    if wrong:
        raise ValueError(f"Expected texts as names of columns, each once, got {wrong[:5]}; rename these columns.")


def _is_nan(value: Any) -> bool:
    """Whether pandas takes a value as missing."""
    return is_null(value) or (isinstance(value, float) and value != value)
