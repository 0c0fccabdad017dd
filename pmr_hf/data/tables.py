"""Load tables from files, folders or the Hub as labelled train, validation and test splits."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, DatasetDict
from transformers.utils import logging

from ..model.targets import SINGLE_LABEL
from .columns import (
    ROW,
    as_list,
    holds_strings,
    number_columns,
    undecoded,
    whole_column,
    with_class_names,
    with_numbers,
)
from .labels import encode_labels, stratified_cut
from .table_sources import SPLITS, Source, Table, read_tables
from .target_columns import DEFAULT_SEPARATOR, encode_targets, random_cut, target_name


logger = logging.get_logger(__name__)


def load_table(
    columns: dict[str, str | list[str]],
    label: str | Sequence[str] = "label",
    dataset_name: str | None = None,
    config_name: str | None = None,
    files: Mapping[str, Source] | None = None,
    files_in: Sequence[str] = (),
    check_files: bool = True,
    validation_size: float = 0.1,
    seed: int = 0,
    numbers_in: Sequence[str] = (),
    encoding: str = "utf-8",
    problem_type: str = SINGLE_LABEL,
    label_separator: str = DEFAULT_SEPARATOR,
) -> DatasetDict:
    """
    Load the splits `train`, `validation` and, where there are some, `test` and `prototypes`, ready for a
    [`MultimodalCollator`]. `prototypes` is a split for `PMRTrainer(prototype_dataset=...)`.

    Labels of any type become a `ClassLabel`, whose names are the sorted values of the training split. Every cell of a
    csv or tsv file is a string, and only an empty cell is missing. Pictures, sound and video stay undecoded until the
    collator reads them. Relative paths start at the folder of their table. If there is no validation split, one is
    taken out of the training split, stratified by label. For another `problem_type`, labels become lists of names or
    numbers in fp64, and the validation split is drawn at random. The column `source_row` says where each row comes
    from.

    Args:
        columns (`dict[str, str | list[str]]`): the column of each modality, or a list of them for numbers and tables.
        label (`str | Sequence[str]`, *optional*, defaults to `"label"`): the column of classes, labels or numbers.
            Several columns of numbers become one of lists, whose name is theirs with commas between them.
        dataset_name (`str`, *optional*): a Hub name, a folder with `train.csv` (or .tsv, .jsonl, .parquet; and
            `validation`, `test`), a folder that `datasets` saved, or anything else that `datasets.load_dataset` takes.
        config_name (`str`, *optional*): the configuration of a dataset on the Hub.
        files (`dict[str, str | Path | Dataset | DataFrame]`, *optional*): the table of each split, in place of
            `dataset_name`: a file, a folder as above, a `datasets.Dataset`, a pandas DataFrame or a list of dicts.
            Relative paths in the last three start at the working directory.
        files_in (`Sequence[str]`, *optional*): modalities whose strings are paths of files.
        check_files (`bool`, *optional*, defaults to `True`): whether to check now that all of these files exist.
        validation_size (`float`, *optional*, defaults to 0.1): share of each class to take out for validation, in
            (0, 1).
        seed (`int`, *optional*, defaults to 0): seed of the validation split.
        numbers_in (`Sequence[str]`, *optional*): modalities whose strings are numbers. A column of numbers in a csv or
            tsv file becomes fp64. A column with a cell that is no number stays as it is, for the collator to name it.
        encoding (`str`, *optional*, defaults to `"utf-8"`): encoding of csv, tsv, json and jsonl files.
        problem_type (`str`, *optional*, defaults to `"single_label_classification"`): one of
            [`~pmr_hf.model.targets.PROBLEM_TYPES`].
        label_separator (`str`, *optional*, defaults to `"|"`): what stands between two of several labels in a text.

    Raises:
        FileNotFoundError: for a missing table, or a missing file that a table names.
        TypeError: for a table in memory of another type.
        ValueError: for a missing column, a column called `source_row`, a table of an unknown type, in another encoding
            or without rows, an address in place of a path, a modality that reads the label, a row without a label,
            labels that the problem type does not allow, a class that the training split lacks, a dataset without a
            training split, or too few rows for a validation split.
    """
    used = {part for column in columns.values() for part in as_list(column)}
    targets = [label] if isinstance(label, str) else list(label)
    label = target_name(targets, problem_type)
    if used & {*targets, label}:
        raise ValueError(
            f"Expected modalities of other columns than the label {label!r}, got {sorted(used & {*targets, label})} "
            "too, which would tell the answer; take it out of --columns, or name another label column."
        )
    if ROW in {*used, *targets}:
        raise ValueError(
            f"Expected columns of other names than {ROW!r}, which is the name of the column that says where a row "
            "comes from; rename the column in the table."
        )
    tables = read_tables(dataset_name, config_name, files, {*used, *targets}, encoding)
    if "test" in tables and not set(targets) & set(tables["test"].rows.column_names):
        logger.warning(f"The test split has no column {label!r}: it is left out.")
        del tables["test"]
    paths = {part for name in files_in for part in as_list(columns[name])}
    numbers = number_columns(columns, numbers_in) - set(targets)
    splits = {}
    for name, table in tables.items():
        rows = undecoded(_with_source_row(_select_columns(table, used, targets), table.name))
        rows = with_numbers(with_class_names(rows, used), numbers)
        splits[name] = _absolute(rows, paths, table.folder, check_files)
    if problem_type == SINGLE_LABEL:
        splits = encode_labels(splits, label)
    else:
        splits = encode_targets(splits, targets, problem_type, label_separator)
    if "validation" not in splits:
        splits |= _cut_validation(splits["train"], label, validation_size, seed, problem_type)
    return DatasetDict({name: splits[name] for name in SPLITS if name in splits})


def draw_rows(rows: Dataset, count: int | None, seed: int) -> Dataset:
    """Draw at most `count` rows at random. For `None`, all rows are returned in their order."""
    if count is None:
        return rows
    return rows.shuffle(seed=seed).select(range(min(count, len(rows))))


# ---- Columns ----


def _select_columns(table: Table, used: set[str], targets: list[str]) -> Dataset:
    missing = sorted({*used, *targets} - set(table.rows.column_names))
    if missing:
        raise ValueError(
            f"Expected the columns {sorted(used)} and the label {', '.join(map(repr, targets))} in {table.name}, but "
            f"{missing} are not among {table.rows.column_names}; correct --columns and --label_column. In --columns, a "
            "name that contains a comma stands in double quotes."
        )
    return table.rows.select_columns(sorted({*used, *targets}))


def _with_source_row(rows: Dataset, name: str) -> Dataset:
    """Add a column such as "train.csv, row 7", for messages."""
    # An array of Arrow is hashed in one piece for the fingerprint of the dataset, a list string by string.
    return rows.add_column(ROW, pa.array(f"{name}, row {i}" for i in range(1, len(rows) + 1)))


def _absolute(rows: Dataset, columns: set[str], folder: Path, check: bool) -> Dataset:
    """Make relative paths absolute. With `check`, every file must exist."""
    root = str(folder.absolute())
    for column in sorted(columns):
        feature = rows.features[column]
        if holds_strings(feature):
            values = [absolute_path(value, root) for value in whole_column(rows, column).to_pylist()]
            address = next((part for value in values for part in as_list(value) or [] if part and "://" in part), None)
            if address is not None:
                raise ValueError(f"Expected paths of files, got the address {address!r}; download the files first.")
            if check:
                _check_files(rows, column, values)
            array = pa.array(values, rows.data.schema.field(column).type)
            rows = rows.remove_columns(column).add_column(column, array, feature=feature)
    return rows


def absolute_path(value: Any, folder: str) -> Any:
    """
    Make one path, or each path in a list, absolute. A relative one starts at `folder`, which is absolute. Blanks around
    it are left out. An empty value and an address such as https://example.org/a.png stay unchanged.
    """
    if isinstance(value, list):
        return [absolute_path(part, folder) for part in value]
    if not isinstance(value, str) or not value.strip() or "://" in value:
        return value
    return os.path.join(folder, value.strip())


def _check_files(rows: Dataset, column: str, values: list[Any]) -> None:
    lost = [
        i
        for i, value in enumerate(values)
        if value and not all(os.path.isfile(part) for part in as_list(value) if part and part.strip())
    ]
    if lost:
        shown = "; ".join(f"{rows[i][ROW]}: {values[i]!s:.200}" for i in lost[:3])
        raise FileNotFoundError(
            f"Expected the files that column {column!r} names, but {len(lost)} of {len(values)} are not there, "
            f"first {shown}; correct the paths, or set --on_error missing to train without them."
        )


# ---- Validation ----


def _cut_validation(train: Dataset, label: str, share: float, seed: int, problem_type: str) -> dict[str, Dataset]:
    """`train` without a share of each class, or of the rows if there are no classes; and this share as `validation`."""
    if problem_type == SINGLE_LABEL:
        rest, chosen = stratified_cut(whole_column(train, label).to_numpy(), share, seed)
    else:
        rest, chosen = random_cut(len(train), share, seed)
    if len(chosen) == 0:
        own = ", each of its own class" if problem_type == SINGLE_LABEL else ""
        raise ValueError(
            f"Expected {'a class of ' if own else ''}at least two rows to cut a validation split from, got "
            f"{len(train)}{own}; give --validation_file."
        )
    logger.warning(f"No validation split: {len(chosen)} of {len(train)} training rows are taken out for it.")
    return {"train": train.select(rest), "validation": train.select(chosen)}
