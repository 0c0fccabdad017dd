"""Encoders with new weights. `--backbones` takes their names in place of the name of a pretrained model."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Dataset
from transformers import PreTrainedConfig, ResNetConfig, ViTImageProcessor

from ..model.cg_mnist_encoder import CGMNISTConfig
from ..model.kinds import ModalityProcessor
from ..model.media_values import UnreadableError, is_missing
from ..model.numeric_encoder import NumericConfig
from ..model.numeric_processor import NumericProcessor, as_numbers
from ..model.spectrogram_processor import SpectrogramFeatureExtractor
from ..model.tabular_processor import TabularProcessor, UnreadableRowError
from .column_kinds import are_numbers, unlike_numbers
from .columns import ROW, as_list, whole_column


RESNET18 = {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]}


class EncoderInput(NamedTuple):
    """The data that a new encoder will read."""

    train: Dataset  # from `load_table`; only `numbers` and `tabular` read its values
    column: str | list[str]
    on_error: str = "raise"  # or "missing", see `MultimodalCollator`
    clip_seconds: float = 3  # length of every spectrogram, in seconds
    kinds: Mapping[str, str] = MappingProxyType({})  # "number" or "category" of columns, as `infer_columns` found them


NewEncoder = tuple[PreTrainedConfig, ModalityProcessor]


def numbers(source: EncoderInput) -> NewEncoder:
    """
    A multi-layer perceptron for numbers, and a processor with the mean and standard deviation of each feature over the
    training rows.

    Raises:
        UnreadableError: for a value that is not a number, unless `on_error` is `"missing"`.
        ValueError: if no row has a value that can be read, or if the rows have different numbers of features.
    """
    columns = [whole_column(source.train, part) for part in as_list(source.column)]
    if all(pa.types.is_floating(values.type) or pa.types.is_integer(values.type) for values in columns):
        matrix = np.stack([values.to_numpy().astype(np.float64) for values in columns], axis=1)
        rows = [matrix] if not np.isnan(matrix).all() else []
    else:
        lists = [values.to_pylist() for values in columns]
        cells = lists[0] if isinstance(source.column, str) else zip(*lists, strict=True)
        places = whole_column(source.train, ROW).to_pylist()
        rows = [_row_of_numbers(source, *row) for row in zip(places, cells, strict=True)]
    known = [row for row in rows if row is not None]
    if not known:
        raise ValueError(
            f"Expected numbers in column {source.column!r} of the training rows, got none that can be read; leave this "
            "modality out, or correct the column."
        )
    processor = NumericProcessor.fit(known)
    if isinstance(source.column, list) and len(source.column) == len(processor.mean):  # not columns of sequences
        processor.columns = source.column
    return NumericConfig(num_features=len(processor.mean)), processor


def _row_of_numbers(source: EncoderInput, place: str, value: Any) -> Any:
    """The numbers of one row. `None` if they are missing, or unreadable while `on_error` is "missing"."""
    if is_missing(value):
        return None
    try:
        return as_numbers(value)
    except UnreadableError as error:
        if source.on_error == "missing":
            return None
        raise UnreadableError(
            f"Expected numbers in {place}, column {source.column!r}, but {error}; correct it (lists need jsonl or "
            "parquet), or set --on_error missing to train without it."
        ) from error


def tabular(source: EncoderInput) -> NewEncoder:
    """
    Embeddings of categories and a multi-layer perceptron, and a processor with the statistics and categories of the
    training rows. A column that `kinds` does not name holds numbers if all of its cells are numbers, else categories.

    Raises:
        UnreadableError: for a cell that is no number in a column of numbers, unless `on_error` is `"missing"`.
        ValueError: for a column that `kinds` does not name and that hardly repeats a value, if most of its cells are
            numbers, or if all are numbers with a unit or a comma.
    """
    columns = as_list(source.column)
    kinds = {name: source.kinds.get(name) or _kind_of_cells(source.train, name) for name in columns}
    try:
        processor = TabularProcessor.fit(
            source.train,
            numbers=[name for name in columns if kinds[name] == "number"],
            categories=[name for name in columns if kinds[name] == "category"],
            on_error=source.on_error,
        )
    except UnreadableRowError as error:
        raise UnreadableError(
            f"Expected numbers and categories in {source.train[error.row][ROW]}, but {error.__cause__}; correct it, or "
            "set --on_error missing to train without such cells."
        ) from error
    return processor.encoder_config(), processor


def _kind_of_cells(train: Dataset, name: str) -> str:
    cells = whole_column(train, name).to_pylist()
    cells = [cell.strip() if isinstance(cell, str) else cell for cell in cells if not is_missing(cell)]
    if are_numbers(cells):
        return "number"
    texts = [str(cell) for cell in cells]
    unlike = unlike_numbers(texts) if len(set(texts)) > len(texts) / 2 else None
    if unlike:
        raise ValueError(f"Expected numbers, or categories that repeat, in column {name!r}, got {unlike}.")
    return "category"


def resnet18(source: EncoderInput) -> NewEncoder:
    """ResNet-18 for pictures or frames of 224 x 224 pixels."""
    return ResNetConfig(**RESNET18), ViTImageProcessor()


def spectrogram(source: EncoderInput) -> NewEncoder:
    """ResNet-18 for the spectrogram of a sound."""
    return ResNetConfig(num_channels=1, **RESNET18), _spectrogram_extractor(source)


def spectrogram_small(source: EncoderInput) -> NewEncoder:
    """The paper's four-layer encoder of CG-MNIST, for the spectrogram of a sound."""
    return CGMNISTConfig(num_channels=1), _spectrogram_extractor(source)


def _spectrogram_extractor(source: EncoderInput) -> SpectrogramFeatureExtractor:
    return SpectrogramFeatureExtractor(seconds=source.clip_seconds, do_normalize=True)


def cg_mnist(source: EncoderInput) -> NewEncoder:
    """The paper's four-layer encoder of CG-MNIST, for colored digits."""
    return CGMNISTConfig(num_channels=3), digit_processor(3)


def cg_mnist_gray(source: EncoderInput) -> NewEncoder:
    """The paper's four-layer encoder of CG-MNIST, for gray digits."""
    return CGMNISTConfig(num_channels=1), digit_processor(1)


def digit_processor(channels: int) -> ViTImageProcessor:
    """A processor that keeps the size of pictures and standardises their values as for MNIST. `channels` is 1 or 3."""
    return ViTImageProcessor(do_resize=False, image_mean=[0.1307] * channels, image_std=[0.3081] * channels)


NEW_ENCODERS: dict[str, Callable[[EncoderInput], NewEncoder]] = {
    "numbers": numbers,
    "tabular": tabular,
    "resnet18": resnet18,
    "spectrogram": spectrogram,
    "spectrogram_small": spectrogram_small,
    "cg_mnist": cg_mnist,
    "cg_mnist_gray": cg_mnist_gray,
}
