"""
The base class of the kinds of modality, and the registry that finds them. The kinds themselves are in `kinds.py`.

A new kind needs only one class with the decorator [`register_kind`].
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedConfig, PreTrainedModel

from .media_limits import DEFAULT_LIMITS
from .media_values import is_missing
from .processor_checks import check_settings


Features = dict[str, torch.Tensor]  # an encoder's inputs for one sample, without a batch dimension


class Kind:
    """
    Base class of the kinds of modality. A kind reads, extracts and collates the values of a modality, and saves and
    loads its processor. Only `is_missing` receives missing values.

    Args:
        name (`str`): the modality, for messages.
        processor: the processor of the modality, an instance of `processor_class`.
        num_frames (`int`, *optional*): number of evenly spaced frames to take from each video.
    """

    #: The kind's name in `processor_config.json`
    word: str
    #: The class of the processors of this kind. It includes subclasses that have no kind of their own.
    processor_class: type
    #: The class whose `from_pretrained` loads such a processor
    loader: Any
    #: The `main_input_name`s of the encoders that this kind is for. A subclass does not inherit them.
    encoder_inputs: tuple[str, ...] = ()
    #: What a user gives as a value: "text", "numbers", "table", "sound", "picture" or "video"
    medium: str
    #: Whether a string is the path of a file, not the value itself
    strings_are_paths = True
    #: Whether the processor takes pictures, so that `num_frames` applies
    takes_frames = False
    #: What reading a value may cost. [`MultimodalProcessor`] sets its own limits.
    limits = DEFAULT_LIMITS
    #: Whether to take a random frame of each segment of a video, not the middle one. [`MultimodalProcessor`] sets it.
    random_frames = False
    #: The value that pads the features of a shorter sample
    padding_value = 0.0

    def __init__(self, name: str, processor: Any, num_frames: int | None = None):
        self.name = name
        self.processor = processor
        self.num_frames = num_frames

    def prepare(self) -> None:
        """Check and configure the processor. Raises `ValueError` if it cannot be used."""

    def match_encoder(self, config: PreTrainedConfig) -> None:
        """Adapt the processor to the config of its encoder."""

    def is_missing(self, value: Any) -> bool:
        """Whether a value stands for an absent modality, see [`~pmr_hf.model.media_values.is_missing`]."""
        return is_missing(value)

    def arrange(self, column: str | list[str]) -> str | list[str]:
        """
        The columns of this modality in a dataset, in the order that the processor knows. Raises `ValueError` for other
        columns than those that it knows.
        """
        return column

    def value_in(self, row: Mapping[str, Any], column: str | list[str]) -> Any:
        """The value of this modality in a row of a dataset: that of its column, or a list of those of its columns."""
        return row[column] if isinstance(column, str) else [row[part] for part in column]

    def is_one_value(self, values: Sequence[Any]) -> bool:
        """Whether a list is one value of this modality rather than a list of values."""
        return False

    def read(self, value: Any) -> Any:
        """Read one value, see [`MultimodalProcessor.read`]. Raises `UnreadableError` if it cannot be read."""
        raise NotImplementedError

    def extract(self, values: list[Any]) -> list[Features]:
        """
        Extract the encoder's inputs from each value that [`Kind.read`] returned, without padding. There is at least one
        value.
        """
        raise NotImplementedError

    def collate(self, rows: list[Features]) -> Features:
        """Stack the features of one or more samples into a batch, with padding where their lengths differ."""
        batch = {}
        for key in rows[0]:
            values = [row[key] for row in rows]
            if len({value.shape for value in values}) == 1:
                batch[key] = torch.stack(values)
            else:
                batch[key] = pad_sequence(values, True, 0.0 if key.endswith("mask") else self.padding_value)
        return batch

    def save(self, folder: Path) -> None:
        """Write the processor to a folder."""
        self.processor.save_pretrained(folder)

    @classmethod
    def read_settings(cls, name_or_path: str | os.PathLike, **kwargs) -> dict[str, Any]:
        """The settings in the file of a processor, on the Hub or in a folder, to check before it is created."""
        return {}

    @classmethod
    def load(cls, name: str, name_or_path: str | os.PathLike, **kwargs) -> Any:
        """
        Load the processor of the modality `name` from a Hub name or local folder. `kwargs` are those of any
        `from_pretrained`. Raises `ValueError` for settings that are too large.
        """
        check_settings(name, cls.read_settings(name_or_path, **kwargs))
        return cls.loader.from_pretrained(name_or_path, trust_remote_code=False, **kwargs)

    def forget_calls(self) -> None:
        """Make the saved files independent of earlier calls of the processor."""

    def example(self, config: PreTrainedConfig) -> tuple[str, str]:
        """
        A placeholder value for the code sample of a model card.

        Args:
            config (`PreTrainedConfig`): the config of the modality's encoder.

        Returns:
            `tuple[str, str]`: the value as Python code, and a comment that says what to give instead.
        """
        raise NotImplementedError


KINDS: dict[str, type[Kind]] = {}


def register_kind(cls: type[Kind]) -> type[Kind]:
    """Class decorator that registers a [`Kind`] under its `word` and its `processor_class`."""
    KINDS[cls.word] = cls
    return cls


def kind_of(name: str, processor: Any, num_frames: int | None = None) -> Kind:
    """
    Find the kind of the modality `name` by the class of its processor. The kind of a subclass takes precedence over the
    kind of its base class.

    Raises:
        TypeError: if no kind is registered for the processor.
    """
    kinds = {kind.processor_class: kind for kind in KINDS.values()}
    for cls in type(processor).__mro__:
        if cls in kinds:
            return kinds[cls](name, processor, num_frames)
    raise TypeError(
        f"Expected the processor of {name!r} to be an image processor, a feature extractor or a tokenizer, got "
        f"{_what_instead(processor)}."
    )


def _what_instead(found: Any) -> str:
    """Name an object that is no processor, and say what to give in its place."""
    name = type(found).__name__
    if isinstance(found, (str, os.PathLike)):
        return f"{str(found)!r}; call `MultimodalProcessor.from_backbones`, which loads processors by name"
    if isinstance(found, PreTrainedConfig) and found.model_type == "pmr_numeric":
        return f"{name}, which is for the model; pass NumericProcessor(mean, std) or NumericProcessor.fit(rows)"
    if isinstance(found, PreTrainedConfig) and found.model_type == "pmr_tabular":
        return f"{name}, which is for the model; pass TabularProcessor.fit(rows, numbers, categories)"
    if isinstance(found, (PreTrainedConfig, PreTrainedModel)):
        return f"{name}, which is for the model; pass the processor that belongs to it"
    return f"{name}; pass that part of it, for instance AutoImageProcessor.from_pretrained(...)"


def kind_for_encoder(name: str, encoder_input: str) -> type[Kind]:
    """The kind of a modality whose encoder reads `encoder_input`. Raises `ValueError` if there is none."""
    kinds = {key: kind for kind in KINDS.values() for key in vars(kind).get("encoder_inputs", ())}
    if encoder_input not in kinds:
        raise ValueError(
            f"Expected an encoder for {name!r} that reads one of {list(kinds)}, got {encoder_input!r}; load "
            "its processor yourself and pass it."
        )
    return kinds[encoder_input]


def in_order(name: str, found: str | list[str], known: list[str]) -> list[str]:
    """
    The columns `known` to the processor of the modality `name`. Raises `ValueError` unless `found` are the same ones,
    in any order.
    """
    found = [found] if isinstance(found, str) else list(found)
    if sorted(found) != sorted(known):
        raise ValueError(
            f"Expected the columns {known!r:.300} of {name!r}, from which its processor was made, in any order, got "
            f"{found!r:.300}; give these, or rename those of the data."
        )
    return list(known)


def split_rows(batch: Any) -> list[Features]:
    """Split a processor's output for several samples into the features of each sample."""
    columns = {key: [torch.as_tensor(value) for value in values] for key, values in batch.items()}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
