"""Raw values of any modality: which count as missing, how messages name them, and how they become arrays."""

import os
import sys
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from PIL.Image import Image


class UnreadableError(ValueError):
    """Raised for a value that its modality cannot read. The message says what was found and what is expected."""


def is_missing(value: Any) -> bool:
    """
    Whether a value stands for an absent modality.

    These values do: `None`, `pandas.NA` and `pandas.NaT`; NaN and NaT of any numeric type; an empty or blank string;
    empty bytes; an empty array, list or tensor; an array, list, tensor or pandas column of such values alone; a file
    `{"bytes", "path"}` with neither; and a sound `{"array", "sampling_rate"}` whose array is missing.
    """
    if is_null(value):
        return True
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, (bytes, bytearray)):
        return not value
    if isinstance(value, (float, complex, Decimal, np.inexact, np.datetime64, np.timedelta64)):
        return bool(value != value)
    if isinstance(value, dict):
        if value.keys() == {"bytes", "path"}:
            return is_missing(value["bytes"]) and is_missing(value["path"])
        return {"array", "sampling_rate"} <= value.keys() and is_missing(value["array"])
    if isinstance(value, (list, tuple)):
        return all(is_missing(part) for part in value)
    if isinstance(value, torch.Tensor):
        return bool(value.isnan().all())  # an empty tensor is missing, too
    if is_series(value):
        value = np.asarray(value)
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "OSU":
            return all(is_missing(part) for part in value.flat)
        return value.size == 0 or (value.dtype.kind in "fcmM" and bool((value != value).all()))
    return False


def is_null(value: Any) -> bool:
    """Whether a value is `None`, `pandas.NA` or `pandas.NaT`."""
    pandas = sys.modules.get("pandas")  # not a dependency: if it is not imported, no value is one of its own
    return value is None or (pandas is not None and (value is pandas.NA or value is pandas.NaT))


def is_series(value: Any) -> bool:
    """Whether a value is a column of pandas: a Series, an Index, or the array of one."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, (pandas.Series, pandas.Index, pandas.api.extensions.ExtensionArray))


def rows_of(values: Any) -> Any:
    """
    The rows of a pandas DataFrame as a list of dicts. Anything else is returned unchanged. Raises `ValueError` for two
    columns of one name.
    """
    if not is_frame(values):
        return values
    twice = values.columns[values.columns.duplicated()].tolist()
    if twice:
        raise ValueError(f"Expected each column of a DataFrame once, got {twice[:5]} twice; rename one.")
    return values.to_dict("records")


def is_frame(value: Any) -> bool:
    """Whether a value is a pandas DataFrame."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, pandas.DataFrame)


def is_decoder(value: Any, name: str) -> bool:
    """Whether a value is torchcodec's decoder of this name: "AudioDecoder" or "VideoDecoder"."""
    # torchcodec is not a dependency. `datasets` has imported it already if the value is a decoder.
    decoders = sys.modules.get("torchcodec.decoders")
    return decoders is not None and isinstance(value, getattr(decoders, name))


def describe(value: Any) -> str:
    """A short description of a value for error messages: its file, or its type and size."""
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        value = value["path"] or value["bytes"]
    if isinstance(value, (str, os.PathLike)):
        return f"file {os.fspath(value)!r}"
    if isinstance(value, (bytes, bytearray)):
        return f"{len(value)} bytes"
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return f"an array of shape {tuple(value.shape)} and type {value.dtype}"
    if isinstance(value, Image):
        return f"a picture of {value.width} x {value.height} pixels and mode {value.mode}"
    return f"a {type(value).__name__}"


def reason_of(error: Exception) -> str:
    """The first line of an error's message, or its type if it has none."""
    return str(error).split("\n")[0] or type(error).__name__


def as_array(value: Any) -> np.ndarray:
    """
    Convert a list or a tensor, on any device, to an array. Tensors of floats that NumPy lacks, such as bf16, become
    fp32. Raises `UnreadableError` for lists of unequal lengths.
    """
    if isinstance(value, torch.Tensor):
        if value.is_floating_point() and value.dtype != torch.float64:
            value = value.float()
        return value.numpy(force=True)
    try:
        return np.asarray(value)
    except ValueError as error:
        raise UnreadableError(f"{value!r:.80} is not an array, since its lists differ in length") from error


def is_numbers(value: Any) -> bool:
    """Whether a value is a number or nested lists of numbers, which is how `datasets` returns an array."""
    while isinstance(value, (list, tuple)) and len(value):
        value = value[0]
    return isinstance(value, (int, float))
