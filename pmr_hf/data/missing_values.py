"""Which rows of a dataset have each modality, without reading any file."""

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..model.media_values import is_missing
from .columns import as_list
from .feature_cache import CACHED


def present_rows(dataset: Any, columns: Mapping[str, str | list[str]]) -> dict[str, np.ndarray]:
    """
    The rows that have each modality, by the definition of [`~pmr_hf.model.media_values.is_missing`]. A file that cannot
    be read counts as present.

    Args:
        dataset (`datasets.Dataset | list[dict]`): N rows, which may be those of the feature cache.
        columns (`Mapping[str, str | list[str]]`): the column of each modality, or its list of columns, one of which
            must have a value.

    Returns:
        `dict[str, np.ndarray]`: (N,) bool, by modality.
    """
    sources = {name: as_list(column) for name, column in columns.items()}
    if isinstance(dataset, datasets.Dataset):
        cached = {name: [CACHED + name] for name in columns if CACHED + name in dataset.column_names}
        return {
            name: np.any([_present_in_column(dataset, part) for part in parts], axis=0)
            for name, parts in (sources | cached).items()
        }
    return {
        name: np.array([any(not is_missing(row[part]) for part in parts) for row in dataset], dtype=bool)
        for name, parts in sources.items()
    }


def _present_in_column(dataset: datasets.Dataset, column: str) -> np.ndarray:
    # The Arrow table holds all rows. A selection or a shuffle only adds indices into it.
    chunks = dataset.data.column(column).chunks
    present = np.concatenate([_present_in_array(chunk) for chunk in chunks] or [np.empty(0, dtype=bool)])
    return present if dataset._indices is None else present[dataset._indices.column(0).to_numpy()]


def _present_in_array(values: pa.Array) -> np.ndarray:
    """Which values (N,) of a column are not missing, (N,) bool."""
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    kind, known = values.type, values.is_valid().to_numpy(zero_copy_only=False)
    if pa.types.is_floating(kind):
        return known & ~pc.is_nan(values).fill_null(True).to_numpy(zero_copy_only=False)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        values = pc.utf8_trim_whitespace(values)
        return known & (pc.utf8_length(values).fill_null(0).to_numpy(zero_copy_only=False) > 0)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return known & (pc.binary_length(values).fill_null(0).to_numpy(zero_copy_only=False) > 0)
    if pa.types.is_struct(kind):
        names = {field.name for field in kind}
        if names == {"bytes", "path"}:
            return known & (_present_in_array(values.field("bytes")) | _present_in_array(values.field("path")))
        if {"array", "sampling_rate"} <= names:
            return known & _present_in_array(values.field("array"))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        parts = _present_in_array(pc.list_flatten(values))
        parents = pc.list_parent_indices(values).to_numpy(zero_copy_only=False)
        return known & (np.bincount(parents[parts], minlength=len(values)) > 0)
    return known
