"""The kind of modality whose values are rows of a table, and what the word "tabular" stands for among backbones."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from transformers import PreTrainedConfig

from .kind_registry import Features, Kind, in_order, register_kind, split_rows
from .media_values import is_missing
from .tabular_processor import TabularProcessor


@register_kind
class Table(Kind):
    """Rows of numbers and categories, as dicts of named columns. A row without any value is missing."""

    word = "tabular"
    processor_class = loader = TabularProcessor
    encoder_inputs = ("categories",)
    medium = "table"
    strings_are_paths = False

    def is_missing(self, value: Any) -> bool:
        if not isinstance(value, Mapping):
            return is_missing(value)
        return all(column in value and is_missing(value[column]) for column in self.processor.columns)

    def read(self, value: Any) -> tuple[np.ndarray, np.ndarray]:
        """Read numbers (N,) and ids (C,), see [`TabularProcessor.read`]."""
        return self.processor.read(value)

    def extract(self, values: list[tuple[np.ndarray, np.ndarray]]) -> list[Features]:
        return split_rows(self.processor.batch(values))

    def arrange(self, column: str | list[str]) -> list[str]:
        return in_order(self.name, column, self.processor.columns)

    def value_in(self, row: Mapping[str, Any], column: str | list[str]) -> dict[str, Any]:
        return {part: row[part] for part in ([column] if isinstance(column, str) else column)}

    def example(self, config: PreTrainedConfig) -> tuple[str, str]:
        row: dict[str, Any] = {name: float(f"{mean:.4g}") for name, (mean, _) in self.processor.numbers.items()}
        row |= {name: values[0] if values else None for name, values in self.processor.categories.items()}
        return repr(row), "a row, in any order of its columns"


def fit_table(name: str, rows: Iterable[Mapping[str, Any]] | None, columns: Any) -> TabularProcessor:
    """
    The processor of the table `name`, which is given by the word "tabular". Raises `ValueError` without `rows`, or
    unless `columns` are `{"numbers": [...], "categories": [...]}` or one of the two.
    """
    if rows is None or not isinstance(columns, Mapping) or not columns.keys() <= {"numbers", "categories"}:
        raise ValueError(
            f'Expected `rows` and `columns={{{name!r}: {{"numbers": [...], "categories": [...]}}}}` for the table '
            f"{name!r}, got {'no rows' if rows is None else 'rows'} and the columns {columns!r:.200}; give both, or a "
            "fitted TabularProcessor."
        )
    return TabularProcessor.fit(rows, **columns)


def with_configs(backbones: Mapping[str, Any], processor: Any) -> dict[str, Any]:
    """
    Replace each fitted [`TabularProcessor`] among the backbones of a model by the config of a new encoder for it. The
    word "tabular" stands for the one that `processor` has for this modality. Raises `ValueError` if it has none.
    """
    found = dict(backbones)
    for name, backbone in backbones.items():
        if isinstance(backbone, str) and backbone == Table.word:
            backbone = None if processor is None else processor.processors.get(name)
            if not isinstance(backbone, TabularProcessor):
                raise ValueError(
                    f"Expected `processor` with the columns of the table {name!r}, got "
                    f"{'none' if processor is None else 'one without this table'}; give the MultimodalProcessor of the "
                    "model, or a fitted TabularProcessor in place of the word 'tabular'."
                )
        if isinstance(backbone, TabularProcessor):
            found[name] = backbone.encoder_config()
    return found
