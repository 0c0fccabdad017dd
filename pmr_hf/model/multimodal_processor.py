"""The processor of a model, which turns raw values into the model's nested batch."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from transformers import AutoProcessor, PreTrainedConfig
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import PushToHubMixin

from .backbones import encoder_config, model_classes, require_folder
from .configuration import MOST_MODALITIES, check_modality_name
from .kind_registry import KINDS, Features, Kind, kind_for_encoder, kind_of
from .kinds import ModalityProcessor
from .media_limits import DEFAULT_LIMITS, MediaLimits
from .media_values import is_series, rows_of
from .missing_modalities import spread_rows
from .processor_checks import check_processor_settings
from .tabular_kind import Table, fit_table


MOST_FRAMES = 4096  # of one video


class MultimodalProcessor(PushToHubMixin):
    """
    Processes raw values with one processor per modality, under the same names as the model's backbones.

    ```python
    names = {"image": "google/vit-base-patch16-224", "text": "bert-base-uncased"}
    processor = MultimodalProcessor.from_backbones(names)
    batch = processor(image=[picture], text=["a cat"])  # {"image": {"pixel_values": ...}, "text": {"input_ids": ...}}
    ```

    Args:
        processors (`dict[str, ModalityProcessor]`): an image or video processor, feature extractor, tokenizer,
            [`NumericProcessor`] or [`TabularProcessor`] per modality.
        num_frames (`dict[str, int]`, *optional*): number of evenly spaced frames to take from each video, by modality.
            An image modality that is named here takes videos or lists of pictures. By default, all pictures of a list
            are taken.
        limits (`MediaLimits`, *optional*): what reading one file may cost, and whether addresses are opened. They are
            not saved, since a stranger may have saved the processor.

    Raises:
        TypeError: for a processor of another kind.
        ValueError: for a modality name that is not an identifier or is already taken, for `num_frames` outside 1..4096
            or of a modality without pictures, for a tokenizer without a pad token, for settings that are too large, for
            a mean or deviation that is not finite, or a deviation that is not positive.
    """

    config_name = "processor_config.json"
    _auto_class: str | None = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls._auto_class = None  # a subclass is saved with its code only if its author registers it

    def __init__(
        self,
        processors: dict[str, ModalityProcessor],
        num_frames: dict[str, int] | None = None,
        limits: MediaLimits = DEFAULT_LIMITS,
    ):
        self.limits = limits
        for name, processor in processors.items():
            check_modality_name(name)
            kind_of(name, processor).prepare()
            check_processor_settings(name, processor)
        self.processors = dict(processors)
        self.num_frames = dict(num_frames or {})
        pictures = [name for name in processors if self.kind(name).takes_frames]
        check_num_frames(self.num_frames, pictures)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoProcessor") -> None:
        """Save the code of this class with the processor, so that `AutoProcessor` loads it without pmr_hf."""
        cls._auto_class = auto_class

    def kind(self, name: str) -> Kind:
        """The [`Kind`] of a modality, which reads, extracts and collates its values."""
        kind = kind_of(name, self.processors[name], self.num_frames.get(name))
        kind.limits = self.limits
        return kind

    def only(self, names: Sequence[str]) -> "MultimodalProcessor":
        """A processor of these modalities."""
        frames = {name: number for name, number in self.num_frames.items() if name in names}
        return MultimodalProcessor({name: self.processors[name] for name in names}, frames, self.limits)

    def match_encoders(self, configs: Mapping[str, PreTrainedConfig]) -> None:
        """
        Adapt each processor to the config of its encoder, by modality: a tokenizer never returns more tokens than the
        encoder can read. The trainer and the pipeline call this method.

        Raises:
            ValueError: for pictures with another number of channels than the encoder takes.
        """
        for name in self.processors:
            self.kind(name).match_encoder(configs[name])

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of each modality, as `processor_config.json` names it."""
        return {name: self.kind(name).word for name in self.processors}

    @property
    def model_input_names(self) -> list[str]:
        """The names of the modalities. `Trainer` reads them when it samples by length."""
        return list(self.processors)

    @classmethod
    def from_backbones(
        cls,
        backbones: dict[str, str | os.PathLike | ModalityProcessor],
        num_frames: dict[str, int] | None = None,
        rows: Iterable[Mapping[str, Any]] | None = None,
        columns: Mapping[str, Mapping[str, list[str]]] | None = None,
    ) -> "MultimodalProcessor":
        """
        Load the processors of pretrained encoders.

        The input of the encoder determines whether a tokenizer, a feature extractor or an image processor is loaded. A
        tokenizer is limited to the number of tokens that its encoder can read. A video encoder gets the number of
        frames that it was built for. A table has no pretrained encoder: its word "tabular" stands for a
        [`TabularProcessor`] that is fitted here. The same `backbones` then make the model, see
        [`MultimodalModel.from_backbones`].

        Args:
            backbones (`dict[str, str | os.PathLike | ModalityProcessor]`): a Hub name, a local folder, a loaded
                processor, or "tabular", by modality.
            num_frames (`dict[str, int]`, *optional*): see the class. It overrides the encoders' own numbers.
            rows (`Iterable[Mapping[str, Any]]`, *optional*): the training rows to which tables are fitted, see
                [`TabularProcessor.fit`].
            columns (`Mapping[str, Mapping[str, list[str]]]`, *optional*): the columns of each modality that is
                "tabular", such as `{"stats": {"numbers": ["age"], "categories": ["city"]}}`.

        Raises:
            ValueError: for an encoder that reads an input of no known kind, for "tabular" without its rows and columns,
                and for columns of another modality.
        """
        tables = [name for name, backbone in backbones.items() if backbone == Table.word]
        if not (columns or {}).keys() <= set(tables):
            raise ValueError(
                f"Expected `columns` of the modalities {tables}, which are {Table.word!r}, got {columns!r:.200}; "
                "remove the others."
            )
        processors, frames = {}, {}
        for name, backbone in backbones.items():
            if not isinstance(backbone, (str, os.PathLike)):
                processors[name] = backbone
                continue
            if name in tables:
                processors[name] = fit_table(name, rows, (columns or {}).get(name))
                continue
            require_folder(name, backbone)
            if os.path.isdir(backbone) and not os.path.isfile(os.path.join(backbone, "config.json")):
                # The folder holds a processor alone.
                processors[name] = AutoProcessor.from_pretrained(backbone, trust_remote_code=False)
                continue
            config = encoder_config(name, backbone)
            kind_class = kind_for_encoder(name, model_classes(config)[0].main_input_name)
            processors[name] = kind_class.load(name, backbone)
            kind_of(name, processors[name]).match_encoder(config)
            if kind_class.takes_frames and "num_frames" in config:
                frames[name] = config.num_frames
        return cls(processors, num_frames=frames | (num_frames or {}))

    def __call__(self, **modalities: Sequence[Any]) -> dict[str, Features]:
        """
        Process a list of raw values for each modality: texts, vectors of numbers, rows of a table as dicts, or anything
        that `media.py` reads as a picture, sound or video; or a pandas Series of them, or a DataFrame of rows. `None`,
        or anything else that [`~pmr_hf.model.media_values.is_missing`] names, or a row without any value, stands for a
        modality that a sample lacks.

        Returns:
            `dict[str, dict[str, torch.Tensor]]`: each modality's encoder inputs, with one row per value, and `present`
            (B,) bool if some are missing.

        Raises:
            ValueError: for a modality without a processor, for values that are not in a list or cannot be read, or for
                lists of unequal lengths.
        """
        unknown = modalities.keys() - self.processors.keys()
        if unknown:
            raise ValueError(
                f"Expected modalities among {list(self.processors)}, got {sorted(unknown)} too; give the processor and "
                "the data the same names."
            )
        modalities = {
            name: list(values) if is_series(values) else rows_of(values) for name, values in modalities.items()
        }
        for name, values in modalities.items():
            if isinstance(values, (str, bytes)) or not isinstance(values, Sequence | np.ndarray):
                raise ValueError(
                    f"Expected a list of values for {name!r}, got one {type(values).__name__}; put it in a list."
                )
        lengths = {name: len(values) for name, values in modalities.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"Expected the same number of values of each modality, got {lengths}; give one per sample."
            )
        return {
            name: self.collate(name, self.extract(name, [self.read(name, value) for value in values]))
            for name, values in modalities.items()
        }

    def read(self, name: str, value: Any, random_frames: bool = False) -> Any:
        """
        Read one value of a modality. Returns a text, a PIL image, a list of PIL images, a waveform (samples,) at the
        sampling rate of the feature extractor, an array of numbers, or the numbers and ids of a row; or `None` if the
        value is missing. With `random_frames`, a random frame is taken from each of `num_frames` equal segments of a
        video, in place of the middle one.

        Raises:
            UnreadableError: if the value cannot be read.
        """
        kind = self.kind(name)
        if kind.is_missing(value):
            return None
        kind.random_frames = random_frames
        return kind.read(value)

    def extract(self, name: str, values: list[Any]) -> list[Features | None]:
        """
        Extract the encoder's inputs from each value that [`MultimodalProcessor.read`] returned, without padding. The
        result is `None` for a missing value.
        """
        known = [value for value in values if value is not None]
        extracted = iter(self.kind(name).extract(known) if known else ())
        return [None if value is None else next(extracted) for value in values]

    def collate(self, name: str, features: list[Features | None]) -> Features:
        """
        Stack extracted features into a batch, with padding where their lengths differ. If some are `None`, their rows
        are zero, and the batch has `present` (B,) bool. If all are `None`, it has nothing else.
        """
        present = torch.tensor([row is not None for row in features])
        known = [row for row in features if row is not None]
        if not known:
            return {"present": present}
        batch = self.kind(name).collate(known)
        if len(known) == len(features):
            return batch
        rows = present.nonzero()[:, 0]
        return {key: spread_rows(value, rows, len(features)) for key, value in batch.items()} | {"present": present}

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> None:
        """
        Save each processor to a folder with the name of its modality, and the kinds and the order of the modalities and
        `num_frames` to `processor_config.json`.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        for name in self.processors:
            self.kind(name).save(folder / name)
        config = {"processor_class": type(self).__name__, "modalities": self.kinds, "num_frames": self.num_frames}
        if self._auto_class is not None:
            custom_object_save(self, folder, config=config)
        (folder / self.config_name).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike, limits: MediaLimits = DEFAULT_LIMITS, **kwargs
    ) -> "MultimodalProcessor":
        """
        Load a processor that [`MultimodalProcessor.save_pretrained`] or `push_to_hub` saved.

        Args:
            name_or_path (`str`): a local folder or Hub name.
            limits (`MediaLimits`, *optional*): see the class.
            kwargs: `revision`, `token`, `cache_dir`, ... as for any processor from the Hub.

        Raises:
            FileNotFoundError: if the local folder holds no saved processor.
            ValueError: for a `processor_config.json` of another shape, or settings that are too large.
        """
        for key in ("_from_auto", "trust_remote_code"):  # added by `AutoProcessor`
            kwargs.pop(key, None)
        if os.path.isdir(name_or_path):
            file = os.path.join(name_or_path, cls.config_name)
            if not os.path.isfile(file):
                raise FileNotFoundError(
                    f"Expected a saved MultimodalProcessor in {name_or_path}, found no {cls.config_name} there; create "
                    "one from pretrained encoders with `MultimodalProcessor.from_backbones`."
                )
        else:
            file = hf_hub_download(str(name_or_path), cls.config_name, **kwargs)
        words, num_frames = _read_config(Path(file))
        processors = {
            name: KINDS[word].load(name, name_or_path, subfolder=name, **kwargs) for name, word in words.items()
        }
        return cls(processors, num_frames=num_frames, limits=limits)


def _read_config(file: Path) -> tuple[dict[str, str], dict[str, int]]:
    """
    The kind of each modality, and the numbers of frames, in a `processor_config.json`. Raises `ValueError` for a file
    of another shape.
    """
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        words, frames = config["modalities"], config.get("num_frames") or {}
        holds = isinstance(words, dict) and isinstance(frames, dict) and 0 < len(words) <= MOST_MODALITIES
        holds = holds and all(isinstance(word, str) and word in KINDS for word in words.values())
    except (ValueError, LookupError, TypeError, AttributeError):
        holds = False
    if not holds:
        raise ValueError(
            f'Expected {file} to hold {{"modalities": {{"image": "image_processor", ...}}, "num_frames": {{}}}} with '
            f"kinds among {list(KINDS)}, found something else; save the processor again with `save_pretrained`."
        )
    for name in words:
        check_modality_name(name)
    check_num_frames(frames, list(words))
    return words, frames


def check_num_frames(num_frames: Mapping[str, Any], taking: list[str]) -> None:
    """Raise `ValueError` unless `num_frames` are in 1..4096, for modalities among `taking`."""
    if not num_frames.keys() <= set(taking) or any(
        not isinstance(count, int) or not 1 <= count <= MOST_FRAMES for count in num_frames.values()
    ):
        raise ValueError(
            f"Expected `num_frames` in 1..{MOST_FRAMES} for modalities among {taking}, which take pictures, got "
            f"{num_frames!r:.200}; correct it."
        )
