"""Functions for the columns of a dataset, and the name of the column with the source of each row."""

from dataclasses import replace
from typing import Any

import datasets
from datasets import Dataset


ROW = "source_row"  # the column that says where a row comes from, for messages


def as_list(value: str | list[str]) -> list[str]:
    """Put a string into a list. A list is returned unchanged."""
    return [value] if isinstance(value, str) else value


def holds_strings(feature: Any) -> bool:
    """Whether a column of a dataset holds strings or lists of strings, as a column of paths does."""
    feature = getattr(feature, "feature", feature)
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")


def undecoded(rows: Dataset) -> Dataset:
    """
    Let a dataset return pictures, sound and video, and lists of them, as the files `{"bytes", "path"}`. If `datasets`
    decodes them itself, it stops at the first file that cannot be read.
    """
    for column, feature in rows.features.items():
        if decodes(feature):
            rows = rows.cast_column(column, _undecoded_feature(feature))
    return rows


def decodes(feature: Any) -> bool:
    """Whether a column of a dataset decodes files."""
    return bool(_undecoded_feature(feature) != feature)


def _undecoded_feature(feature: Any) -> Any:
    if isinstance(feature, (datasets.Image, datasets.Audio, datasets.Video)):
        return replace(feature, decode=False)
    if isinstance(feature, (datasets.List, datasets.LargeList)):
        return replace(feature, feature=_undecoded_feature(feature.feature))
    return feature
