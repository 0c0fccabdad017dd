"""From raw values to the model's nested batch: one processor per modality."""

import json
import os
from collections.abc import Sequence
from mimetypes import guess_type
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from PIL.Image import Image as PILImage
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoProcessor,
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
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import PushToHubMixin

from .backbones import encoder_config, model_classes
from .configuration import check_modality_name
from .media import UnreadableError, as_array, describe, is_missing, is_numbers, read_audio, read_frames, read_image
from .numeric_processor import NumericProcessor
from .spectrogram_processor import SpectrogramFeatureExtractor


ModalityProcessor = BaseImageProcessor | SequenceFeatureExtractor | PreTrainedTokenizerBase | NumericProcessor
Features = dict[str, torch.Tensor]  # an encoder's inputs for one sample, without a batch dimension

# How each kind is named in the saved file, and loaded again. A subclass stands before its base.
KINDS = {
    "numbers": (NumericProcessor, NumericProcessor),
    "spectrogram": (SpectrogramFeatureExtractor, SpectrogramFeatureExtractor),
    "timm": (TimmWrapperImageProcessor, TimmWrapperImageProcessor),
    "video_processor": (BaseVideoProcessor, AutoVideoProcessor),
    "image_processor": (BaseImageProcessor, AutoImageProcessor),
    "feature_extractor": (SequenceFeatureExtractor, AutoFeatureExtractor),
    "tokenizer": (PreTrainedTokenizerBase, AutoTokenizer),
}
# Families whose positions start after the padding token's id
OFFSET_POSITIONS = (
    "camembert",
    "data2vec-text",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
)
# By what an encoder reads
LOADERS = {
    "input_ids": AutoTokenizer,
    "input_values": AutoFeatureExtractor,
    "input_features": AutoFeatureExtractor,
    "pixel_values": AutoImageProcessor,
    "pixel_values_videos": AutoVideoProcessor,
    "values": NumericProcessor,
}


