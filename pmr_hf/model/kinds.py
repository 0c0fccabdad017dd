"""The kinds of modality, one class each: texts, numbers, sound, pictures and video."""

import json
import os
from collections.abc import Sequence
from mimetypes import guess_type
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image as PILImage
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoTokenizer,
    AutoVideoProcessor,
    BaseImageProcessor,
    BaseVideoProcessor,
    DataCollatorWithPadding,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    SequenceFeatureExtractor,
    TimmWrapperImageProcessor,
)
from transformers.utils import logging

from .kind_registry import Features, Kind, in_order, register_kind, split_rows
from .media import UnreadableError, read_audio, read_frames, read_image
from .media_values import as_array, describe, is_null, is_numbers
from .numeric_processor import NumericProcessor
from .spectrogram_processor import SpectrogramFeatureExtractor
from .tabular_processor import TabularProcessor


logger = logging.get_logger(__name__)

ModalityProcessor = (
    BaseImageProcessor | SequenceFeatureExtractor | PreTrainedTokenizerBase | NumericProcessor | TabularProcessor
)


@register_kind
class Text(Kind):
    """Texts, for a tokenizer. A number is read as a text."""

    word = "tokenizer"
    processor_class = PreTrainedTokenizerBase
    loader = AutoTokenizer
    encoder_inputs = ("input_ids",)
    medium = "text"
    strings_are_paths = False
    #: Model types whose positions start after the id of the padding token
    offset_positions = (
        "camembert",
        "data2vec-text",
        "esm",
        "ibert",
        "layoutlmv3",
        "lilt",
        "longformer",
        "luke",
        "markuplm",
        "mpnet",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    )

    def prepare(self) -> None:
        if self.processor.pad_token is None:
            raise ValueError(
                f"Expected the tokenizer of {self.name!r} to have a pad token, got none; set one, for instance "
                "`tokenizer.pad_token = tokenizer.eos_token`."
            )
        self.processor.padding_side = "right"  # an encoder's positions count from the first token

    def match_encoder(self, config: PreTrainedConfig) -> None:
        """Limit the tokenizer to the number of tokens that an encoder with learned positions can read."""
        positions = getattr(config, "max_position_embeddings", None)
        if not isinstance(positions, int) or positions <= 0:
            return
        if config.model_type in self.offset_positions:
            positions -= config.pad_token_id + 1
        limit = self.processor.model_max_length
        if positions < limit < 10**9:  # a tokenizer without a limit has 10**30
            logger.warning(
                f"The tokenizer of {self.name!r} allows {limit} tokens, but its encoder has {positions} positions: "
                f"texts are cut to {positions} tokens."
            )
        self.processor.model_max_length = min(limit, positions)

    def read(self, value: Any) -> str:
        """Read a text or a number. Raises `UnreadableError` for other values, or if it is not Unicode text."""
        if not isinstance(value, (str, int, float)):
            raise UnreadableError(f"{describe(value)} is not a text")
        try:
            str(value).encode()
        except UnicodeEncodeError as error:  # half a surrogate pair, which JSON may hold but tokenizers refuse
            raise UnreadableError(f"{value!r:.80} is not Unicode text") from error
        return str(value)

    def extract(self, values: list[str]) -> list[Features]:
        return split_rows(self.processor(values, truncation=True))

    def collate(self, rows: list[Features]) -> Features:
        lists = [{key: value.tolist() for key, value in row.items()} for row in rows]
        return dict(DataCollatorWithPadding(self.processor)(lists))

    def forget_calls(self) -> None:
        self.extract(["a"])  # a tokenizer is saved with the truncation and padding of its last call

    def example(self, config: PreTrainedConfig) -> tuple[str, str]:
        return '"a text"', "a text"


@register_kind
class Numbers(Kind):
    """Vectors of numbers, or sequences of vectors."""

    word = "numbers"
    processor_class = loader = NumericProcessor
    encoder_inputs = ("values",)
    medium = "numbers"
    strings_are_paths = False

    def arrange(self, column: str | list[str]) -> str | list[str]:
        known = self.processor.columns
        return column if known is None else in_order(self.name, column, known)

    def is_one_value(self, values: Sequence[Any]) -> bool:
        known = [part for part in values if not is_null(part)]
        return bool(known) and all(isinstance(part, Number) for part in known)

    def read(self, value: Any) -> np.ndarray:
        """Read numbers (D,) or (T, D), see [`NumericProcessor.read`]."""
        return self.processor.read(value)

    def extract(self, values: list[np.ndarray]) -> list[Features]:
        return [split_rows(self.processor([value]))[0] for value in values]

    def collate(self, rows: list[Features]) -> Features:
        if any("attention_mask" in row for row in rows):
            one = torch.ones(1, dtype=torch.long)  # among sequences, a vector is a sequence of length 1
            rows = [{"attention_mask": one} | row | {"values": torch.atleast_2d(row["values"])} for row in rows]
        return super().collate(rows)

    def example(self, config: PreTrainedConfig) -> tuple[str, str]:
        return f"[0.0] * {len(self.processor.mean)}", "numbers"


