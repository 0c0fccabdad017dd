"""The collator: from dataset rows to the model's batch, with what cannot be read named, or extracted once to disk."""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import datasets
import numpy as np
import torch
from safetensors.torch import load, save
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..model.media import UnreadableError
from ..model.processor import Features, MultimodalProcessor


logger = logging.get_logger(__name__)

AnyDataset = TypeVar("AnyDataset", datasets.Dataset, datasets.DatasetDict)

ROW = "source_row"  # the column that tells where a row comes from, for messages
NO_LABEL = -100  # of a segment, as torch's cross entropy leaves it out
CACHED = "__features__"  # before a modality's name: the column of its extracted features


class MultimodalCollator:
    """
    Turns dataset rows into the model's batch, `{"image": {...}, "text": {...}, "labels": (B,)}`.

    Args:
        processor (`MultimodalProcessor`): processes each modality.
        columns (`dict[str, str | list[str]]`): the dataset column of each modality, or several that hold its numbers.
        label (`str`, *optional*, defaults to `"label"`): the column of integer classes; `None` for unlabelled data.
        num_labels (`int`, *optional*): number of classes K, to check the labels of each batch. The trainer sets it.
        on_error (`str`, *optional*, defaults to `"raise"`): `"missing"` takes a value that cannot be read as missing,
            with a warning.
        segments (`bool`, *optional*, defaults to `False`): whether labels may be lists, one class for each segment of a
            sample, so that the batch has labels (B, T). The trainer sets it for a model that is no [`MultimodalModel`].

    Raises:
        ValueError: if `columns` and `processor` name different modalities, or, when called, if rows lack a column, have
            labels that are no integers or outside 0..K-1, or a value that cannot be read.
    """

    def __init__(
        self,
        processor: MultimodalProcessor,
        columns: dict[str, str | list[str]],
        label: str | None = "label",
        num_labels: int | None = None,
        on_error: str = "raise",
        segments: bool = False,
    ):
        if columns.keys() != processor.processors.keys():
            raise ValueError(
                f"Expected a column for each of the processor's modalities {list(processor.processors)}, got columns "
                f"for {list(columns)}; give both the same names."
            )
        if on_error not in ("raise", "missing"):
            raise ValueError(f"Expected `on_error` to be 'raise' or 'missing', got {on_error!r}.")
        self.processor = processor
        self.columns = dict(columns)
        self.label = label
        self.num_labels = num_labels
        self.on_error = on_error
        self.segments = segments

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        if not rows:
            raise ValueError("Expected at least one row to collate, got none; drop empty batches.")
        for keys in {tuple(row) for row in rows}:
            self.check_columns(keys)
        batch: dict[str, Any] = {
            name: self.processor.collate(
                name,
                [None if row[CACHED + name] is None else load(row[CACHED + name]) for row in rows]
                if CACHED + name in rows[0]
                else self.extract(name, rows),
            )
            for name in self.columns
        }
        if self.label is not None:
            batch["labels"] = integer_labels([row[self.label] for row in rows], self.num_labels, self.segments)
        return batch

    def extract(self, name: str, rows: Sequence[dict[str, Any]]) -> list[Features | None]:
        """Read and extract one modality of some rows; `None` where it is missing."""
        return self.processor.extract(name, [self._read(name, i, row) for i, row in enumerate(rows)])

    def _read(self, name: str, i: int, row: dict[str, Any]) -> Any:
        column = self.columns[name]
        value = row[column] if isinstance(column, str) else [row[part] for part in column]
        try:
            return self.processor.read(name, value)
        except UnreadableError as error:
            place = f"{row.get(ROW, f'row {i} of this batch')}, column {column!r}"
            if self.on_error == "missing":
                logger.warning(f"Taking {name!r} as missing in {place}: {error}.")
                return None
            raise UnreadableError(
                f"Expected {name!r} in {place}, but {error}; correct it, or set on_error='missing' to train without it."
            ) from error

    def cache(self, dataset: AnyDataset, num_proc: int | None = None) -> AnyDataset:
        """
        Extract every modality of a dataset once, with a progress bar, into files that `datasets` keeps and finds again.

        The collator makes the same batches of the result as of the dataset itself, without the time to read files and
        extract. A change of the data, of its files or of the processor extracts anew.

        Args:
            dataset (`datasets.Dataset | datasets.DatasetDict`): with this collator's columns.
            num_proc (`int`, *optional*): processes to extract in.
        """
        if isinstance(dataset, datasets.DatasetDict):
            return datasets.DatasetDict({split: self.cache(part, num_proc) for split, part in dataset.items()})
        self.check_columns(dataset.column_names)
        sources = {part for column in self.columns.values() for part in as_list(column)} - {self.label}
        others = {name: feature for name, feature in dataset.features.items() if name not in sources}

        def extract(rows: dict[str, list[Any]]) -> dict[str, list[bytes | None]]:
            samples = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
            return {
                CACHED + name: [None if row is None else _to_bytes(row) for row in self.extract(name, samples)]
                for name in self.columns
            }

        fingerprint = self._fingerprint(dataset, sources)
        folder = os.path.join(datasets.config.HF_DATASETS_CACHE, "pmr_hf")  # for a dataset that is in memory
        os.makedirs(folder, exist_ok=True)
        return dataset.map(
            extract,
            batched=True,
            batch_size=16,
            writer_batch_size=16,  # a clip of video takes 10 MB
            num_proc=num_proc if num_proc and len(dataset) >= 16 * num_proc else None,
            remove_columns=sorted(sources),
            features=datasets.Features(others | {CACHED + name: datasets.Value("binary") for name in self.columns}),
            new_fingerprint=fingerprint,
            cache_file_name=None if dataset.cache_files else os.path.join(folder, f"{fingerprint}.arrow"),
            desc="Extracting features",
        )

    def _fingerprint(self, dataset: datasets.Dataset, sources: set[str]) -> str:
        """A digest of the dataset, of the files that it names, and of how they are processed."""
        for name, processor in self.processor.processors.items():
            if isinstance(processor, PreTrainedTokenizerBase):
                self.processor.extract(name, ["a"])  # a tokenizer's file tells how it was last called
        digest = hashlib.sha256(f"{dataset._fingerprint} {self.columns} {self.on_error}".encode())
        with tempfile.TemporaryDirectory() as folder:
            self.processor.save_pretrained(folder)
            for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
                digest.update(file.read_bytes())
        texts = {
            part
            for name, column in self.columns.items()
            if isinstance(self.processor.processors[name], PreTrainedTokenizerBase)
            for part in as_list(column)
        }
        for column in sorted(sources - texts):
            if holds_strings(dataset.features[column]):
                for value in chain.from_iterable(as_list(value) for value in dataset[column] if value):
                    if value and os.path.isfile(value):
                        digest.update(f"{os.path.getmtime(value)} {os.path.getsize(value)}".encode())
        return digest.hexdigest()[:32]

    def check_columns(self, found: Sequence[str] | dict[str, Any]) -> None:
        """Raise `ValueError` unless the columns found, or the keys of a row, include each one that is needed."""
        needed = [] if self.label is None else [self.label]
        for name, column in self.columns.items():
            if CACHED + name not in found:
                needed += as_list(column)
        missing = [column for column in needed if column not in found]
        if missing:
            raise ValueError(
                f"Expected the dataset columns {needed}, but {missing} are not among {list(found)}; correct the "
                "collator's `columns` and `label`, or rename the dataset's columns."
            )

    def check_dataset(self, dataset: Any) -> list[str] | None:
        """
        Check the columns and labels of a whole `datasets.Dataset` or list of rows. Any other dataset, or one with a
        transform, is checked batch by batch when it is read.

        Returns:
            `list[str] | None`: the names of the classes, if the label column is a `ClassLabel`.
        """
        class_names, labels = None, None
        if isinstance(dataset, list):
            for row in dataset:
                self.check_columns(row)
            labels = [row[self.label] for row in dataset] if self.label is not None else None
        elif isinstance(dataset, datasets.Dataset) and dataset.format["type"] != "custom":
            self.check_columns(dataset.column_names)
            if self.label is not None:
                labels = dataset[self.label][:]
                feature = dataset.features[self.label]
                class_names = feature.names if isinstance(feature, datasets.ClassLabel) else None
        if labels is not None:
            integer_labels(labels, self.num_labels, self.segments)
        return class_names


