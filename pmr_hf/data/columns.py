"""The columns of a dataset: one or several per modality, columns of paths, and the column that names a row's source."""

from typing import Any

import datasets


ROW = "source_row"  # the column that says where a row comes from, for messages


def as_list(value: str | list[str]) -> list[str]:
    """A string as a list of one; a list as it is."""
    return [value] if isinstance(value, str) else value


def holds_strings(feature: Any) -> bool:
    """Whether a column of a dataset holds strings or lists of strings, as a column of paths does."""
    feature = getattr(feature, "feature", feature)
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")
