"""A few rows of the validation split, saved beside a model for the demo, and read from there."""

import io
import json
import math
import re
import shutil
import wave
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image

from ..model.kind_registry import Kind
from ..model.media_values import UnreadableError
from ..model.multimodal_processor import MultimodalProcessor
from ..model.tabular_processor import category_of, number_of
from .collator import MultimodalCollator
from .columns import labels_in


FOLDER = "_examples"  # `Trainer` pushes no files whose names start with an underscore
LIST = "examples.json"
FILE = re.compile(r"[0-9]+-\w+\.[a-z]+")
SUFFIXES = {"picture": ".png", "sound": ".wav"}
MOST_EXAMPLES = 20
LIST_BYTES = 2**20
PICTURE_EDGE, PICTURE_BYTES = 512, 64 * 2**10
SOUND_SECONDS = 10
TEXT_LENGTH = 2000


def draw_examples(rows: Dataset, label: str, count: int) -> Dataset:
    """At most `count` rows: the first row of each different label or target, and then the first of the others."""
    labels = [repr(each) for each in labels_in(rows, label)]
    firsts = sorted({name: i for i, name in reversed(list(enumerate(labels)))}.values())
    others = sorted(set(range(len(labels))) - set(firsts))
    return rows.select([*firsts, *others][:count])


def save_examples(folder: str | Path, rows: Dataset, collator: MultimodalCollator) -> None:
    """
    Save rows to the folder `_examples` beside a model, in place of those that are there.

    Pictures become png files of at most 512 x 512 pixels and 64 KiB, without metadata; sounds become wav files of at
    most 10 seconds. Texts of at most 2,000 characters, numbers and rows of tables are in `examples.json`. What the demo
    has no field for is left out: videos, lists of pictures and sequences of numbers.

    Raises:
        UnreadableError: for a value that cannot be read, unless the collator has `on_error="missing"`.
    """
    target = Path(folder, FOLDER)
    if target.is_dir():
        shutil.rmtree(target)
    target.mkdir(parents=True)
    examples = []
    for i, row in enumerate(rows):
        example = {}
        for name, column in collator.columns.items():
            kind, value = collator.processor.kind(name), collator.read(name, i, row)
            example[name] = None if value is None else _saved(kind, value, kind.value_in(row, column), target / f"{i}")
        examples.append(example)
    (target / LIST).write_text(json.dumps(examples, indent=2) + "\n", encoding="utf-8")


def _saved(kind: Kind, value: Any, raw: Any, stem: Path) -> Any:
    """What stands in `examples.json` for a value that was read from `raw`. A picture or sound is written to a file."""
    file = stem.with_name(f"{stem.name}-{kind.name}")
    if kind.medium == "text":
        return value[:TEXT_LENGTH]
    if kind.medium == "table":
        numbers = {name: number_of(name, raw[name]) for name in kind.processor.numbers}
        categories = {name: category_of(name, raw[name]) for name in kind.processor.categories}
        return {name: _finite(number) for name, number in numbers.items()} | categories
    if kind.medium == "numbers" and value.ndim == 1:
        return [_finite(number) for number in value.tolist()]
    if kind.medium == "picture" and not isinstance(value, list):
        file = file.with_suffix(SUFFIXES["picture"])
        file.write_bytes(_png(value))
        return file.name
    if kind.medium == "sound":
        file = file.with_suffix(SUFFIXES["sound"])
        _write_wav(file, value, kind.processor.sampling_rate)
        return file.name
    return None


def _finite(number: float) -> float | None:
    return None if math.isnan(number) else number


def _png(image: Image.Image) -> bytes:
    """A picture as a png file of at most 512 x 512 pixels and 64 KiB."""
    image = Image.fromarray(np.asarray(image))  # without metadata, such as the place of a photo
    edge = PICTURE_EDGE
    while True:
        image.thumbnail((edge, edge))
        file = io.BytesIO()
        image.save(file, "PNG", optimize=True)
        if len(file.getvalue()) <= PICTURE_BYTES:
            return file.getvalue()
        edge = max(image.size) * 3 // 4


def _write_wav(file: Path, samples: np.ndarray, rate: int) -> None:
    """Write the first 10 seconds of a waveform (samples,) in [-1, 1] as 16-bit samples."""
    with wave.open(str(file), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes((samples[: SOUND_SECONDS * rate].clip(-1, 1) * 32767).round().astype("<i2").tobytes())


def read_examples(folder: str | Path, processor: MultimodalProcessor) -> list[dict[str, Any]]:
    """
    Read the examples that [`save_examples`] has saved beside a model. A stranger may have written them, so only files
    of the folder `_examples` itself are opened.

    Args:
        folder (`str | Path`): the folder of the model. Nothing else, such as a name on the Hub, has examples.
        processor (`MultimodalProcessor`): that of the model. It reads each value, within its limits.

    Returns:
        `list[dict[str, Any]]`: a value or `None` for each modality of each example: a text, a PIL image, a waveform
        (samples,) at the sampling rate of the processor, an array of numbers with NaN for missing ones, or a row of a
        table as a dict. An example without any value is left out, and the list is empty if there are none.

    Raises:
        ValueError: for an `examples.json` of another shape, for a value that cannot be read, and for a file outside the
            folder.
    """
    place = Path(folder).resolve() / FOLDER
    if not place.is_dir():
        return []
    rows = _read_list(_inside(place, LIST), processor)
    try:
        examples = [
            {name: _read(processor, place, name, row.get(name)) for name in processor.processors} for row in rows
        ]
    except UnreadableError as error:
        raise ValueError(f"Expected examples that can be read in {place}, but {error}; delete this folder.") from error
    return [example for example in examples if any(value is not None for value in example.values())]


def _read_list(file: Path, processor: MultimodalProcessor) -> list[dict[str, Any]]:
    try:
        if file.stat().st_size > LIST_BYTES:
            raise ValueError
        examples = json.loads(file.read_bytes())
        holds = isinstance(examples, list) and len(examples) <= MOST_EXAMPLES
        known = processor.processors.keys()
        holds = holds and all(isinstance(each, dict) and each.keys() <= known for each in examples)
    except (ValueError, RecursionError):
        holds = False
    if not holds:
        raise ValueError(
            f"Expected {file} to hold a list of at most {MOST_EXAMPLES} examples, each a value by modality for some of "
            f"{list(processor.processors)}, in at most {LIST_BYTES:,} bytes, found something else; delete its folder."
        )
    return examples


def _read(processor: MultimodalProcessor, place: Path, name: str, value: Any) -> Any:
    """Read one value of `examples.json`, see [`read_examples`]."""
    medium = processor.kind(name).medium
    if value is None:
        return None
    if medium in ("text", "numbers", "table"):
        found = processor.read(name, value)
        return value if medium == "table" else found
    if not isinstance(value, str) or not FILE.fullmatch(value) or not value.endswith(SUFFIXES.get(medium, "/")):
        raise _refusal(place, value)
    return processor.read(name, str(_inside(place, value)))


def _inside(place: Path, name: str) -> Path:
    """The path of a file in a folder. Raises `ValueError` if it is not there, or is a link to another place."""
    path = place / name
    if path.resolve() != path or not path.is_file():
        raise _refusal(place, name)
    return path


def _refusal(place: Path, found: Any) -> ValueError:
    return ValueError(
        f"Expected {place} to hold {LIST} and the png and wav files that it names, and no links, got {found!r:.80}; "
        "delete this folder."
    )
