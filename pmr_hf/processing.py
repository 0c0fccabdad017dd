"""From raw dataset columns to the model's nested batch: one Hugging Face processor per modality, and a collator."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from huggingface_hub import hf_hub_download
from PIL.Image import Image as PILImage
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    BaseImageProcessor,
    PreTrainedTokenizerBase,
    SequenceFeatureExtractor,
)
from transformers.utils import PushToHubMixin

from .configuration import check_modality_name


ModalityProcessor = BaseImageProcessor | SequenceFeatureExtractor | PreTrainedTokenizerBase

# How each kind is named in the saved file, and loaded again.
KINDS = {
    "image_processor": (BaseImageProcessor, AutoImageProcessor),
    "feature_extractor": (SequenceFeatureExtractor, AutoFeatureExtractor),
    "tokenizer": (PreTrainedTokenizerBase, AutoTokenizer),
}


class MultimodalProcessor(PushToHubMixin):
    """
    One Hugging Face processor per modality, under the same names as the model's backbones.

    ```python
    names = {"image": "google/vit-base-patch16-224", "text": "bert-base-uncased"}
    processor = MultimodalProcessor.from_backbones(names)
    batch = processor(image=[picture], text=["a cat"])  # {"image": {"pixel_values": ...}, "text": {"input_ids": ...}}
    ```

    Args:
        processors (`dict[str, ModalityProcessor]`): an image processor, feature extractor or tokenizer per modality.

    Raises:
        TypeError: for a processor of another kind.
        ValueError: for a modality name that is no identifier or is taken.
    """

    config_name = "processor_config.json"

    def __init__(self, processors: dict[str, ModalityProcessor]):
        for name, processor in processors.items():
            check_modality_name(name)
            _kind(name, processor)
        self.processors = dict(processors)

    @classmethod
    def from_backbones(cls, backbones: dict[str, str | os.PathLike | ModalityProcessor]) -> "MultimodalProcessor":
        """The processors of pretrained encoders: Hub names, local folders, or processors to take as they are."""
        return cls(
            {
                name: AutoProcessor.from_pretrained(backbone) if isinstance(backbone, (str, os.PathLike)) else backbone
                for name, backbone in backbones.items()
            }
        )

    def __call__(self, **modalities: Sequence[Any]) -> dict[str, dict[str, torch.Tensor]]:
        """
        Process a list of raw values per modality: images, texts, or mono waveforms at the extractor's own rate.

        Returns:
            `dict[str, dict[str, torch.Tensor]]`: each modality's encoder inputs, with one row per value.

        Raises:
            ValueError: for a modality without a processor, a value that is not in a list, or lists of unequal lengths.
        """
        unknown = modalities.keys() - self.processors.keys()
        if unknown:
            raise ValueError(
                f"Expected modalities among {list(self.processors)}, got {sorted(unknown)} too; give the processor and "
                "the data the same names."
            )
        for name, values in modalities.items():
            if isinstance(values, (str, bytes)) or not isinstance(values, Sequence | np.ndarray):
                raise ValueError(
                    f"Expected a list of values for {name!r}, got one {type(values).__name__}; put it in a list."
                )
        lengths = {name: len(values) for name, values in modalities.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"Expected as many values of each modality, got {lengths}; give one of each per sample.")
        return {name: self._process(self.processors[name], list(values)) for name, values in modalities.items()}

    @staticmethod
    def _process(processor: ModalityProcessor, values: list[Any]) -> dict[str, torch.Tensor]:
        if isinstance(processor, PreTrainedTokenizerBase):
            return dict(processor(values, padding=True, truncation=True, return_tensors="pt"))
        if isinstance(processor, SequenceFeatureExtractor):
            return dict(processor(values, sampling_rate=processor.sampling_rate, padding=True, return_tensors="pt"))
        # Pictures come in any mode: the encoder has as many channels as the processor has means.
        gray = len(getattr(processor, "image_mean", None) or ()) == 1
        images = [_as_array(value, gray) if isinstance(value, PILImage) else value for value in values]
        return dict(processor(images, return_tensors="pt"))

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> None:
        """Save each processor to a folder of its modality's name, and their order to `processor_config.json`."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        for name, processor in self.processors.items():
            processor.save_pretrained(folder / name)
        kinds = {name: _kind(name, processor) for name, processor in self.processors.items()}
        config = {"processor_class": type(self).__name__, "modalities": kinds}
        (folder / self.config_name).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike, **kwargs) -> "MultimodalProcessor":
        """
        Load what [`MultimodalProcessor.save_pretrained`] or `push_to_hub` wrote.

        Args:
            name_or_path (`str`): a local folder or Hub name.
            kwargs: `revision`, `token`, `cache_dir`, ... as for any processor from the Hub.

        Raises:
            FileNotFoundError: if a local folder holds none.
        """
        if os.path.isdir(name_or_path):
            file = os.path.join(name_or_path, cls.config_name)
            if not os.path.isfile(file):
                raise FileNotFoundError(
                    f"Expected a saved MultimodalProcessor in {name_or_path}, found no {cls.config_name} there; make "
                    "one of several pretrained encoders with `MultimodalProcessor.from_backbones`."
                )
        else:
            file = hf_hub_download(str(name_or_path), cls.config_name, **kwargs)
        modalities = json.loads(Path(file).read_text(encoding="utf-8"))["modalities"]
        return cls(
            {
                name: KINDS[kind][1].from_pretrained(name_or_path, subfolder=name, **kwargs)
                for name, kind in modalities.items()
            }
        )


