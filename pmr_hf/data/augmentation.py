"""Augmentation: training values that differ from epoch to epoch, drawn from the seed, the epoch and the row."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..model.kinds import Picture
from ..model.media_values import UnreadableError
from ..model.multimodal_processor import MultimodalProcessor
from .random_state import isolated_random_state


# The key of a training row whose values vary. Its value is (seed, epoch, row), which determines what is drawn for it.
DRAW = "__draw__"
CPU = torch.device("cpu")


@dataclass
class CropAndFlip:
    """
    Crops a random part of a picture and flips half of the pictures: `RandomResizedCrop` and `RandomHorizontalFlip` of
    torchvision with their defaults, as the authors of PMR train on CREMA-D.

    Args:
        size (`tuple[int, int]`, *optional*): height and width of the result. By default, a picture keeps its size.
    """

    size: tuple[int, int] | None = None

    def __call__(self, picture: Image.Image) -> Image.Image:
        from torchvision.transforms import v2  # slow to import

        size = self.size or (picture.height, picture.width)
        return v2.RandomHorizontalFlip()(v2.RandomResizedCrop(size)(picture))


def basic_augmentation(processor: MultimodalProcessor, name: str) -> CropAndFlip:
    """
    The [`CropAndFlip`] of a modality of pictures or videos, to the size that its processor resizes pictures to, if any.

    Raises:
        ValueError: for a modality without pictures.
    """
    kind = processor.kind(name) if name in processor.processors else None
    if not isinstance(kind, Picture):
        pictures = [other for other in processor.processors if isinstance(processor.kind(other), Picture)]
        raise ValueError(
            f"Expected a modality of pictures or videos to crop and flip, among {pictures}, got {name!r}; leave it out."
        )
    return CropAndFlip(kind.size)


AUGMENTATIONS: dict[str, Callable[[MultimodalProcessor, str], Callable[[Any], Any]]] = {"basic": basic_augmentation}


def check_augmentation(processor: MultimodalProcessor, augment: Mapping[str, Any], frames: str) -> None:
    """
    Raise `ValueError` for `augment` of an unknown modality or with a transform that is not callable, for `frames` other
    than "even" and "random", and for "random" if no modality has `num_frames`.
    """
    unknown = [name for name in augment if name not in processor.processors]
    if unknown:
        raise ValueError(
            f"Expected `augment` for modalities among {list(processor.processors)}, got {unknown}; correct the names."
        )
    wrong = {name: transform for name, transform in augment.items() if not callable(transform)}
    if wrong:
        raise ValueError(f"Expected a callable for each modality in `augment`, got {wrong!r:.200}; pass a transform.")
    if frames not in ("even", "random"):
        raise ValueError(f"Expected `frames` to be 'even' or 'random', got {frames!r}; correct it.")
    if frames == "random" and not processor.num_frames:
        raise ValueError(
            "Expected `num_frames` of a modality with frames='random', got none, so that all frames are taken; give "
            "the processor `num_frames`, or leave out `frames`."
        )


def draw_seed(draw: tuple[int, int, int], name: str) -> int:
    """A seed in 0..2^32-1 for one value, from the (seed, epoch, row) of its row and the name of its modality."""
    return int(np.random.SeedSequence([*draw, zlib.crc32(name.encode())]).generate_state(1)[0])


def augmented(processor: MultimodalProcessor, name: str, value: Any, transform: Callable[[Any], Any], seed: int) -> Any:
    """
    Transform a value that [`MultimodalProcessor.read`] returned. Each picture of a list is transformed with the same
    seed, so that the frames of a video are cropped alike. No random state is changed.

    Raises:
        ValueError: if the transform returns another type than it gets, or a value that the modality cannot read.
    """
    results = []
    for part in value if isinstance(value, list) else [value]:
        with isolated_random_state(seed, CPU):
            results.append(transform(part))
        expected = Image.Image if isinstance(part, Image.Image) else type(part)
        if not isinstance(results[-1], expected):
            what = "PIL.Image" if expected is Image.Image else expected.__name__
            raise ValueError(
                f"Expected the transform of {name!r} in `augment` to return the type that it gets, {what}, got "
                f"{type(results[-1])}; leave the conversion to tensors to the processor."
            )
    try:
        return processor.read(name, results if isinstance(value, list) else results[0])
    except UnreadableError as error:
        raise ValueError(
            f"Expected the transform of {name!r} in `augment` to return a value like the one it gets, but "
            f"{error}; correct it."
        ) from error
