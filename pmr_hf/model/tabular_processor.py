"""The processor for tables, which standardises their numbers and gives their categories ids."""

import math
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from numbers import Number
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, FeatureExtractionMixin

from .media_values import UnreadableError, as_array, is_missing, rows_of
from .tabular_encoder import MISSING, MOST_CATEGORIES, MOST_COLUMNS, UNKNOWN, TabularConfig


WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0")  # what pandas writes for a whole number in a column with missing ones


class UnreadableRowError(UnreadableError):
    """Raised for the row with the index `row` of a table, from the error of its cell."""

    def __init__(self, message: str, row: int):
        super().__init__(message)
        self.row = row


class TabularProcessor(FeatureExtractionMixin):
    """
    Reads rows of named columns. Numbers are standardised by the mean and standard deviation of the training data, and
    categories become ids: 0 for a missing one, 1 for one that the training data does not have, then the others.

    ```python
    processor = TabularProcessor.fit(train, numbers=["age"], categories=["city"])
    processor([{"city": "Bonn", "age": 41}])  # {"values": (1, 1), "categories": (1, 1)}
    ```

    Args:
        numbers (`dict[str, tuple[float, float]]`): mean and standard deviation of each column of numbers, or the
            list `[{"name", "mean", "std"}]` of a saved processor.
        categories (`dict[str, list[str]]`): the categories of each column of categories, in the order of their ids, or
            the list `[{"name", "values"}]` of a saved processor.

    Raises:
        ValueError: for no columns or more than 10,000, for names that are no texts or not unique, for a mean that is
            not finite or a deviation that is not positive, and for more than 100,000 categories of a column or
            categories that are not unique.
    """

    model_input_names = ["categories", "values"]

    def __init__(
        self,
        numbers: Mapping[str, Sequence[float]] | Sequence[Mapping[str, Any]] = (),
        categories: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]] = (),
        **kwargs,
    ):
        super().__init__(**kwargs)
        try:
            number_columns = _pairs(numbers, lambda entry: (entry["mean"], entry["std"]))
            category_columns = _pairs(categories, lambda entry: entry["values"])
        except (TypeError, LookupError, AttributeError):
            raise _refusal(f"numbers {numbers!r:.80} and categories {categories!r:.80}") from None
        names = [name for name, _ in (*number_columns, *category_columns)]
        if not 1 <= len(names) <= MOST_COLUMNS:
            raise _refusal(f"{len(names):,} columns")
        if not all(isinstance(name, str) and name.strip() for name in names) or len(set(names)) < len(names):
            raise _refusal(f"columns named {names!r:.200}")
        #: Mean and standard deviation of each column of numbers
        self.numbers = {name: _statistics(name, value) for name, value in number_columns}
        #: The categories of each column of categories. The first has the id 2.
        self.categories = {name: _categories(name, values) for name, values in category_columns}
        self._ids = {name: {value: i for i, value in enumerate(v, 2)} for name, v in self.categories.items()}

    @property
    def columns(self) -> list[str]:
        """The names of the columns: those of numbers, then those of categories."""
        return [*self.numbers, *self.categories]

    @classmethod
    def fit(
        cls,
        rows: Iterable[Mapping[str, Any]],
        numbers: Sequence[str] = (),
        categories: Sequence[str] = (),
        on_error: str = "raise",
    ) -> "TabularProcessor":
        """
        Create a processor with the statistics and the sorted categories of the training rows. Cells are read as in
        [`TabularProcessor.read`], and missing ones do not count.

        Args:
            rows (`Iterable[Mapping[str, Any]]`): dicts, such as the rows of a `datasets.Dataset`, or a DataFrame.
            numbers (`Sequence[str]`, *optional*): names of the columns of numbers.
            categories (`Sequence[str]`, *optional*): names of the columns of categories.
            on_error (`str`, *optional*, defaults to `"raise"`): `"missing"` leaves out rows that cannot be read.

        Raises:
            UnreadableRowError: for a row that lacks a column, or has a cell that cannot be read, unless `on_error` is
                `"missing"`.
            ValueError: if there are no rows, and see the class.
        """
        if isinstance(numbers, str) or isinstance(categories, str) or on_error not in ("raise", "missing"):
            raise ValueError(
                "Expected lists of names of columns and `on_error` 'raise' or 'missing', got "
                f"{numbers!r:.80}, {categories!r:.80} and {on_error!r:.80}; correct them."
            )
        columns = [*numbers, *categories]
        cells: list[list[float]] = []
        found: dict[str, set[str]] = {name: set() for name in categories}
        for i, row in enumerate(_only(rows, columns)):
            try:
                check_row(row, columns)
                texts = {name: category_of(name, row[name]) for name in categories}
                cells.append([number_of(name, row[name]) for name in numbers])
            except UnreadableError as error:
                if on_error == "missing":
                    continue
                raise UnreadableRowError(
                    f"Expected rows with the columns {columns!r:.200} to fit, but in row {i + 1}, {error}; correct it, "
                    "or set on_error='missing' to leave the row out.",
                    i,
                ) from error
            for name, text in texts.items():
                found[name] |= set() if text is None else {text}
        if not cells:
            raise ValueError("Expected rows to fit a TabularProcessor, got none that can be read; correct the data.")
        known = np.ma.masked_invalid(np.array(cells).reshape(len(cells), len(numbers)))
        mean, std = known.mean(0).filled(0.0), known.std(0).filled(1.0)
        std = np.where(std > 1e-12 * np.abs(mean).clip(1), std, 1.0)  # 1 for a column that never varies
        statistics = zip(mean.tolist(), std.tolist(), strict=True)
        return cls(dict(zip(numbers, statistics, strict=True)), {name: sorted(texts) for name, texts in found.items()})

    def encoder_config(self, **kwargs) -> TabularConfig:
        """The config of a [`TabularModel`] for these columns. `kwargs` are its other fields, such as `hidden_size`."""
        sizes = [len(values) + 2 for values in self.categories.values()]
        return TabularConfig(num_features=len(self.numbers), cardinalities=sizes, **kwargs)

    def __call__(self, values: Sequence[Mapping[str, Any]]) -> BatchFeature:
        """
        Read the rows of a batch.

        Args:
            values: B rows as dicts, or a pandas DataFrame of them. The training mean replaces each missing number.

        Returns:
            `BatchFeature`: `values` (B, N) in fp32 and `categories` (B, C) int64, for N columns of numbers and C of
            categories.

        Raises:
            UnreadableError: see [`TabularProcessor.read`].
        """
        return self.batch([self.read(row) for row in rows_of(values)])

    def batch(self, rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> BatchFeature:
        """The batch of a call, from what [`TabularProcessor.read`] made of its rows."""
        numbers = np.array([row for row, _ in rows], dtype=np.float64).reshape(len(rows), len(self.numbers))
        ids = np.array([row for _, row in rows], dtype=np.int64).reshape(len(rows), len(self.categories))
        standard = torch.tensor(np.nan_to_num(self._standard(numbers), nan=0.0), dtype=torch.float32)
        return BatchFeature({"values": standard, "categories": torch.from_numpy(ids)})

    def read(self, value: Any) -> tuple[np.ndarray, np.ndarray]:
        """
        Read one row: its numbers (N,) in fp64 with NaN for missing ones, and the ids (C,) int64 of its categories.

        The order of the columns does not count, nor do further columns. A number may be a text, such as a cell of csv.
        A category may be a text, a number or a truth value. Blanks at the ends of a text do not count. 1, 1.0 and "1"
        are one category, as are True, "True" and "true".

        Raises:
            UnreadableError: for a value that is no dict with all columns, a cell that is no number or no category, and
                a number that is infinite or too large.
        """
        check_row(value, self.columns)
        numbers = np.array([number_of(name, value[name]) for name in self.numbers], dtype=np.float64)
        large = np.abs(self._standard(numbers)) > np.finfo(np.float32).max
        if large.any():
            name = list(self.numbers)[large.argmax()]
            raise UnreadableError(f"{value[name]!r:.80} in column {name!r} is too large for fp32")
        texts = {name: category_of(name, value[name]) for name in self.categories}
        ids = [MISSING if text is None else self._ids[name].get(text, UNKNOWN) for name, text in texts.items()]
        return numbers, np.array(ids, dtype=np.int64)

    def _standard(self, numbers: np.ndarray) -> np.ndarray:
        mean, std = np.array(list(self.numbers.values())).reshape(-1, 2).T
        with np.errstate(over="ignore"):  # an infinite result is refused
            return (numbers - mean) / std

    def to_dict(self) -> dict[str, Any]:
        """The settings, with the columns as lists, since the keys of a dict are sorted in JSON."""
        output = super().to_dict()
        output.pop("_ids")
        output["numbers"] = [{"name": name, "mean": mean, "std": std} for name, (mean, std) in self.numbers.items()]
        output["categories"] = [{"name": name, "values": values} for name, values in self.categories.items()]
        return output


def check_row(value: Any, columns: Sequence[str]) -> None:
    """Raise `UnreadableError` unless a value is a dict with these columns. Others do not count."""
    if not isinstance(value, Mapping):
        raise UnreadableError(f"{value!r:.80} is not a dict with the columns {columns!r:.200}")
    missing = [name for name in columns if name not in value]
    if missing:
        raise UnreadableError(f"{value!r:.80} lacks the columns {missing!r:.200} of {columns!r:.200}")


def number_of(column: str, cell: Any) -> float:
    """Read the number in a cell, NaN if it is missing. Raises `UnreadableError` if it is no number, or infinite."""
    if is_missing(cell):
        return math.nan
    try:
        number = float(cell)
    except (TypeError, ValueError, OverflowError) as error:
        raise UnreadableError(f"{cell!r:.80} in column {column!r} is not a number") from error
    if math.isinf(number):
        raise UnreadableError(f"{cell!r:.80} in column {column!r} is infinite")
    return number


def category_of(column: str, cell: Any) -> str | None:
    """
    Read the category in a cell as the text by which categories are compared, or `None` if it is missing. Raises
    `UnreadableError` for a value that is no text, number or truth value.
    """
    if is_missing(cell):
        return None
    if isinstance(cell, torch.Tensor) and cell.dim() == 0:
        cell = as_array(cell)[()]
    if not isinstance(cell, (str, Number, np.bool_)):
        raise UnreadableError(f"{cell!r:.80} in column {column!r} is not a category: a text, number, True or False")
    if isinstance(cell, (float, np.floating)) and cell.is_integer():
        cell = int(cell)
    text = unicodedata.normalize("NFC", str(cell)).strip()
    whole = WHOLE.fullmatch(text)
    if whole:
        return whole[1]
    return text.lower() if text.lower() in ("true", "false") else text  # pandas writes True, JSON writes true


def _only(rows: Any, columns: Sequence[str]) -> Iterable[Mapping[str, Any]]:
    """The rows to fit to. A `datasets.Dataset` would decode its pictures and sound too, so only `columns` are read."""
    datasets = sys.modules.get("datasets")  # a saved model loads without it
    if datasets is not None and isinstance(rows, datasets.Dataset):
        return rows.select_columns([name for name in columns if name in rows.column_names])
    return rows_of(rows)


def _pairs(columns: Any, value_of: Any) -> list[tuple[Any, Any]]:
    """The names of columns with their settings, from a dict or from the list of a saved processor."""
    if isinstance(columns, Mapping):
        return list(columns.items())
    return [(entry["name"], value_of(entry)) for entry in columns]


def _statistics(name: str, value: Any) -> tuple[float, float]:
    numbers = isinstance(value, (list, tuple)) and len(value) == 2
    if numbers and all(isinstance(part, (int, float)) and abs(part) <= sys.float_info.max for part in value):
        mean, std = float(value[0]), float(value[1])
        if std > 0:
            return mean, std
    raise _refusal(f"the mean and deviation {value!r:.80} of {name!r}")


def _categories(name: str, values: Any) -> list[str]:
    if not isinstance(values, (list, tuple)):
        raise _refusal(f"the categories {values!r:.80} of {name!r}")
    if len(values) > MOST_CATEGORIES:
        raise _refusal(f"{len(values):,} categories of {name!r}")
    try:
        texts = [text for text in (category_of(name, value) for value in values) if text is not None]
    except UnreadableError as error:
        raise _refusal(str(error)) from error
    if len(set(texts)) < len(values):
        raise _refusal(f"the categories {values!r:.80} of {name!r}")
    return texts


def _refusal(found: str) -> ValueError:
    return ValueError(
        f"Expected 1 to {MOST_COLUMNS:,} columns of different names, each with a finite mean and a positive deviation, "
        f"or with at most {MOST_CATEGORIES:,} different categories, got {found}; take them from the training data with "
        "`TabularProcessor.fit`, without columns that hardly repeat a category."
    )
