"""The collator, which turns the rows of a dataset into a batch of the model."""

import re
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any, TypeVar

import datasets
import torch
from transformers.utils import logging

from ..model.kind_registry import Features
from ..model.media_values import UnreadableError
from ..model.multimodal_processor import MultimodalProcessor
from ..model.targets import REGRESSION, SINGLE_LABEL
from .augmentation import CPU, DRAW, augmented, check_augmentation, draw_seed
from .columns import ROW, as_list, decodes, labels_in, undecoded
from .feature_cache import CACHED, cache_features, cached_features, feature_fingerprint
from .label_tensors import labels_tensor
from .random_state import isolated_random_state
from .shortened import shortened


logger = logging.get_logger(__name__)

AnyDataset = TypeVar("AnyDataset", datasets.Dataset, datasets.DatasetDict)


class MultimodalCollator:
    """
    Turns dataset rows into the model's batch, `{"image": {...}, "text": {...}, "labels": (B,)}`.

    Args:
        processor (`MultimodalProcessor`): processes each modality.
        columns (`dict[str, str | list[str]]`): the column of each modality, or a list of columns for numbers and
            tables. Their order does not count if the processor knows their names.
        label (`str`, *optional*, defaults to `"label"`): the column of labels; `None` for unlabelled data. It holds
            classes, as integers or names. For several labels per sample, it holds lists of names, or of K zeros and
            ones. For a regression, it holds numbers, or lists of R numbers.
        num_labels (`int`, *optional*): number of classes K, to check the labels of each batch. The trainer sets it.
        on_error (`str`, *optional*, defaults to `"raise"`): what to do with a value that cannot be read. `"missing"`
            logs a warning and treats the modality as missing in that row. It needs a dataset that leaves files
            undecoded, as [`~pmr_hf.data.tables.load_table`] does, see [`~pmr_hf.data.columns.undecoded`].
        segments (`bool`, *optional*, defaults to `False`): whether labels may be lists with one class for each of the T
            segments of a sample. The batch then has labels (B, T). The trainer sets it for a model other than a
            [`MultimodalModel`].
        problem_type (`str`, *optional*, defaults to `"single_label_classification"`): what the labels are, see
            [`MultimodalConfig`]. The trainer sets it, and `class_names`.
        class_names (`Sequence[str]`, *optional*): the names of the K classes or labels.
        augment (`dict[str, Callable]`, *optional*): a random transform of a modality's values, by modality, which the
            trainer applies to training rows only. It gets a value after reading and before the processor, and returns
            one of the same type: a PIL image (each picture of a list or video in turn, drawn alike), a waveform
            (samples,), a text, or an array of numbers. Transforms of `torchvision.transforms.v2` will do. It must draw
            from the global generators of torch, NumPy or Python, which are seeded from the run's seed, the epoch and
            the row. With data workers that are spawned, it must be picklable.
        frames (`str`, *optional*, defaults to `"even"`): which frame to take from each of the `num_frames` equal
            segments of a training video: `"even"` takes the middle one, `"random"` one that is drawn in each epoch.

    Raises:
        ValueError: if `columns` and `processor` name different modalities, or different columns of a modality; for
            another `on_error` or `frames`; for `augment` of an unknown modality, or with a transform that is not
            callable; for random frames without `num_frames`. When called, for no rows, if rows lack a column, if labels
            are not what the problem type needs, if a value cannot be read, or if a transform returns another type.
    """

    def __init__(
        self,
        processor: MultimodalProcessor,
        columns: dict[str, str | list[str]],
        label: str | None = "label",
        num_labels: int | None = None,
        on_error: str = "raise",
        segments: bool = False,
        problem_type: str = SINGLE_LABEL,
        class_names: Sequence[str] | None = None,
        augment: Mapping[str, Callable[[Any], Any]] | None = None,
        frames: str = "even",
    ):
        if columns.keys() != processor.processors.keys():
            raise ValueError(
                f"Expected a column for each of the processor's modalities {list(processor.processors)}, got columns "
                f"for {list(columns)}; give both the same names."
            )
        if on_error not in ("raise", "missing"):
            raise ValueError(f"Expected `on_error` to be 'raise' or 'missing', got {on_error!r}; correct it.")
        self.augment = dict(augment or {})
        check_augmentation(processor, self.augment, frames)
        self.frames = frames
        self.processor = processor
        self.columns = {name: processor.kind(name).arrange(column) for name, column in columns.items()}
        self.label = label
        self.num_labels = num_labels
        self.on_error = on_error
        self.segments = segments
        self.problem_type = problem_type
        self.class_names = class_names

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """
        Collate at least one row into a batch: the encoder inputs of each modality, and `labels`, which are classes (B,)
        or (B, T), multi-hot labels (B, K), or targets (B,) or (B, R) in fp32.
        """
        if not rows:
            raise ValueError("Expected at least one row to collate, got none; drop empty batches.")
        for keys in {tuple(row) for row in rows}:
            self.check_columns(keys)
        if DRAW in rows[0]:
            self.check_variable(rows[0])
        batch: dict[str, Any] = {
            name: self.processor.collate(
                name, cached_features(name, rows) if CACHED + name in rows[0] else self.extract(name, rows)
            )
            for name in self.columns
        }
        if self.label is not None:
            labels = self.convert_labels(
                [row[self.label] for row in rows], lambda i: rows[i].get(ROW, f"row {i} of this batch")
            )
            batch["labels"] = labels.float() if self.problem_type == REGRESSION else labels
        return batch

    def only(self, names: Sequence[str]) -> "MultimodalCollator":
        """A collator of these modalities, for the same rows."""
        return MultimodalCollator(
            self.processor.only(names),
            {name: self.columns[name] for name in names},
            label=self.label,
            num_labels=self.num_labels,
            on_error=self.on_error,
            segments=self.segments,
            problem_type=self.problem_type,
            class_names=self.class_names,
            augment={name: transform for name, transform in self.augment.items() if name in names},
            frames=self.frames if any(name in self.processor.num_frames for name in names) else "even",
        )

    def convert_labels(self, labels: Sequence[Any], place: Callable[[int], str] = "row {}".format) -> torch.Tensor:
        """The labels of rows as a tensor, see [`~pmr_hf.data.label_tensors.labels_tensor`]. Targets stay in fp64."""
        return labels_tensor(self.problem_type, labels, self.num_labels, self.class_names, self.segments, place)

    def extract(self, name: str, rows: Sequence[dict[str, Any]]) -> list[Features | None]:
        """Extract the features of one modality from each row. The result is `None` for a row that lacks it."""
        return self.processor.extract(name, [self.read(name, i, row) for i, row in enumerate(rows)])

    def read(self, name: str, i: int, row: dict[str, Any]) -> Any:
        """
        Read the value of one modality in row `i` of a batch, see [`MultimodalProcessor.read`]. Raises `UnreadableError`
        for a value that cannot be read, unless it counts as missing by `on_error`.
        """
        column = self.columns[name]
        value = self.processor.kind(name).value_in(row, column)
        try:
            return self._varied_value(name, value, row[DRAW]) if DRAW in row else self.processor.read(name, value)
        except UnreadableError as error:
            place = f"{row.get(ROW, f'row {i} of this batch')}, column {column!r}"
            if self.on_error == "missing":
                logger.warning(f"Taking {name!r} as missing in {place}: {error}.")
                return None
            raise UnreadableError(
                f"Expected {name!r} in {place}, but {error}; correct it, or set on_error='missing' to train without it."
            ) from error

    @property
    def varied(self) -> list[str]:
        """The modalities whose training values differ from epoch to epoch."""
        random_frames = self.processor.num_frames if self.frames == "random" else {}
        return [name for name in self.columns if name in self.augment or name in random_frames]

    @property
    def variation(self) -> dict[str, Any]:
        """`augment` and `frames` as values for JSON, where a text describes each transform."""
        transforms = {name: re.sub(r" at 0x[0-9a-f]+", "", repr(each)) for name, each in self.augment.items()}
        return {"augment": transforms, "frames": self.frames}

    def _varied_value(self, name: str, value: Any, draw: tuple[int, int, int]) -> Any:
        if name not in self.varied:
            return self.processor.read(name, value)
        seed = draw_seed(draw, name)
        with isolated_random_state(seed, CPU):
            value = self.processor.read(name, value, random_frames=self.frames == "random")
        if value is None or name not in self.augment:
            return value
        return augmented(self.processor, name, value, self.augment[name], seed)

    def cache(self, dataset: AnyDataset, num_proc: int | None = None) -> AnyDataset:
        """
        Extract the features of every modality of a dataset once, and store them in the cache of `datasets`.

        The collator makes the same batches from the result as from the dataset itself, without reading files or
        extracting features again. If the data, its files or the processor change, the features are extracted again.

        Args:
            dataset (`datasets.Dataset | datasets.DatasetDict`): with this collator's columns.
            num_proc (`int`, *optional*): number of processes that extract features.

        Returns:
            The dataset with one column of features per modality, in place of the columns of the modalities.
        """
        if isinstance(dataset, datasets.DatasetDict):
            return datasets.DatasetDict({split: self.cache(part, num_proc) for split, part in dataset.items()})
        self.check_columns(dataset.column_names)
        fingerprint = feature_fingerprint(dataset, self.processor, self.columns, self.on_error)
        keep = [] if self.label is None else [self.label]
        if self.on_error == "missing":
            dataset = undecoded(dataset)
        return cache_features(dataset, self.columns, self.extract, fingerprint, keep, num_proc)

    def check_columns(self, found: Sequence[str] | dict[str, Any]) -> None:
        """Raise `ValueError` if `found`, the names of columns or a row, lacks a column that the collator needs."""
        needed = [] if self.label is None else [self.label]
        for name, column in self.columns.items():
            if CACHED + name not in found:
                needed += as_list(column)
        missing = [column for column in needed if column not in found]
        if missing:
            raise ValueError(
                f"Expected the dataset columns {shortened(needed)}, but {shortened(missing)} are not among "
                f"{shortened(found)}; correct the collator's `columns` and `label`, or rename the dataset's columns."
            )

    def check_variable(self, found: Sequence[str] | dict[str, Any]) -> None:
        """Raise `ValueError` if `found`, the names of columns or a row, has cached features of a `varied` modality."""
        cached = [name for name in self.varied if CACHED + name in found]
        if cached:
            raise ValueError(
                "Expected a training set without cached features for `augment` or frames='random', got those of "
                f"{cached}, which are the same in each epoch; train on the dataset itself, or leave the two out."
            )

    def match_labels(self, num_labels: int | None, problem_type: str, names: Mapping[int, str]) -> None:
        """From now on, convert labels for a model with these settings. `names` is its `id2label`."""
        self.num_labels, self.problem_type = num_labels, problem_type
        self.class_names = list(names.values())

    def matched(self, num_labels: int | None, problem_type: str, names: Mapping[int, str]) -> "MultimodalCollator":
        """A copy that converts labels for a model with these settings, see [`MultimodalCollator.match_labels`]."""
        collator = copy(self)
        collator.match_labels(num_labels, problem_type, names)
        return collator

    def check_class_names(self, dataset: Any) -> list[str] | None:
        """
        The names of the classes of a `datasets.Dataset` whose label column is a `ClassLabel`, else `None`. Raises
        `ValueError` if one of them is in `class_names` with another id.
        """
        feature = dataset.features.get(self.label) if isinstance(dataset, datasets.Dataset) else None
        if not isinstance(feature, datasets.ClassLabel):
            return None
        ids = {name: k for k, name in enumerate(self.class_names or ())}
        moved = {name: (k, ids[name]) for k, name in enumerate(feature.names) if ids.get(name, k) != k}
        if moved:
            name, (found, expected) = next(iter(moved.items()))
            raise ValueError(
                f"Expected the classes of the column {self.label!r} in the order of the model's `id2label`, got "
                f"{name!r} as {found} in place of {expected} ({len(moved)} classes differ); give the model the names "
                "of the dataset as `id2label`, or turn the labels of the dataset into names."
            )
        return feature.names

    def check_dataset(self, dataset: Any) -> list[str] | None:
        """
        Check the columns and labels of a whole `datasets.Dataset` or list of rows. Any other dataset, and a
        `datasets.Dataset` with a transform, is checked batch by batch during training.

        Returns:
            `list[str] | None`: the names of the classes, if the label column is a `ClassLabel`.

        Raises:
            ValueError: for a missing column, labels that are not what the problem type needs, and see
                [`MultimodalCollator.check_class_names`].
        """
        class_names, labels = None, None
        if isinstance(dataset, list):
            for row in dataset:
                self.check_columns(row)
            labels = [row[self.label] for row in dataset] if self.label is not None else None
        elif isinstance(dataset, datasets.Dataset) and dataset.format["type"] != "custom":
            self.check_columns(dataset.column_names)
            if self.label is not None:
                labels = labels_in(dataset, self.label)
                class_names = self.check_class_names(dataset)
            self._warn_of_decoding(dataset)
        if labels is not None:
            self.convert_labels(labels)
        return class_names

    def _warn_of_decoding(self, dataset: datasets.Dataset) -> None:
        used = {part for column in self.columns.values() for part in as_list(column)} & set(dataset.column_names)
        decoding = sorted(part for part in used if decodes(dataset.features[part]))
        if decoding and self.on_error == "missing":
            logger.warning(
                f"`on_error='missing'` does not reach the columns {decoding}: the dataset decodes their files itself, "
                "and stops at one that cannot be read; give `pmr_hf.data.columns.undecoded(dataset)` instead."
            )
