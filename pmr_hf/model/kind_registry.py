"""
What a kind of modality is, and how the kind of a modality is found. The kinds themselves are in `kinds.py`.

A new kind is one class with the decorator [`register_kind`], and nothing else.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedConfig


Features = dict[str, torch.Tensor]  # an encoder's inputs for one sample, without a batch dimension


class Kind:
    """
    A modality of one kind: its processor, and what to do with its values. Missing values are left out before.

    Args:
        name (`str`): the modality, for messages.
        processor: its processor, of the class `processor_class`.
        num_frames (`int`, *optional*): how many evenly spaced frames to take of each video.
    """

    #: The kind's name in `processor_config.json`
    word: str
    #: Processors of this class, and of subclasses without a kind of their own, are of this kind.
    processor_class: type
    #: The class whose `from_pretrained` loads such a processor
    loader: Any
    #: The main input of the encoders that this kind serves, as in their `main_input_name`
    encoder_inputs: tuple[str, ...] = ()
    #: What a person gives: "text", "numbers", "sound", "picture" or "video"
    medium: str
    #: Whether a string is the path of a file, not the value itself
    strings_are_paths = True
    #: Whether the processor sees pictures, so that the modality may take `num_frames`
    takes_frames = False
    #: What fills the features of a shorter sample
    padding_value = 0.0

    def __init__(self, name: str, processor: Any, num_frames: int | None = None):
        self.name = name
        self.processor = processor
        self.num_frames = num_frames

    def prepare(self) -> None:
        """Check the processor and set it as an encoder needs it; raises `ValueError` if it cannot be used."""

    def match_encoder(self, config: PreTrainedConfig) -> None:
        """Adapt the processor to the config of its encoder."""

    def is_one_value(self, values: Sequence[Any]) -> bool:
        """Whether a list is one value of this modality, not a list of several."""
        return False

    def read(self, value: Any) -> Any:
        """What a value holds, see [`MultimodalProcessor.read`]; raises `UnreadableError` if it cannot be read."""
        raise NotImplementedError

    def extract(self, values: list[Any]) -> list[Features]:
        """The encoder's inputs for each of at least one value that [`Kind.read`] gave, without padding."""
        raise NotImplementedError

    def collate(self, rows: list[Features]) -> Features:
        """One batch of at least one sample's features: stacked, and padded where their lengths differ."""
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
    def load(cls, name_or_path: str | os.PathLike, **kwargs) -> Any:
        """The processor of a Hub name or local folder; `kwargs` as for any `from_pretrained`."""
        return cls.loader.from_pretrained(name_or_path, trust_remote_code=False, **kwargs)

    def forget_calls(self) -> None:
        """Undo what earlier calls of the processor have changed in the files that it is saved to."""

    def example(self, config: PreTrainedConfig) -> tuple[str, str]:
        """
        For a code sample: an empty value, as Python code, and a few words on what may stand in its place.

        Args:
            config (`PreTrainedConfig`): of the modality's encoder.
        """
        raise NotImplementedError


KINDS: dict[str, type[Kind]] = {}


def register_kind(cls: type[Kind]) -> type[Kind]:
    """Class decorator: make a [`Kind`] known by its `word` and its `processor_class`."""
    KINDS[cls.word] = cls
    return cls


def kind_of(name: str, processor: Any, num_frames: int | None = None) -> Kind:
    """
    The modality `name` as the most special kind for the class of its processor.

    Raises:
        TypeError: for a processor of no known kind.
    """
    kinds = {kind.processor_class: kind for kind in KINDS.values()}
    for cls in type(processor).__mro__:
        if cls in kinds:
            return kinds[cls](name, processor, num_frames)
    raise TypeError(
        f"Expected the processor of {name!r} to be an image processor, a feature extractor or a tokenizer, got "
        f"{type(processor).__name__}; pass that part of it, for instance AutoImageProcessor.from_pretrained(...)."
    )


def kind_for_encoder(name: str, encoder_input: str) -> type[Kind]:
    """The kind for a modality whose encoder reads `encoder_input`; raises `ValueError` if no kind serves it."""
    kinds = {key: kind for kind in KINDS.values() for key in kind.encoder_inputs}
    if encoder_input not in kinds:
        raise ValueError(
            f"Expected an encoder for {name!r} that reads one of {list(kinds)}, got one of {encoder_input!r}; load "
            "its processor yourself and pass it."
        )
    return kinds[encoder_input]


def split_rows(batch: Any) -> list[Features]:
    """The features of each sample, from what a processor returned for several."""
    columns = {key: [torch.as_tensor(value) for value in values] for key, values in batch.items()}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
