"""Tables of any kind, from files, folders or the Hub, as labelled train, validation and test splits."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, DatasetDict
from transformers.utils import logging

from .columns import ROW, as_list, holds_strings
from .labels import encode_labels, stratified_cut


logger = logging.get_logger(__name__)

BUILDERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
MEDIA = (datasets.Image, datasets.Audio, datasets.Video)


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
    The splits `train`, `validation` and, where there is one, `test`, ready for a [`MultimodalCollator`].

    Labels of any type become a `ClassLabel`, with the sorted values of the training split as its names. Pictures, sound
    and video are left undecoded: the collator reads them. A relative path is taken from the folder of its table.
    Without a validation split, one is cut from the training split, stratified by label. Each row says in `source_row`
    where it comes from.

    Args:
        columns (`dict[str, str | list[str]]`): the column, or columns of numbers, of each modality.
        label (`str`, *optional*, defaults to `"label"`): the column of classes.
        dataset_name (`str`, *optional*): a Hub name, a folder with `train.csv` (or .tsv, .jsonl, .parquet; and
            `validation`, `test`), a folder that `datasets` saved, or any other that `datasets.load_dataset` takes.
        config_name (`str`, *optional*): the configuration of a dataset on the Hub.
        files (`dict[str, str]`, *optional*): in place of a name, the table of each split.
        files_in (`Sequence[str]`, *optional*): modalities whose strings are paths of files.
        check_files (`bool`, *optional*, defaults to `True`): look for all of those files now.
        validation_size (`float`, *optional*, defaults to 0.1): share of each class to cut, in (0, 1).
        seed (`int`, *optional*, defaults to 0): seed of that cut.

    Raises:
        FileNotFoundError: for a table or a file that is not there.
        ValueError: for a column that is not there, a table of another type, a row without label, a class that the
            training split lacks, or a dataset without a training split.
    """
    if dataset_name is not None and files:
        raise ValueError(f"Expected a dataset name or files, got {dataset_name} and {files}; give one of them.")
    folder = Path(dataset_name) if dataset_name is not None and os.path.isdir(dataset_name) else None
    files = files or (_tables_in(folder) if folder is not None else {})
    if files:
        splits = {name: read_table(Path(file)) for name, file in files.items()}
        sources = {name: (Path(file).name, Path(file).parent) for name, file in files.items()}
    else:
        splits = _load(dataset_name, config_name, folder)
        sources = {name: (f"split {name!r}", folder or Path()) for name in splits}
    splits = {name: splits[given] for name, names in SPLITS.items() for given in names if given in splits}
    sources = {name: sources[given] for name, names in SPLITS.items() for given in names if given in sources}
    if "train" not in splits:
        raise ValueError(f"Expected a training split, got {list(sources)}; name one 'train', or give --train_file.")

    used = {part for column in columns.values() for part in as_list(column)}
    paths = {part for name in files_in for part in as_list(columns[name])}
    if "test" in splits and label not in splits["test"].column_names:
        logger.warning(f"The test split has no column {label!r}: it is left out.")
        del splits["test"]
    output = {}
    for name, split in splits.items():
        missing = sorted((used | {label}) - set(split.column_names))
        if missing:
            raise ValueError(
                f"Expected the columns {sorted(used)} and the label {label!r} in {sources[name][0]}, but {missing} are "
                f"not among {split.column_names}; correct --columns and --label_column."
            )
        split = split.select_columns(sorted(used | {label}))
        split = split.add_column(ROW, [f"{sources[name][0]}, row {i + 1}" for i in range(len(split))])
        for column, feature in split.features.items():
            if isinstance(feature, MEDIA):
                split = split.cast_column(column, type(feature)(decode=False))
        output[name] = _absolute(split, paths, sources[name][1], check_files)
    output = encode_labels(output, label)
    if "validation" not in output:
        train = output["train"]
        rest, chosen = stratified_cut(train[label][:], validation_size, seed)
        if len(chosen) == 0:
            raise ValueError(
                f"Expected a class of at least two rows to cut a validation split from, got {len(train)} rows of as "
                "many classes; give --validation_file."
            )
        logger.warning(f"No validation split: {len(chosen)} of {len(train)} training rows are taken.")
        output |= {"train": train.select(rest), "validation": train.select(chosen)}
    return DatasetDict({name: output[name] for name in SPLITS if name in output})


def draw_rows(rows: Dataset, count: int | None, seed: int) -> Dataset:
    """At most `count` rows, drawn at random; for `None` all rows, in their order."""
    if count is None:
        return rows
    return rows.shuffle(seed=seed).select(range(min(count, len(rows))))


def _tables_in(folder: Path) -> dict[str, str]:
    names = {name for group in SPLITS.values() for name in group}
    return {
        path.stem: str(path)
        for path in sorted(folder.iterdir())
        if path.stem in names and path.suffix in BUILDERS and path.is_file()
    }


def read_table(file: Path) -> Dataset:
    """The rows of a csv, tsv, json, jsonl or parquet file; raises `ValueError` for another type of file."""
    if file.suffix not in BUILDERS:
        raise ValueError(f"Expected a table of type {sorted(BUILDERS)}, got {file}; convert it.")
    if not file.is_file():
        raise FileNotFoundError(f"Expected a table {file}, found none there; correct the path.")
    options: dict[str, Any] = {"sep": "\t"} if file.suffix == ".tsv" else {}
    return datasets.load_dataset(BUILDERS[file.suffix], data_files=str(file), split="train", **options)


def _load(dataset_name: str | None, config_name: str | None, folder: Path | None) -> dict[str, Dataset]:
    if dataset_name is None:
        raise ValueError("Expected a dataset name or files, got neither; give --dataset_name or --train_file.")
    if folder is not None and any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        loaded = datasets.load_from_disk(dataset_name)
    else:
        loaded = datasets.load_dataset(dataset_name, config_name)
    return dict(loaded) if isinstance(loaded, DatasetDict) else {"train": loaded}


def _absolute(split: Dataset, columns: set[str], folder: Path, check: bool) -> Dataset:
    """Relative paths become absolute; with `check`, every file must be there."""
    for column in sorted(columns):
        feature = split.features[column]
        if not holds_strings(feature):
            continue
        values = [_absolute_path(value, folder) for value in split[column]]
        lost = [
            i
            for i, value in enumerate(values)
            if check and value and not all(os.path.isfile(part) for part in as_list(value) if part)
        ]
        if lost:
            shown = "; ".join(f"{split[ROW][i]}: {values[i]}" for i in lost[:3])
            raise FileNotFoundError(
                f"Expected the files that column {column!r} names, but {len(lost)} of {len(values)} are not there, "
                f"first {shown}; correct the paths, or set --on_error missing to train without them."
            )
        split = split.remove_columns(column).add_column(column, values, feature=feature)
    return split


def _absolute_path(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_absolute_path(part, folder) for part in value]
    if value and "://" in value:
        raise ValueError(f"Expected paths of files, got the address {value!r}; download the files first.")
    return value and str((folder / value.strip()).absolute())
