"""Checks of the dataset that prototypes are taken from in place of the training set."""

from typing import TYPE_CHECKING, Any

import datasets
import numpy as np

from ..model.targets import MULTI_LABEL
from .prototype_rows import prototype_classes
from .setup_checks import check_rows, is_stream


if TYPE_CHECKING:
    from .prototype_trainer import PrototypeTrainer


def check_prototype_dataset(trainer: "PrototypeTrainer") -> None:
    """Raise `ValueError` before training unless prototypes can, and may, be taken from `trainer.prototype_dataset`."""
    dataset = trainer.prototype_dataset
    if trainer.args.prototype_source != "subset":
        raise ValueError(
            "Expected `prototype_source='subset'` with a `prototype_dataset`, got "
            f"{trainer.args.prototype_source!r}, which takes prototypes from the training steps; leave one of them out."
        )
    if isinstance(dataset, dict) or is_stream(dataset):
        raise ValueError(
            f"Expected a `prototype_dataset` with a length, got a {type(dataset).__name__}; pass one map-style dataset."
        )
    evals = trainer.eval_dataset if isinstance(trainer.eval_dataset, dict) else {"evaluation": trainer.eval_dataset}
    for name, other in evals.items():
        if is_same(dataset, other):
            raise ValueError(
                f"Expected a `prototype_dataset` of its own, got the {name} dataset, whose labels would leak into "
                "training; hold out other rows."
            )
    collator = trainer.data_collator
    check_rows(collator, {"training": trainer.train_dataset, "prototype": dataset})
    labels = prototype_classes(dataset, collator)
    if labels is None:
        return
    missing = np.setdiff1d(np.arange(len(trainer.prototypes.common_classes())), labels)
    if len(missing) and trainer.problem_type == MULTI_LABEL:
        raise ValueError(
            f"Expected rows with and without each of the {trainer.num_labels} labels in the `prototype_dataset`, got "
            f"none {trainer.class_names[int(missing[0])]}; add some, as few as 10."
        )
    if len(missing):
        raise ValueError(
            f"Expected rows of each of the {trainer.num_labels} classes in the `prototype_dataset`, got none of "
            f"{missing[:5].tolist()} ({len(missing)} classes); add some, as few as 10 a class."
        )


def is_same(dataset: Any, other: Any) -> bool:
    """Whether two datasets are one object, or have the same rows by the fingerprint of `datasets`."""
    if isinstance(dataset, datasets.Dataset) and isinstance(other, datasets.Dataset):
        return dataset._fingerprint == other._fingerprint
    return dataset is other
