"""What the columns of a dataset hold: one or several for a modality, paths of files, and where a row comes from."""

from typing import Any

import datasets


ROW = "source_row"  # the column that says where a row comes from, for messages


def as_list(value: str | list[str]) -> list[str]:
    """One string as a list of one."""
    return [value] if isinstance(value, str) else value


def holds_strings(feature: Any) -> bool:
    """Whether a dataset's column is of strings or lists of them, as paths are."""
    feature = getattr(feature, "feature", feature)
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")
