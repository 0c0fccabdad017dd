"""What a trainer checks before training: one function per mistake, each of which raises one sentence."""

from typing import Any

import datasets
from torch import nn
from torch.utils.data import IterableDataset
from transformers import TrainingArguments, default_data_collator
from transformers.trainer_utils import has_length

from ..data.collator import MultimodalCollator
from ..model.modeling import MultimodalModel
from ..model.multimodal_processor import MultimodalProcessor
from ..model.prototypes import Prototypes


def require_multimodal(model: nn.Module, argument: str) -> MultimodalModel:
    """The model itself; raises `ValueError` if `argument` does not apply to it, because it is of another class."""
    if not isinstance(model, MultimodalModel):
        raise ValueError(f"Expected a MultimodalModel for `{argument}`, got a {type(model).__name__}; leave it out.")
    return model


def is_stream(dataset: Any) -> bool:
    """Whether a dataset can only be read from its beginning, or has no length."""
    return isinstance(dataset, IterableDataset) or not has_length(dataset)


def check_modality_learning_rates(model: nn.Module, rates: dict[str, float] | None) -> None:
    """Raise `ValueError` unless the learning rates are of modalities that the model has."""
    if not rates:
        return
    names = list(require_multimodal(model, "modality_learning_rates").backbones)
    unknown = [name for name in rates if name not in names]
    if unknown:
        raise ValueError(f"Expected `modality_learning_rates` to name modalities among {names}, got {unknown}.")


def check_processor(model: nn.Module, processor: Any) -> None:
    """Raise `ValueError` unless model and processor have the same modalities."""
    if not isinstance(model, MultimodalModel) or not isinstance(processor, MultimodalProcessor):
        return
    backbones, processors = model.config.modalities, list(processor.processors)
    if set(backbones) != set(processors):
        raise ValueError(
            f"Expected a processor for each of the model's modalities {backbones}, got processors for {processors}; "
            "give both the same names."
        )


def check_collator(model: nn.Module, collator: Any) -> None:
    """Raise `ValueError` for a [`MultimodalModel`] that would be trained without a collator of several modalities."""
    if isinstance(model, MultimodalModel) and collator is default_data_collator:
        raise ValueError("Expected a `data_collator`, got none; pass a MultimodalCollator(processor, columns, label).")


def check_length_column(args: TrainingArguments, train_dataset: Any) -> None:
    """Raise `ValueError` if samples are to be drawn by a length that the training set does not have."""
    if args.train_sampling_strategy not in ("group_by_length", "batch_rebalance"):
        return
    column = args.length_column_name
    if not isinstance(train_dataset, datasets.Dataset) or column not in train_dataset.column_names:
        raise ValueError(
            f"Expected a `datasets.Dataset` with a column {column!r} to sample by, since samples of several modalities "
            "have no one length; add the column, for instance with `map`."
        )


def check_one_split(train_dataset: Any) -> None:
    """Raise `ValueError` for a dict of splits in place of one training set."""
    if isinstance(train_dataset, dict):
        raise ValueError(
            f"Expected one training dataset, got a {type(train_dataset).__name__} of {list(train_dataset)}; pass one "
            "of its splits."
        )


def check_rows(collator: Any, splits: dict[str, Any]) -> None:
    """
    Check the rows, columns and labels of datasets by their names; those without a length are checked as they are read.

    Raises:
        ValueError: for a dataset without rows, a missing column, labels that are not integers in 0..K-1, or class names
            that differ between datasets.
    """
    class_names = {}
    for name, dataset in splits.items():
        if dataset is None or not has_length(dataset):
            continue
        if len(dataset) == 0:
            raise ValueError(f"Expected the {name} dataset to have at least one row, got none; check its split.")
        if isinstance(collator, MultimodalCollator):
            class_names[name] = collator.check_dataset(dataset)
    known = [names for names in class_names.values() if names is not None]
    if any(names != known[0] for names in known):
        raise ValueError(
            f"Expected the same class names in each dataset, got {class_names}; encode them before splitting."
        )


def check_prototypes(model: nn.Module) -> None:
    """Raise `ValueError` for a model without prototypes."""
    if not isinstance(getattr(model, "prototypes", None), Prototypes):
        raise ValueError(
            f"Expected a model with prototypes, got a {type(model).__name__} without; call "
            "`attach_prototypes(model, widths, num_labels)` first and pass `embeddings_fn`."
        )


def check_prototype_source(train_dataset: Any, source: str, fraction: float) -> None:
    """Raise `ValueError` for prototypes of a share of a training set that streams."""
    if train_dataset is not None and source == "subset" and is_stream(train_dataset):
        raise ValueError(
            f"Expected a map-style training set with a length, to take {fraction} of it for the prototypes, got a "
            f"{type(train_dataset).__name__}; or set `prototype_source='online'`."
        )
