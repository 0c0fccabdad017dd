"""
The feature cache, which extracts the features of a dataset once and stores them in the cache of `datasets`.

The features of a modality are one column of bytes, in the safetensors format.
"""

import ast
import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
from safetensors.torch import load, save

from ..model.kind_registry import Features
from ..model.multimodal_processor import MultimodalProcessor
from .columns import as_list, holds_strings


CACHED = "__features__"  # prefix of a modality's name, for the column of its extracted features
# Part of each fingerprint. Raise it when a change of the code that reads or extracts values changes the features.
EXTRACTION_VERSION = 2


def cache_features(
    dataset: datasets.Dataset,
    columns: Mapping[str, str | list[str]],
    extract: Callable[[str, Sequence[dict[str, Any]]], list[Features | None]],
    fingerprint: str,
    keep: Sequence[str] = (),
    num_proc: int | None = None,
) -> datasets.Dataset:
    """
    Replace the columns of each modality by one column of extracted features.

    Args:
        dataset (`datasets.Dataset`): the rows.
        columns (`Mapping[str, str | list[str]]`): the columns to extract from, by modality.
        extract (`Callable`): maps a modality's name and several rows to the features of each row, or `None` for a row
            that lacks the modality.
        fingerprint (`str`): fingerprint of the result, see [`feature_fingerprint`].
        keep (`Sequence[str]`, *optional*): columns to keep, even if features are extracted from them.
        num_proc (`int`, *optional*): number of processes that extract features.

    Returns:
        `datasets.Dataset`: the dataset with the columns of features.
    """
    sources = {part for column in columns.values() for part in as_list(column)} - set(keep)
    others = {name: feature for name, feature in dataset.features.items() if name not in sources}

    def extract_batch(rows: dict[str, list[Any]]) -> dict[str, list[bytes | None]]:
        samples = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
        return {CACHED + name: [_to_bytes(features) for features in extract(name, samples)] for name in columns}

    folder = os.path.join(datasets.config.HF_DATASETS_CACHE, "pmr_hf")  # for a dataset that is in memory
    os.makedirs(folder, exist_ok=True)
    return dataset.map(
        extract_batch,
        batched=True,
        batch_size=16,
        writer_batch_size=16,  # a clip of video takes 10 MB
        num_proc=num_proc if num_proc and len(dataset) >= 16 * num_proc else None,
        remove_columns=sorted(sources),
        features=datasets.Features(others | {CACHED + name: datasets.Value("binary") for name in columns}),
        new_fingerprint=fingerprint,
        cache_file_name=None if dataset.cache_files else os.path.join(folder, f"{fingerprint}.arrow"),
        desc="Extracting features",
    )


def feature_fingerprint(
    dataset: datasets.Dataset,
    processor: MultimodalProcessor,
    columns: Mapping[str, str | list[str]],
    on_error: str,
) -> str:
    """
    A digest of 32 hex digits of everything that determines the features: the data, the files that it names, and the
    settings of the processors.
    """
    classes = [type(processor), *(type(processor.kind(name)) for name in processor.processors)]
    code = [f"{cls.__module__}.{cls.__qualname__}" for cls in classes]  # a user's class may read or extract otherwise
    settings = (
        EXTRACTION_VERSION,
        dataset._fingerprint,
        columns,
        on_error,
        code,
        processor.kinds,
        processor.num_frames,
    )
    digest = hashlib.sha256(repr(settings).encode())
    with tempfile.TemporaryDirectory() as folder:
        for name in processor.processors:
            kind = processor.kind(name)
            kind.forget_calls()
            kind.save(Path(folder, name))
        for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            content = file.read_bytes()
            if file.suffix == ".py":  # of a user's own processor; its comments do not count
                content = ast.dump(ast.parse(content)).encode()
            digest.update(f"{file.relative_to(folder)} ".encode())
            digest.update(content)
    paths = {
        part for name, column in columns.items() if processor.kind(name).strings_are_paths for part in as_list(column)
    }
    for column in sorted(paths):
        if holds_strings(dataset.features[column]):
            for path in chain.from_iterable(as_list(value) for value in dataset[column] if value):
                if path and os.path.isfile(path):
                    digest.update(f"{os.path.getmtime(path)} {os.path.getsize(path)}".encode())
    return digest.hexdigest()[:32]


def cached_features(name: str, rows: Sequence[dict[str, Any]]) -> list[Features | None]:
    """The features of the modality `name` in rows of a dataset that [`cache_features`] returned."""
    return [None if row[CACHED + name] is None else load(row[CACHED + name]) for row in rows]


def _to_bytes(features: Features | None) -> bytes | None:
    return None if features is None else save({key: value.contiguous() for key, value in features.items()})
