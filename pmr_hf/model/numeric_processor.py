"""The processor for modalities of numbers, which standardises their values."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import BatchFeature, FeatureExtractionMixin

from .media_values import UnreadableError, is_null


class NumericProcessor(FeatureExtractionMixin):
    """
    Standardises vectors, or sequences of vectors, by the mean and standard deviation of the training data.

    ```python
    processor = NumericProcessor.fit([row["vitals"] for row in train])
    processor([[36.6, 80.0], [39.1, None]])  # {"values": (2, 2)}
    ```

    Args:
        mean (`list[float]`): mean of each of the D features.
        std (`list[float]`): standard deviation of each feature; 1 for a feature that never varies.
        columns (`list[str]`, *optional*): the column of each feature in a dataset, if each has a column of its own.
            Another order of these columns then gives the same values, and other columns are refused.

    Raises:
        ValueError: for a mean or deviation that is no list of numbers, or of different lengths, and for columns that
            are not one name for each feature.
    """

    model_input_names = ["values"]

    def __init__(
        self,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        columns: Sequence[str] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        try:
            self.mean, self.std = [float(value) for value in mean], [float(value) for value in std]
        except (TypeError, ValueError):
            self.mean, self.std = [], []
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(
                f"Expected a list of means and one of as many deviations, a number for each feature, got {mean!r:.80} "
                f"and {std!r:.80}; take them from the training data with `NumericProcessor.fit`."
            )
        if columns is not None and (
            not isinstance(columns, (list, tuple))
            or not all(isinstance(name, str) for name in columns)
            or not len(set(columns)) == len(columns) == len(self.mean)
        ):
            raise ValueError(
                f"Expected a name for each of {len(self.mean)} columns, or None, got {columns!r:.200}; give each "
                "feature the name of its column."
            )
        self.columns = None if columns is None else list(columns)

    @classmethod
    def fit(cls, values: Iterable[Any], columns: Sequence[str] | None = None) -> "NumericProcessor":
        """
        Create a processor with the statistics of the training values: vectors (D,), or sequences (T, D) of varying T.
        Numbers that are `None`, NaN or infinite do not count. `columns` are those of the class.

        Raises:
            UnreadableError: for a value that is not numbers.
            ValueError: if there are no values, or if their widths differ.
        """
        rows = []
        for i, value in enumerate(values):
            try:
                rows.append(np.atleast_2d(as_numbers(value)))
            except UnreadableError as error:
                raise UnreadableError(
                    f"Expected numbers in the training data, but value {i + 1}, {error}; correct it."
                ) from error
        widths = {row.shape[1] for row in rows}
        if len(widths) != 1:
            raise ValueError(f"Expected vectors of one width to fit, got widths {sorted(widths)}; correct the data.")
        known = np.ma.masked_invalid(np.concatenate(rows))
        mean, std = known.mean(0).filled(0.0), known.std(0).filled(1.0)
        return cls(mean.tolist(), np.where(std > 1e-12 * np.abs(mean).clip(1), std, 1.0).tolist(), columns)

    def __call__(self, values: Sequence[Any]) -> BatchFeature:
        """
        Standardise the values of a batch.

        Args:
            values: B vectors (D,) or B sequences (T, D), as lists or arrays. The training mean replaces each number
                that is `None` or NaN.

        Returns:
            `BatchFeature`: `values` (B, D), or for sequences `values` (B, T, D) padded with zeros and `attention_mask`
            (B, T), in fp32.

        Raises:
            UnreadableError: see [`NumericProcessor.read`].
        """
        standard = [(self.read(value) - self.mean) / self.std for value in values]
        arrays = [torch.tensor(np.nan_to_num(array, nan=0.0), dtype=torch.float32) for array in standard]
        if all(array.dim() == 1 for array in arrays):
            return BatchFeature({"values": torch.stack(arrays)})
        arrays = [torch.atleast_2d(array) for array in arrays]
        mask = nn.utils.rnn.pad_sequence([torch.ones(len(array), dtype=torch.long) for array in arrays], True)
        return BatchFeature({"values": nn.utils.rnn.pad_sequence(arrays, True), "attention_mask": mask})

    def read(self, value: Any) -> np.ndarray:
        """
        Read one value as fp64 numbers (D,) or (T, D), with NaN for missing numbers. Raises `UnreadableError` for other
        values, another width D, and a number that is infinite or too large for fp32.
        """
        array = np.atleast_1d(as_numbers(value))
        if array.ndim not in (1, 2) or array.shape[-1] != len(self.mean):
            raise UnreadableError(
                f"an array of shape {array.shape} is not a vector ({len(self.mean)},) or sequence (T, {len(self.mean)})"
            )
        if (np.abs((array - self.mean) / self.std) > np.finfo(np.float32).max).any():
            raise UnreadableError(f"{value!r:.80} holds an infinite number, or one too large for fp32")
        return array


def as_numbers(value: Any) -> np.ndarray:
    """
    Convert a value to fp64 numbers, with NaN for `None`, `pandas.NA` and `pandas.NaT`. Raises `UnreadableError` if it
    is not numbers.
    """
    try:
        if torch.is_tensor(value):
            return value.double().numpy(force=True)
        try:
            return np.array(value, dtype=np.float64)  # None becomes NaN
        except TypeError:
            objects = np.array(value, dtype=object)
            nulls = np.vectorize(is_null, otypes=[bool])(objects)
            return np.where(nulls, np.nan, objects).astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise UnreadableError(f"{value!r:.80} is not a vector of numbers") from error