@register_kind
class Sound(Kind):
    """Sound, for a feature extractor that takes waveforms."""

    word = "feature_extractor"
    processor_class = SequenceFeatureExtractor
    loader = AutoFeatureExtractor
    encoder_inputs = ("input_values", "input_features")
    medium = "sound"

    @classmethod
    def read_settings(cls, name_or_path: str | os.PathLike, **kwargs) -> dict[str, Any]:
        return SequenceFeatureExtractor.get_feature_extractor_dict(name_or_path, **kwargs)[0]

    @property
    def padding_value(self) -> float:
        return self.processor.padding_value

    def read(self, value: Any) -> np.ndarray:
        """Read a waveform (samples,) at the sampling rate of the processor, padded to at least 25 ms."""
        rate = self.processor.sampling_rate
        wave = read_audio(value, rate, self.limits)
        # Common encoders start with a window of 25 ms.
        return np.pad(wave, (0, max(rate // 40 - len(wave), 0)))

    def extract(self, values: list[np.ndarray]) -> list[Features]:
        options = {"sampling_rate": self.processor.sampling_rate, "return_attention_mask": True}
        return [split_rows(self.processor(value, **options))[0] for value in values]

    def example(self, config: PreTrainedConfig) -> tuple[str, str]:
        return '{"array": np.zeros(16000), "sampling_rate": 16000}', "a waveform, or a file's path"


@register_kind
class Spectrogram(Sound):
    """Sound, as a spectrogram of fixed size that an image encoder takes."""

    word = "spectrogram"
    processor_class = loader = SpectrogramFeatureExtractor


@register_kind
class Picture(Kind):
    """Pictures, or frames of videos if `num_frames` is set, for an image processor."""

    word = "image_processor"
    processor_class = BaseImageProcessor
    loader = AutoImageProcessor
    encoder_inputs = ("pixel_values",)
    takes_frames = True

    @classmethod
    def read_settings(cls, name_or_path: str | os.PathLike, **kwargs) -> dict[str, Any]:
        try:
            return BaseImageProcessor.get_image_processor_dict(name_or_path, **kwargs)[0]
        except OSError:  # timm's settings are in another file, and cost nothing to load; loading names a missing file
            return {}

    @property
    def medium(self) -> str:
        return "picture" if self.num_frames is None else "video"

    @property
    def means(self) -> Sequence[float] | float | None:
        """The mean of each channel, one mean for all channels, or `None`."""
        return getattr(self.processor, "image_mean", None)

    @property
    def channels(self) -> int:
        """The number of channels of a picture, 1 or 3. It is 3 if the processor has no list of means by channel."""
        return len(self.means) if isinstance(self.means, Sequence) else 3

    @property
    def size(self) -> tuple[int, int] | None:
        """The height and width that a picture of any shape is resized to, or `None` if they depend on the picture."""
        size = dict(getattr(self.processor, "size", None) or {})
        if getattr(self.processor, "do_resize", True) is False or not size.keys() & {"height", "shortest_edge"}:
            return None
        return (size["height"], size["width"]) if "height" in size else (size["shortest_edge"],) * 2

    def prepare(self) -> None:
        if self.channels not in (1, 3) or (isinstance(self.means, Sequence) and len(self.means) != self.channels):
            raise ValueError(
                f"Expected the processor of {self.name!r} to make pictures of 1 channel (gray) or 3 (RGB), with a mean "
                f"of each, got {self.channels} channels and the mean {self.means}; correct its settings."
            )

    def match_encoder(self, config: PreTrainedConfig) -> None:
        """
        Make pictures gray if the encoder takes one channel, and the processor has no list of means by channel. Raises
        `ValueError` for any other difference in channels, and for another number of frames than a video encoder takes.
        """
        frames = getattr(config, "num_frames", None)
        if isinstance(frames, int) and self.num_frames not in (None, frames):
            raise ValueError(
                f"Expected num_frames={{{self.name!r}: {frames}}}, which the encoder of {self.name!r} takes, got "
                f"{self.num_frames}; set it to {frames}, or build the encoder for other frames."
            )
        taken = self.channels_taken(config)
        if taken is None or taken == self.channels:
            return
        if taken != 1 or isinstance(self.means, Sequence):
            raise ValueError(
                f"Expected pictures of {taken} channel(s), which the encoder of {self.name!r} takes, but its processor "
                f"makes {self.channels}; give the processor {taken} mean(s) and standard deviation(s), or use an "
                "encoder for 1 channel (gray) or 3 (RGB)."
            )
        mean, std = self.means, self.processor.image_std
        self.processor.image_mean = (0.0 if mean is None else float(mean),)
        self.processor.image_std = (1.0 if std is None else float(std),) if not isinstance(std, Sequence) else std[:1]

    def channels_taken(self, config: PreTrainedConfig) -> int | None:
        """The number of channels that an encoder takes, or `None` if its config does not say so."""
        return getattr(config, "num_channels", None)

    def read(self, value: Any) -> PILImage | list[PILImage]:
        """
        Read a picture, or a list of pictures or frames. Raises `ValueError` for a video file if `num_frames` is not
        set.
        """
        if is_numbers(value):
            value = as_array(value)
        several = self.medium == "video" or isinstance(value, (list, tuple))
        if not several and isinstance(value, (str, os.PathLike)) and (guess_type(value)[0] or "").startswith("video/"):
            raise ValueError(
                f"Expected pictures of {self.name!r}, got the video {os.fspath(value)!r}; say how many frames to take "
                f"of each: num_frames={{{self.name!r}: 4}}, or --num_frames {self.name}=4."
            )
        if several:
            images = read_frames(value, self.num_frames, self.limits, self.random_frames)
        else:
            images = [read_image(value, self.limits)]
        # A picture may have any mode, but the encoder takes one.
        images = [image.convert("L" if self.channels == 1 else "RGB") for image in images]
        return images if several else images[0]

    def extract(self, values: list[PILImage | list[PILImage]]) -> list[Features]:
        """Extract `pixel_values`. Raises `ValueError` for several sizes of pictures that are not resized."""
        if any(isinstance(value, list) for value in values):
            return [self.extract_frames(value if isinstance(value, list) else [value]) for value in values]
        sizes = sorted({image.size for image in values})
        if len(sizes) > 1 and getattr(self.processor, "do_resize", True) is False:
            raise ValueError(
                f"Expected pictures of one size, since their processor does not resize them, got widths and heights "
                f"{sizes[:5]}; resize the files, set `do_resize=True` in the processor, or choose an encoder with "
                "another processor, such as resnet18."
            )
        return split_rows(self.processor(values, return_tensors="pt"))

    def extract_frames(self, frames: list[PILImage]) -> Features:
        """Extract `pixel_values` (T, C, H, W) from T frames, with a `frame_mask` (T,) bool for an image encoder."""
        pixels = self.processor([frames], return_tensors="pt")["pixel_values"]
        if pixels.dim() == 5:
            return {"pixel_values": pixels[0]}
        return {"pixel_values": pixels, "frame_mask": torch.ones(len(pixels), dtype=torch.bool)}

    def example(self, config: PreTrainedConfig) -> tuple[str, str]:
        size = getattr(config, "image_size", 224)
        picture = f'Image.new("RGB", ({size}, {size}))'
        if self.medium == "video":
            return f"[{picture}] * 8", "frames, or a file's path"
        return picture, "a picture, or a file's path"


@register_kind
class TimmPicture(Picture):
    """Pictures, for an encoder from timm."""

    word = "timm"
    processor_class = loader = TimmWrapperImageProcessor

    @property
    def means(self) -> Sequence[float]:
        return self.processor.data_config["mean"]

    @property
    def channels(self) -> int:
        return self.processor.data_config["input_size"][0]

    @property
    def size(self) -> tuple[int, int]:
        return tuple(self.processor.data_config["input_size"][1:])

    def channels_taken(self, config: PreTrainedConfig) -> int | None:
        return (getattr(config, "model_args", None) or {}).get("in_chans")

    def save(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)  # the processor's own `save_pretrained` writes nothing
        config = {"architecture": self.processor.architecture, "pretrained_cfg": self.processor.data_config}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@register_kind
class Video(Picture):
    """Videos, for a video processor."""

    word = "video_processor"
    processor_class = BaseVideoProcessor
    loader = AutoVideoProcessor
    encoder_inputs = ("pixel_values_videos",)
    medium = "video"

    @classmethod
    def read_settings(cls, name_or_path: str | os.PathLike, **kwargs) -> dict[str, Any]:
        return BaseVideoProcessor.get_video_processor_dict(name_or_path, **kwargs)[0]

    def extract_frames(self, frames: list[PILImage]) -> Features:
        return split_rows(self.processor([frames], return_tensors="pt"))[0]