def as_list(value: str | list[str]) -> list[str]:
    """One string as a list of one."""
    return [value] if isinstance(value, str) else value


def holds_strings(feature: Any) -> bool:
    """Whether a dataset's column is of strings or lists of them, as paths are."""
    feature = getattr(feature, "feature", feature)
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")


def integer_labels(labels: Any, num_labels: int | None = None, segments: bool = False) -> torch.Tensor:
    """
    Class labels as an int64 tensor, (B,), or (B, T) of segments.

    Args:
        labels: a list, array or CPU tensor of integers, not empty.
        num_labels (`int`, *optional*): the number of classes K, to check that labels lie in 0..K-1.
        segments (`bool`, *optional*, defaults to `False`): whether they may be of lists of integers, the labels of each
            sample's segments, as many of each, with -100 for a segment without a label.

    Raises:
        ValueError: for labels that are no integers, of unequal numbers of segments, or outside 0..K-1.
    """
    try:
        values = np.asarray(labels)
    except ValueError as error:  # lists of several lengths
        if segments and all(np.ndim(label) == 1 for label in labels):
            raise ValueError(
                f"Expected as many labels of segments for each sample, got {sorted({len(label) for label in labels})}; "
                "fill up with -100, which counts nowhere."
            ) from error
        values = np.empty(0)
    dimensions = (1, 2) if segments else (1,)
    if values.dtype.kind not in "iu" or values.ndim not in dimensions or not values.size or values.max() > 2**63 - 1:
        whole = (int, np.integer)
        wrong = next((label for label in labels if not isinstance(label, whole) or isinstance(label, bool)), labels)
        raise ValueError(
            f"Expected integer labels 0..K-1, got {wrong!r:.80} of type {type(wrong).__name__}; map your classes "
            "to integers before splitting, for instance with `dataset.class_encode_column`, and drop rows without one."
        )
    labelled = values[values != NO_LABEL] if values.ndim == 2 else values
    if num_labels is not None and labelled.size and not 0 <= labelled.min() <= labelled.max() < num_labels:
        raise ValueError(
            f"Expected labels in 0..{num_labels - 1}, got labels from {labelled.min()} to {labelled.max()}; set the "
            "model's `num_labels` to the number of classes, or correct the labels."
        )
    return torch.as_tensor(values, dtype=torch.long)


def _to_bytes(row: Features) -> bytes:
    return save({key: value.contiguous() for key, value in row.items()})
