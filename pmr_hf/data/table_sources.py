"""Read the splits of a table as they are: from files, folders, the Hub or memory."""

import csv
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from datasets import Dataset, DatasetDict
from datasets.packaged_modules.csv.csv import CsvConfig

from .table_files import TABLE_TYPES, read_table
from .table_values import AnyTable, as_dataset


SPLITS = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
    "prototypes": ("prototypes",),  # rows that prototypes are taken from, in place of training rows
}


Source = str | Path | AnyTable  # what one split may be read from


class Table(NamedTuple):
    """One split as it was read."""

    rows: Dataset
    name: str  # name of the file or of the split, for messages
    folder: Path  # where relative paths start


def read_tables(
    dataset_name: str | None = None,
    config_name: str | None = None,
    files: Mapping[str, Source] | None = None,
    columns: Collection[str] | None = None,
    encoding: str = "utf-8",
) -> dict[str, Table]:
    """
    Read the table of each split, under the names `train`, `validation`, `test` and `prototypes`. The arguments are
    those of [`~pmr_hf.data.tables.load_table`].

    Args:
        columns (`Collection[str]`, *optional*): the columns that are needed. A file may hold others, which may then be
            left out. By default, all columns are read.

    Raises:
        FileNotFoundError: for a missing table.
        TypeError: for a table in memory of another type.
        ValueError: for a table that cannot be read, or without a training split.
    """
    if dataset_name is not None and files:
        raise ValueError(
            f"Expected a dataset name or files, got {dataset_name} and the files of {list(files)}; give one of them."
        )
    if files:
        tables = {split: _read_source(split, source, columns, encoding) for split, source in files.items()}
    else:
        tables = _read_dataset(dataset_name, config_name, columns, encoding)
    tables = {name: tables[given] for name, names in SPLITS.items() for given in names if given in tables}
    if "train" not in tables:
        raise ValueError(f"Expected a training split, got {list(tables)}; name one 'train', or give --train_file.")
    return tables


def read_training_rows(source: Source, encoding: str = "utf-8") -> Dataset:
    """The training rows of a file, a folder, or a table in memory, with all columns."""
    return _read_source("train", source, None, encoding).rows


def _read_source(split: str, source: Source, columns: Collection[str] | None, encoding: str) -> Table:
    """Read one split. Of a folder with several, it is the one of this name."""
    if not isinstance(source, (str, Path)):
        rows = as_dataset(source, columns)
        if len(rows) == 0:
            raise ValueError(f"Expected rows in the table of the split {split!r}, got none; add rows.")
        return Table(rows, f"table {split!r}", Path())
    file = Path(source)
    if not file.is_dir():
        return Table(read_table(file, columns, encoding), file.name, file.parent)
    tables = _read_dataset(str(file), None, columns, encoding)
    named = [tables[name] for name in SPLITS.get(split, ()) if name in tables] or list(tables.values())
    if len(named) > 1:
        raise ValueError(f"Expected a folder with the split {split!r}, got {list(tables)} in {file}; name one of them.")
    return named[0]


def _read_dataset(
    dataset_name: str | None, config_name: str | None, columns: Collection[str] | None, encoding: str
) -> dict[str, Table]:
    """Read the splits of a folder, or of a dataset on the Hub, under the names that they have there."""
    if dataset_name is not None and os.path.isfile(dataset_name):
        raise ValueError(
            f"Expected the name of a dataset or of a folder, got the file {dataset_name}; give it as --train_file, or "
            "as files={'train': ...}."
        )
    folder = Path(dataset_name) if dataset_name is not None and os.path.isdir(dataset_name) else None
    files = _tables_in(folder) if folder is not None else {}
    if files:
        return {split: _read_source(split, file, columns, encoding) for split, file in files.items()}
    loaded = _load_dataset(dataset_name, config_name, folder)
    return {name: Table(rows, f"split {name!r}", folder or Path()) for name, rows in loaded.items()}


def _tables_in(folder: Path) -> dict[str, str]:
    """The files of a folder that are named as splits, such as train.csv."""
    names = {name for group in SPLITS.values() for name in group}
    files: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.stem.lower() in names and path.suffix.lower() in TABLE_TYPES and path.is_file():
            split = path.stem.lower()
            if split in files:
                raise ValueError(
                    f"Expected one table of the split {split!r} in {folder}, got {Path(files[split]).name} and "
                    f"{path.name}; remove one of them, or name the files, as with --train_file."
                )
            files[split] = str(path)
    return files


def _load_dataset(dataset_name: str | None, config_name: str | None, folder: Path | None) -> dict[str, Dataset]:
    """Load the splits of a dataset on the Hub, or in a folder without tables named as splits."""
    if dataset_name is None:
        raise ValueError("Expected a dataset name or files, got neither; give --dataset_name or --train_file.")
    if folder is not None and any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        loaded = datasets.load_from_disk(dataset_name)
    else:
        loaded = datasets.load_dataset(dataset_name, config_name, **_csv_options(dataset_name, config_name))
    splits = dict(loaded) if isinstance(loaded, DatasetDict) else {"train": loaded}
    for name, rows in splits.items():
        if len(rows) == 0:
            raise ValueError(f"Expected rows in split {name!r} of {dataset_name}, found none; add rows or remove it.")
    return splits


def _csv_options(dataset_name: str, config_name: str | None) -> dict[str, Any]:
    """Options that keep the cells of csv and tsv files strings, where pandas would guess their types."""
    builder = datasets.load_dataset_builder(dataset_name, config_name)
    if not isinstance(builder.config, CsvConfig):
        return {}
    options: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}
    if builder.config.sep == "\t":
        options["quoting"] = csv.QUOTE_NONE
    if builder.info.features is None:  # otherwise, the card of the dataset declares the types
        stream = next(iter(builder.as_streaming_dataset().values()))
        options["features"] = datasets.Features({name: datasets.Value("string") for name in next(iter(stream))})
    return options
