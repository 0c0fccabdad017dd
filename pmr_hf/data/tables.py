"""Load tables from files, folders or the Hub as labelled train, validation and test splits."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from datasets import Dataset, DatasetDict
from transformers.utils import logging

from .columns import ROW, as_list, holds_strings, undecoded
from .labels import encode_labels, stratified_cut


logger = logging.get_logger(__name__)

BUILDERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
SPLITS = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
    "prototypes": ("prototypes",),  # rows that prototypes are taken from, in place of training rows
}


class Table(NamedTuple):
    """One split as it was read."""

    rows: Dataset
    name: str  # name of the file or of the split, for messages
    folder: Path  # where relative paths start


def load_table(
    columns: dict[str, str | list[str]],
    label: str = "label",
    dataset_name: str | None = None,
    config_name: str | None = None,
    files: dict[str, str] | None = None,
    files_in: Sequence[str] = (),
    check_files: bool = True,
    validation_size: float = 0.1,
    seed: int = 0,
) -> DatasetDict:
    """
    Load the splits `train`, `validation` and, where there are some, `test` and `prototypes`, ready for a
    [`MultimodalCollator`]. `prototypes` is a split for `PMRTrainer(prototype_dataset=...)`.

    Labels of any type become a `ClassLabel`, whose names are the sorted values of the training split. Pictures, sound
    and video stay undecoded until the collator reads them. Relative paths start at the folder of their table. If there
    is no validation split, one is taken out of the training split, stratified by label. The column `source_row` says
    where each row comes from.

    Args:
        columns (`dict[str, str | list[str]]`): the column of each modality, or a list of columns for numbers.
        label (`str`, *optional*, defaults to `"label"`): the column of classes.
        dataset_name (`str`, *optional*): a Hub name, a folder with `train.csv` (or .tsv, .jsonl, .parquet; and
            `validation`, `test`), a folder that `datasets` saved, or anything else that `datasets.load_dataset` takes.
        config_name (`str`, *optional*): the configuration of a dataset on the Hub.
        files (`dict[str, str]`, *optional*): the table of each split, in place of `dataset_name`.
        files_in (`Sequence[str]`, *optional*): modalities whose strings are paths of files.
        check_files (`bool`, *optional*, defaults to `True`): whether to check now that all of these files exist.
        validation_size (`float`, *optional*, defaults to 0.1): share of each class to take out for validation, in
            (0, 1).
        seed (`int`, *optional*, defaults to 0): seed of the validation split.

    Raises:
        FileNotFoundError: for a missing table, or a missing file that a table names.
        ValueError: for a missing column, a table of an unknown type, a row without a label, a class that the training
            split lacks, or a dataset without a training split.
    """
    tables = _read_tables(dataset_name, config_name, files)
    if "test" in tables and label not in tables["test"].rows.column_names:
        logger.warning(f"The test split has no column {label!r}: it is left out.")
        del tables["test"]
    used = {part for column in columns.values() for part in as_list(column)}
    paths = {part for name in files_in for part in as_list(columns[name])}
    splits = {}
    for name, table in tables.items():
        rows = undecoded(_with_source_row(_select_columns(table, used, label), table.name))
        splits[name] = _absolute(rows, paths, table.folder, check_files)
    splits = encode_labels(splits, label)
    if "validation" not in splits:
        splits |= _cut_validation(splits["train"], label, validation_size, seed)
    return DatasetDict({name: splits[name] for name in SPLITS if name in splits})


def draw_rows(rows: Dataset, count: int | None, seed: int) -> Dataset:
    """Draw at most `count` rows at random. For `None`, all rows are returned in their order."""
    if count is None:
        return rows
    return rows.shuffle(seed=seed).select(range(min(count, len(rows))))


# ---- Reading ----


def _read_tables(dataset_name: str | None, config_name: str | None, files: dict[str, str] | None) -> dict[str, Table]:
    """Read the table of each split, under the names `train`, `validation` and `test`."""
    if dataset_name is not None and files:
        raise ValueError(f"Expected a dataset name or files, got {dataset_name} and {files}; give one of them.")
    folder = Path(dataset_name) if dataset_name is not None and os.path.isdir(dataset_name) else None
    files = files or (_tables_in(folder) if folder is not None else {})
    if files:
        tables = {
            name: Table(read_table(Path(file)), Path(file).name, Path(file).parent) for name, file in files.items()
        }
    else:
        loaded = _load_dataset(dataset_name, config_name, folder)
        tables = {name: Table(rows, f"split {name!r}", folder or Path()) for name, rows in loaded.items()}
    tables = {name: tables[given] for name, names in SPLITS.items() for given in names if given in tables}
    if "train" not in tables:
        raise ValueError(f"Expected a training split, got {list(tables)}; name one 'train', or give --train_file.")
    return tables


def _tables_in(folder: Path) -> dict[str, str]:
    """The files of a folder that are named as splits, such as train.csv."""
    names = {name for group in SPLITS.values() for name in group}
    return {
        path.stem: str(path)
        for path in sorted(folder.iterdir())
        if path.stem in names and path.suffix in BUILDERS and path.is_file()
    }


def read_table(file: Path) -> Dataset:
    """
    Read the rows of a csv, tsv, json, jsonl or parquet file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for another type of file.
    """
    if file.suffix not in BUILDERS:
        raise ValueError(f"Expected a table of type {sorted(BUILDERS)}, got {file}; convert it.")
    if not file.is_file():
        raise FileNotFoundError(f"Expected a table {file}, found none there; correct the path.")
    options: dict[str, Any] = {"sep": "\t"} if file.suffix == ".tsv" else {}
    return datasets.load_dataset(BUILDERS[file.suffix], data_files=str(file), split="train", **options)


def _load_dataset(dataset_name: str | None, config_name: str | None, folder: Path | None) -> dict[str, Dataset]:
    """Load the splits of a dataset on the Hub, or in a folder without tables named as splits."""
    if dataset_name is None:
        raise ValueError("Expected a dataset name or files, got neither; give --dataset_name or --train_file.")
    if folder is not None and any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        loaded = datasets.load_from_disk(dataset_name)
    else:
        loaded = datasets.load_dataset(dataset_name, config_name)
    return dict(loaded) if isinstance(loaded, DatasetDict) else {"train": loaded}


# ---- Columns ----


def _select_columns(table: Table, used: set[str], label: str) -> Dataset:
    missing = sorted((used | {label}) - set(table.rows.column_names))
    if missing:
        raise ValueError(
            f"Expected the columns {sorted(used)} and the label {label!r} in {table.name}, but {missing} are not among "
            f"{table.rows.column_names}; correct --columns and --label_column."
        )
    return table.rows.select_columns(sorted(used | {label}))


def _with_source_row(rows: Dataset, name: str) -> Dataset:
    """Add a column such as "train.csv, row 7", for messages."""
    return rows.add_column(ROW, [f"{name}, row {i + 1}" for i in range(len(rows))])


def _absolute(rows: Dataset, columns: set[str], folder: Path, check: bool) -> Dataset:
    """Make relative paths absolute. With `check`, every file must exist."""
    for column in sorted(columns):
        feature = rows.features[column]
        if holds_strings(feature):
            values = [_absolute_path(value, folder) for value in rows[column]]
            if check:
                _check_files(rows, column, values)
            rows = rows.remove_columns(column).add_column(column, values, feature=feature)
    return rows


def _absolute_path(value: Any, folder: Path) -> Any:
    """Make one path, or each path in a list, absolute. An empty value stays unchanged."""
    if isinstance(value, list):
        return [_absolute_path(part, folder) for part in value]
    if value and "://" in value:
        raise ValueError(f"Expected paths of files, got the address {value!r}; download the files first.")
    return value and str((folder / value.strip()).absolute())


def _check_files(rows: Dataset, column: str, values: list[Any]) -> None:
    lost = [
        i
        for i, value in enumerate(values)
        if value and not all(os.path.isfile(part) for part in as_list(value) if part)
    ]
    if lost:
        shown = "; ".join(f"{rows[ROW][i]}: {values[i]}" for i in lost[:3])
        raise FileNotFoundError(
            f"Expected the files that column {column!r} names, but {len(lost)} of {len(values)} are not there, "
            f"first {shown}; correct the paths, or set --on_error missing to train without them."
        )


# ---- Validation ----


def _cut_validation(train: Dataset, label: str, share: float, seed: int) -> dict[str, Dataset]:
    """`train` without a share of each class, and this share as `validation`."""
    rest, chosen = stratified_cut(train[label][:], share, seed)
    if len(chosen) == 0:
        raise ValueError(
            f"Expected a class of at least two rows to cut a validation split from, got {len(train)} rows, each of its "
            "own class; give --validation_file."
        )
    logger.warning(f"No validation split: {len(chosen)} of {len(train)} training rows are taken out for it.")
    return {"train": train.select(rest), "validation": train.select(chosen)}
