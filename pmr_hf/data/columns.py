"""Functions for the columns of a dataset, and the name of the column with the source of each row."""

from typing import Any

import datasets


ROW = "source_row"  # the column that says where a row comes from, for messages


def as_list(value: str | list[str]) -> list[str]:
    """Put a string into a list. A list is returned unchanged."""
    return [value] if isinstance(value, str) else value


def holds_strings(feature: Any) -> bool:
    """Whether a column of a dataset holds strings or lists of strings, as a column of paths does."""
    feature = getattr(feature, "feature", feature)
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")