def _as_array(image: PILImage, gray: bool) -> np.ndarray:
    """(1, H, W) or (H, W, 3), uint8."""
    return np.array(image.convert("L"))[None] if gray else np.array(image.convert("RGB"))


def _kind(name: str, processor: ModalityProcessor) -> str:
    for kind, (cls, _) in KINDS.items():
        if isinstance(processor, cls):
            return kind
    raise TypeError(
        f"Expected the processor of {name!r} to be an image processor, a feature extractor or a tokenizer, got "
        f"{type(processor).__name__}; pass that part of it, for instance AutoImageProcessor.from_pretrained(...)."
    )


class MultimodalCollator:
    """
    Turns dataset rows into the model's batch, `{"image": {...}, "text": {...}, "labels": (B,)}`.

    Args:
        processor (`MultimodalProcessor`): processes each modality.
        columns (`dict[str, str]`): the dataset column of each modality.
        label (`str`, *optional*, defaults to `"label"`): the column of integer classes; `None` for unlabelled data.
        num_labels (`int`, *optional*): number of classes K, to check the labels of each batch. The trainer sets it.

    Raises:
        ValueError: if `columns` and `processor` name different modalities, or, when called, if rows lack a column or
            have labels that are no integers or outside 0..K-1.
    """

    def __init__(
        self,
        processor: MultimodalProcessor,
        columns: dict[str, str],
        label: str | None = "label",
        num_labels: int | None = None,
    ):
        if columns.keys() != processor.processors.keys():
            raise ValueError(
                f"Expected a column for each of the processor's modalities {list(processor.processors)}, got columns "
                f"for {list(columns)}; give both the same names."
            )
        self.processor = processor
        self.columns = dict(columns)
        self.label = label
        self.num_labels = num_labels

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        for row in rows:
            self.check_columns(row)
        batch: dict[str, Any] = self.processor(
            **{name: [row[column] for row in rows] for name, column in self.columns.items()}
        )
        if self.label is not None:
            batch["labels"] = integer_labels([row[self.label] for row in rows], self.num_labels)
        return batch

    def check_columns(self, found: Sequence[str] | dict[str, Any]) -> None:
        """Raise `ValueError` unless the columns found, or the keys of a row, include each one that is needed."""
        needed = [*self.columns.values(), *([] if self.label is None else [self.label])]
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
            integer_labels(labels, self.num_labels)
        return class_names


def integer_labels(labels: Any, num_labels: int | None = None) -> torch.Tensor:
    """
    Class labels as an int64 tensor.

    Args:
        labels: a list, array or CPU tensor of integers, not empty.
        num_labels (`int`, *optional*): the number of classes K, to check that labels lie in 0..K-1.

    Raises:
        ValueError: for labels that are not integers or outside 0..K-1.
    """
    values = np.asarray(labels)
    if values.dtype.kind not in "iu":
        wrong = next((label for label in labels if np.asarray(label).dtype.kind not in "iu"), labels[0])
        raise ValueError(
            f"Expected integer labels 0..K-1, got {wrong!r} of type {type(wrong).__name__}; map your classes "
            "to integers before splitting, for instance with `dataset.class_encode_column`, and drop rows without one."
        )
    if num_labels is not None and not 0 <= values.min() <= values.max() < num_labels:
        raise ValueError(
            f"Expected labels in 0..{num_labels - 1}, got labels from {values.min()} to {values.max()}; set the "
            "model's `num_labels` to the number of classes, or correct the labels."
        )
    return torch.as_tensor(values, dtype=torch.long)