class MultimodalProcessor(PushToHubMixin):
    """
    One processor per modality, under the same names as the model's backbones.

    ```python
    names = {"image": "google/vit-base-patch16-224", "text": "bert-base-uncased"}
    processor = MultimodalProcessor.from_backbones(names)
    batch = processor(image=[picture], text=["a cat"])  # {"image": {"pixel_values": ...}, "text": {"input_ids": ...}}
    ```

    Args:
        processors (`dict[str, ModalityProcessor]`): an image or video processor, feature extractor, tokenizer or
            [`NumericProcessor`] per modality.
        num_frames (`dict[str, int]`, *optional*): by modality, how many evenly spaced frames to take of each video. A
            modality of pictures that stands here takes videos, or lists of pictures. Without, a list gives all it has.

    Raises:
        TypeError: for a processor of another kind.
        ValueError: for a modality name that is no identifier or is taken, or `num_frames` of another modality.
    """

    config_name = "processor_config.json"
    _auto_class: str | None = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls._auto_class = None  # the file of a subclass travels only if its author registers it too

    def __init__(self, processors: dict[str, ModalityProcessor], num_frames: dict[str, int] | None = None):
        for name, processor in processors.items():
            check_modality_name(name)
            _kind(name, processor)
            if isinstance(processor, PreTrainedTokenizerBase):
                if processor.pad_token is None:
                    raise ValueError(
                        f"Expected the tokenizer of {name!r} to have a pad token, got none; set one, for instance "
                        "`tokenizer.pad_token = tokenizer.eos_token`."
                    )
                processor.padding_side = "right"  # an encoder's positions count from the first token
        self.processors = dict(processors)
        self.num_frames = dict(num_frames or {})
        pictures = [name for name in processors if isinstance(processors[name], BaseImageProcessor)]
        if not self.num_frames.keys() <= set(pictures) or any(count < 1 for count in self.num_frames.values()):
            raise ValueError(
                f"Expected `num_frames` of at least 1 for modalities among {pictures}, which see pictures, got "
                f"{self.num_frames}."
            )

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoProcessor") -> None:
        """Save the code of this class with the processor, so that `AutoProcessor` loads it without pmr_hf."""
        cls._auto_class = auto_class

    @property
    def kinds(self) -> dict[str, str]:
        """By modality, which of `KINDS` its processor is."""
        return {name: _kind(name, processor) for name, processor in self.processors.items()}

    @property
    def model_input_names(self) -> list[str]:
        """The modalities; `Trainer` asks for them when it samples by length."""
        return list(self.processors)

    @classmethod
    def from_backbones(
        cls, backbones: dict[str, str | os.PathLike | ModalityProcessor], num_frames: dict[str, int] | None = None
    ) -> "MultimodalProcessor":
        """
        The processors of pretrained encoders: Hub names, local folders, or processors to take as they are.

        What the encoder reads decides between tokenizer, feature extractor and image processor. A tokenizer that does
        not know how much its encoder can read is told, and a video encoder gets as many frames as it was built for.
        """
        processors, frames = {}, {}
        for name, backbone in backbones.items():
            if not isinstance(backbone, (str, os.PathLike)):
                processors[name] = backbone
                continue
            if os.path.isdir(backbone) and not os.path.isfile(os.path.join(backbone, "config.json")):
                processors[name] = AutoProcessor.from_pretrained(
                    backbone, trust_remote_code=False
                )  # the folder of a processor alone
                continue
            config = encoder_config(name, backbone)
            reads = model_classes(config)[0].main_input_name
            if reads not in LOADERS:
                raise ValueError(
                    f"Expected an encoder for {name!r} that reads one of {list(LOADERS)}, got one of {reads!r}; load "
                    "its processor yourself and pass it."
                )
            processor = LOADERS[reads].from_pretrained(backbone, trust_remote_code=False)
            limit_tokens(processor, config)
            if isinstance(processor, BaseImageProcessor) and "num_frames" in config:
                frames[name] = config.num_frames
            processors[name] = processor
        return cls(processors, num_frames=frames | (num_frames or {}))

    def __call__(self, **modalities: Sequence[Any]) -> dict[str, Features]:
        """
        Process a list of raw values per modality: texts, vectors of numbers, or anything that `media.py` reads
        as a picture, a waveform or frames. A `None` or an empty string stands for a modality that a sample lacks.

        Returns:
            `dict[str, dict[str, torch.Tensor]]`: each modality's encoder inputs, with one row per value, and `present`
            (B,) bool if some are missing.

        Raises:
            ValueError: for a modality without a processor, a value that is not in a list or cannot be read, or lists of
                unequal lengths.
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
        return {
            name: self.collate(name, self.extract(name, [self.read(name, value) for value in values]))
            for name, values in modalities.items()
        }

    def read(self, name: str, value: Any) -> Any:
        """
        What a value of this modality holds: a text, a PIL image, a list of them, a waveform (samples,) at the rate of
        the extractor, or numbers; `None` if it is missing.

        Raises:
            UnreadableError: if it cannot be read.
        """
        if is_missing(value):
            return None
        processor = self.processors[name]
        if isinstance(processor, PreTrainedTokenizerBase):
            if not isinstance(value, (str, int, float)):
                raise UnreadableError(f"{describe(value)} is no text")
            try:
                str(value).encode()
            except UnicodeEncodeError as error:  # half of a pair that JSON may hold, which tokenizers refuse
                raise UnreadableError(f"{value!r:.80} is no Unicode text") from error
            return str(value)
        if isinstance(processor, NumericProcessor):
            return processor.read(value)
        if isinstance(processor, SequenceFeatureExtractor):
            wave = read_audio(value, processor.sampling_rate)
            # 25 ms is what the first step of the common encoders sees.
            return np.pad(wave, (0, max(processor.sampling_rate // 40 - len(wave), 0)))
        if is_numbers(value):
            value = as_array(value)
        frames = (
            name in self.num_frames or isinstance(value, (list, tuple)) or isinstance(processor, BaseVideoProcessor)
        )
        if frames:
            images = read_frames(value, self.num_frames.get(name))
        else:
            if isinstance(value, (str, os.PathLike)) and (guess_type(value)[0] or "").startswith("video/"):
                raise ValueError(
                    f"Expected pictures of {name!r}, got the video {os.fspath(value)!r}; say how many frames to take "
                    f"of each: num_frames={{{name!r}: 4}}, or --num_frames {name}=4."
                )
            images = [read_image(value)]
        # Pictures come in any mode: the encoder has as many channels as the processor has means.
        gray = len(getattr(processor, "image_mean", None) or ()) == 1
        images = [image.convert("L" if gray else "RGB") for image in images]
        return images if frames else images[0]

    def extract(self, name: str, values: list[Any]) -> list[Features | None]:
        """The encoder's inputs for each value that [`MultimodalProcessor.read`] gave, one by one and not padded."""
        known = [value for value in values if value is not None]
        extracted = iter(self._extract(self.processors[name], known) if known else ())
        return [None if value is None else next(extracted) for value in values]

    @staticmethod
    def _extract(processor: ModalityProcessor, values: list[Any]) -> list[Features]:
        if isinstance(processor, PreTrainedTokenizerBase):
            return _rows(processor(values, truncation=True))
        if isinstance(processor, NumericProcessor):
            return [_rows(processor([value]))[0] for value in values]
        if isinstance(processor, SequenceFeatureExtractor):
            options = {"sampling_rate": processor.sampling_rate, "return_attention_mask": True}
            return [_rows(processor(value, **options))[0] for value in values]
        if any(isinstance(value, list) for value in values):
            return [_video(processor, value if isinstance(value, list) else [value]) for value in values]
        sizes = sorted({image.size for image in values})
        if len(sizes) > 1 and getattr(processor, "do_resize", True) is False:
            raise ValueError(
                f"Expected pictures of one size, since their processor does not resize, got widths and heights "
                f"{sizes[:5]}; set its `do_resize`."
            )
        return _rows(processor(values, return_tensors="pt"))

    def collate(self, name: str, features: list[Features | None]) -> Features:
        """
        One batch of extracted features: stacked, padded where they differ in length, and `present` (B,) bool if some
        are missing. The rows of those are zeros.
        """
        present = torch.tensor([row is not None for row in features])
        known = [row for row in features if row is not None]
        if not known:
            return {"present": present}
        processor = self.processors[name]
        if isinstance(processor, PreTrainedTokenizerBase):
            batch = dict(DataCollatorWithPadding(processor)([{k: v.tolist() for k, v in row.items()} for row in known]))
        else:
            if isinstance(processor, NumericProcessor) and any("attention_mask" in row for row in known):
                one = torch.ones(1, dtype=torch.long)  # among sequences a vector is one of length 1
                known = [{"attention_mask": one} | row | {"values": torch.atleast_2d(row["values"])} for row in known]
            fill = getattr(processor, "padding_value", 0.0)
            batch = {}
            for key in known[0]:
                values = [row[key] for row in known]
                if len({value.shape for value in values}) == 1:
                    batch[key] = torch.stack(values)
                else:
                    batch[key] = pad_sequence(values, True, 0.0 if key.endswith("mask") else fill)
        if len(known) == len(features):
            return batch
        full = {key: value.new_zeros(len(features), *value.shape[1:]) for key, value in batch.items()}
        for key, value in batch.items():
            full[key][present] = value
        return full | {"present": present}

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> None:
        """Save each processor to a folder of its modality's name, and their order to `processor_config.json`."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        for name, processor in self.processors.items():
            if isinstance(processor, TimmWrapperImageProcessor):  # its own `save_pretrained` writes nothing
                (folder / name).mkdir(exist_ok=True)
                config = {"architecture": processor.architecture, "pretrained_cfg": processor.data_config}
                (folder / name / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            else:
                processor.save_pretrained(folder / name)
        config = {"processor_class": type(self).__name__, "modalities": self.kinds, "num_frames": self.num_frames}
        if self._auto_class is not None:
            custom_object_save(self, folder, config=config)
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
        for key in ("_from_auto", "trust_remote_code"):  # what `AutoProcessor` adds
            kwargs.pop(key, None)
        if os.path.isdir(name_or_path):
            file = os.path.join(name_or_path, cls.config_name)
            if not os.path.isfile(file):
                raise FileNotFoundError(
                    f"Expected a saved MultimodalProcessor in {name_or_path}, found no {cls.config_name} there; make "
                    "one of several pretrained encoders with `MultimodalProcessor.from_backbones`."
                )
        else:
            file = hf_hub_download(str(name_or_path), cls.config_name, **kwargs)
        config = json.loads(Path(file).read_text(encoding="utf-8"))
        processors = {
            name: KINDS[kind][1].from_pretrained(name_or_path, subfolder=name, trust_remote_code=False, **kwargs)
            for name, kind in config["modalities"].items()
        }
        return cls(processors, num_frames=config.get("num_frames"))


def _rows(batch: Any) -> list[Features]:
    columns = {key: [torch.as_tensor(value) for value in values] for key, values in batch.items()}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _video(processor: BaseImageProcessor, frames: list[PILImage]) -> Features:
    """A video encoder's clip (T, C, H, W), or frames (T, C, H, W) for an image encoder, with a `frame_mask` (T,)."""
    if isinstance(processor, BaseVideoProcessor):
        return _rows(processor([frames], return_tensors="pt"))[0]
    pixels = processor([frames], return_tensors="pt")["pixel_values"]
    if pixels.dim() == 5:
        return {"pixel_values": pixels[0]}
    return {"pixel_values": pixels, "frame_mask": torch.ones(len(pixels), dtype=torch.bool)}


def limit_tokens(processor: ModalityProcessor, config: PreTrainedConfig) -> None:
    """Tell a tokenizer that was never told how many tokens its encoder, with learned positions, can read."""
    if not isinstance(processor, PreTrainedTokenizerBase) or processor.model_max_length < 10**9:
        return
    if "max_position_embeddings" in config and config.max_position_embeddings > 0:
        offset = config.pad_token_id + 1 if config.model_type in OFFSET_POSITIONS else 0
        processor.model_max_length = config.max_position_embeddings - offset


def _kind(name: str, processor: ModalityProcessor) -> str:
    for kind, (cls, _) in KINDS.items():
        if isinstance(processor, cls):
            return kind
    raise TypeError(
        f"Expected the processor of {name!r} to be an image processor, a feature extractor or a tokenizer, got "
        f"{type(processor).__name__}; pass that part of it, for instance AutoImageProcessor.from_pretrained(...)."
    )
