"""Decide what each column of a table holds, and which modalities its columns make."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from ..model.configuration import check_modality_name
from ..model.media_values import is_missing
from .column_kinds import LEFT_OUT, Column, kind_of_column, media_of_feature
from .columns import as_list, whole_column
from .missing_values import present_rows
from .shortened import shortened
from .table_sources import Source, read_training_rows


MOST_ROWS = 1000  # rows whose values are looked at
TABULAR = "tabular"  # the modality of all numbers and categories
CELLS = ("number", "category")  # kinds of columns that make one modality together


@dataclass(frozen=True)
class InferredColumn:
    """What one column holds, the modality that it belongs to (`None` if it is left out), and why."""

    name: str
    kind: str
    modality: str | None
    reason: str


@dataclass(frozen=True)
class InferredColumns:
    """What every column of a table but the label holds, in the order of the table. `str()` shows it as a table."""

    found: tuple[InferredColumn, ...]

    @property
    def columns(self) -> dict[str, str | list[str]]:
        """The column of each modality, or the list of columns of `tabular`, as [`MultimodalCollator`] takes them."""
        columns: dict[str, str | list[str]] = {}
        for column in self.found:
            if column.modality is None:
                continue
            if column.kind in CELLS:
                columns[column.modality] = [*as_list(columns.get(column.modality, [])), column.name]
            else:
                columns[column.modality] = column.name
        return columns

    @property
    def modality_kinds(self) -> dict[str, str]:
        """The kind of each modality: "image", "audio", "video", "text", "numbers" or "tabular"."""
        used = [column for column in self.found if column.modality is not None]
        return {str(column.modality): TABULAR if column.kind in CELLS else column.kind for column in used}

    @property
    def numbers(self) -> list[str]:
        """The names of the columns of numbers."""
        return [column.name for column in self.found if column.kind == "number"]

    @property
    def categories(self) -> list[str]:
        """The names of the columns of categories."""
        return [column.name for column in self.found if column.kind == "category"]

    def without(self, columns: Mapping[str, str | list[str]]) -> "InferredColumns":
        """A copy without the modalities of `columns`, and without the columns that it names for them."""
        named = {part: name for name, column in columns.items() for part in as_list(column)}
        found = []
        for column in self.found:
            if column.name in named:
                column = replace(column, modality=None, reason=f"--columns names it for {named[column.name]!r}")
            elif column.modality in columns:
                reason = f"--columns names another column for {column.modality!r}"
                column = replace(column, kind=LEFT_OUT, modality=None, reason=reason)
            found.append(column)
        return InferredColumns(tuple(found))

    def __str__(self) -> str:
        rows = [("column", "kind", "modality", "why")]
        rows += [(column.name, column.kind, column.modality or "-", column.reason) for column in self.found]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        return "\n".join(
            "  ".join([cell.ljust(width) for cell, width in zip(row, widths, strict=False)] + [row[3]]) for row in rows
        )


def infer_columns(dataset: Source, label: str | Sequence[str] = "label") -> InferredColumns:
    """
    Decide from features and values what each column of a table holds.

    Pictures, sound and video are found by the features of a dataset, or by the endings of paths, which need not exist.
    Numbers and categories make one modality, `tabular`. Each other column makes its own, named by its kind, or after
    the column if there are several of a kind. Ids, dates, and columns that are empty, always the same or another name
    of the label are left out. At most 1,000 rows, evenly spaced, are looked at.

    ```python
    inferred = infer_columns("posts.csv", label="topic")
    print(inferred)
    inferred.columns  # {"image": "picture", "text": "title", "tabular": ["likes", "country"]}
    ```

    Args:
        dataset (`str | Path | Dataset | DataFrame | list[dict]`): the training rows: a file, a folder, a
            `datasets.Dataset`, a pandas DataFrame or a list of dicts.
        label (`str | Sequence[str]`, *optional*, defaults to `"label"`): the column, or the columns, to predict.

    Raises:
        FileNotFoundError: for a missing file.
        TypeError: for rows of another type.
        ValueError: for a table that cannot be read, or that lacks a column of `label`.
    """
    rows = read_training_rows(dataset)
    targets = [label] if isinstance(label, str) else list(label)
    missing = [name for name in targets if name not in rows.column_names]
    if missing:
        raise ValueError(
            f"Expected the label {', '.join(map(repr, missing))} among the columns {shortened(rows.column_names)}; "
            "name the column of classes, as with --label_column."
        )
    names = [name for name in rows.column_names if name not in targets]
    sample = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_ROWS)).astype(np.int64))
    tags = (whole_column(rows, name).take(sample).to_pylist() for name in targets)
    labels = [", ".join(str(value).strip() for value in row) for row in zip(*tags, strict=True)]
    findings = {name: kind_of_column(_column(rows, name, sample, labels)) for name in names}
    modalities = _modality_names({name: finding.kind for name, finding in findings.items()})
    return InferredColumns(
        tuple(
            InferredColumn(name, finding.kind, modalities.get(name), finding.reason)
            for name, finding in findings.items()
        )
    )


def _column(rows: Dataset, name: str, sample: np.ndarray, labels: list[str]) -> Column:
    """A column with the values of the sampled rows. Files that the dataset holds are not read."""
    feature = rows.features[name]
    if media_of_feature(feature) is not None:
        known = int(present_rows(rows, {name: name})[name].sum())
        return Column(name, feature, [], [], known, known, len(rows))
    whole = whole_column(rows, name)
    values = [value.strip() if isinstance(value, str) else value for value in whole.take(sample).to_pylist()]
    pairs = [(value, tag) for value, tag in zip(values, labels, strict=True) if not is_missing(value)]
    known, distinct = len(pairs), len({str(value) for value, _ in pairs})
    if len(sample) < len(rows) and not pa.types.is_nested(whole.type):
        known, distinct = pc.count(whole).as_py(), pc.count_distinct(whole).as_py()
    return Column(name, feature, [value for value, _ in pairs], [tag for _, tag in pairs], distinct, known, len(rows))


def _modality_names(kinds: Mapping[str, str]) -> dict[str, str]:
    """The modality of each column that is used: its kind, or its own name if there are several of a kind."""
    names, taken = {}, {TABULAR}
    for column, kind in kinds.items():
        if kind in CELLS:
            names[column] = TABULAR
        elif kind != LEFT_OUT:
            several = list(kinds.values()).count(kind) > 1
            names[column] = _free_name(re.sub(r"\W+", "_", column).strip("_") if several else kind, kind, taken)
            taken.add(names[column])
    return names


def _free_name(wanted: str, kind: str, taken: set[str]) -> str:
    """The name `wanted` if a modality can have it, else the kind with a number."""
    candidates = [wanted, *(f"{kind}_{i}" for i in range(1, len(taken) + 2))]
    return next(name for name in candidates if name not in taken and _can_be_modality(name))


def _can_be_modality(name: str) -> bool:
    try:
        check_modality_name(name)
    except ValueError:
        return False
    return True
