"""Class labels: conversion to integers for a batch, encoding of the values of a table, and stratified splits."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Value
from transformers.utils import logging

from .columns import ROW


logger = logging.get_logger(__name__)

NO_LABEL = -100  # the label of a segment without one, which torch's cross entropy ignores


def integer_labels(labels: Any, num_labels: int | None = None, segments: bool = False) -> torch.Tensor:
    """
    Convert class labels to an int64 tensor (B,), or (B, T) for the T segments of each sample.

    Args:
        labels: a list, array or CPU tensor of integers, not empty.
        num_labels (`int`, *optional*): the number of classes K. If given, the labels must be in 0..K-1.
        segments (`bool`, *optional*, defaults to `False`): whether each label may be a list of integers, one for each
            segment. All lists must have the same length. -100 stands for a segment without a label.

    Raises:
        ValueError: for labels that are not integers, lists of unequal lengths, or labels outside 0..K-1.
    """
    try:
        values = np.asarray(labels)
    except ValueError as error:  # lists of unequal lengths
        if segments and all(np.ndim(label) == 1 for label in labels):
            raise ValueError(
                f"Expected the same number of segment labels for each sample, got "
                f"{sorted({len(label) for label in labels})}; pad with -100, which is ignored."
            ) from error
        values = np.empty(0)
    dimensions = (1, 2) if segments else (1,)
    if values.dtype.kind not in "iu" or values.ndim not in dimensions or not values.size or values.max() > 2**63 - 1:
        whole = (int, np.integer)
        wrong = next((label for label in labels if not isinstance(label, whole) or isinstance(label, bool)), labels)
        raise ValueError(
            f"Expected integer labels 0..K-1, got {wrong!r:.80} of type {type(wrong).__name__}; map your classes "
            "to integers before splitting, for instance with `dataset.class_encode_column`, and drop rows without one."
        )
    labelled = values[values != NO_LABEL] if values.ndim == 2 else values
    if num_labels is not None and labelled.size and not 0 <= labelled.min() <= labelled.max() < num_labels:
        raise ValueError(
            f"Expected labels in 0..{num_labels - 1}, got labels from {labelled.min()} to {labelled.max()}; set the "
            "model's `num_labels` to the number of classes, or correct the labels."
        )
    return torch.as_tensor(values, dtype=torch.long)


def encode_labels(splits: dict[str, Dataset], label: str) -> dict[str, Dataset]:
    """
    Encode the column `label` of all splits as one `ClassLabel` with the classes of the training split. A test split
    without labels is left out.

    Raises:
        ValueError: for rows without a label, for a class that the training split lacks, or for a column that does not
            hold classes.
    """
    values = {name: split[label][:] for name, split in splits.items()}
    feature = splits["train"].features[label]
    without = {
        name: [i for i, value in enumerate(values[name]) if _no_label(value, split.features[label])]
        for name, split in splits.items()
    }
    if "test" in splits and len(without["test"]) == len(splits["test"]):
        logger.warning("The test split has no labels: it is left out.")
        del splits["test"], without["test"]
    for name, rows in without.items():
        if rows:
            raise ValueError(
                f"Expected a label in column {label!r} of every row, but {len(rows)} have none, first "
                f"{splits[name][ROW][rows[0]]}; drop these rows."
            )
    if not isinstance(feature, (ClassLabel, Value)):
        raise ValueError(
            f"Expected one label per row in column {label!r}, got {feature!s:.80}; name a column of classes."
        )
    if isinstance(feature, ClassLabel):
        classes = feature.names
    else:
        classes = [str(value) for value in sorted(set(values["train"]))]
        if len(classes) > 1000 and len(classes) > len(values["train"]) // 2:
            raise ValueError(f"Expected classes in column {label!r}, got {len(classes)} values; name another column.")
    ids = {name: i for i, name in enumerate(classes)}
    encoded = {}
    for name, split in splits.items():
        own = split.features[label]
        if isinstance(own, ClassLabel):  # a split may number the classes in its own way
            names = [own.names[value] for value in values[name]]
        elif isinstance(feature, ClassLabel) and isinstance(values[name][0], int):
            names = [classes[value] if value < len(classes) else value for value in values[name]]
        else:
            names = [str(value) for value in values[name]]
        unknown = sorted({str(value) for value in names if value not in ids})
        if unknown:
            raise ValueError(
                f"Expected the classes of the training split in {name}, got {unknown[:5]} too; add training rows of "
                "these classes, or drop the rows."
            )
        encoded[name] = split.remove_columns(label).add_column(
            label, [ids[value] for value in names], feature=ClassLabel(names=classes)
        )
    return encoded


def _no_label(value: Any, feature: Any) -> bool:
    return value is None or value != value or value == "" or (isinstance(feature, ClassLabel) and value == -1)


def stratified_cut(labels: Sequence[int | str], share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Split rows into two parts, stratified by class.

    Args:
        labels (`Sequence[int | str]`): the class of each row.
        share (`float`): share of each class to take out, in (0, 1). At least one row of each class is taken out, unless
            the class has only one row.
        seed (`int`): seed of the random choice.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: sorted indices of the remaining rows, and of the rows that are taken out.
    """
    classes, cut = np.asarray(labels), []
    generator = np.random.default_rng(seed)
    for value in np.unique(classes):
        rows = generator.permutation(np.flatnonzero(classes == value))
        cut.append(rows[: max(round(share * len(rows)), 1) if len(rows) > 1 else 0])
    chosen = np.sort(np.concatenate(cut))
    return np.setdiff1d(np.arange(len(classes)), chosen), chosen
