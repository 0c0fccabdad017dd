"""Class labels: conversion to integers for a batch, encoding of the values of a table, and stratified splits."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Value
from transformers.utils import logging

from .columns import ROW, names_of_ids, whole_column


logger = logging.get_logger(__name__)

NO_LABEL = -100  # the label of a segment without one, which torch's cross entropy ignores
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
WHOLE = re.compile(r"^([+-]?\d+)\.0+$", re.ASCII)
MOST_MEASURED = 10  # up to so many different values may be classes, even with decimals


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
        way_out = "map your classes to integers before splitting, for instance with `dataset.class_encode_column`, and "
        way_out += "drop rows without one"
        if not segments and isinstance(wrong, (list, np.ndarray)):
            way_out = "give each row one class; labels of segments (B, T) need a model that is not a MultimodalModel, "
            way_out += "and several labels per row need problem_type='multi_label_classification'"
        raise ValueError(
            f"Expected integer labels 0..K-1, got {wrong!r:.80} of type {type(wrong).__name__}; {way_out}."
        )
    labelled = values[values != NO_LABEL] if values.ndim == 2 else values
    if num_labels is not None and labelled.size and not 0 <= labelled.min() <= labelled.max() < num_labels:
        raise ValueError(
            f"Expected labels in 0..{num_labels - 1}, got labels from {labelled.min()} to {labelled.max()}; set the "
            "model's `num_labels` to the number of classes, or correct the labels."
        )
    return torch.tensor(values, dtype=torch.long)


def encode_labels(splits: dict[str, Dataset], label: str) -> dict[str, Dataset]:
    """
    Encode the column `label` of all splits as one `ClassLabel` with the classes of the training split. A test split
    without labels is left out.

    Blanks around the text of a label do not count, nor does how Unicode composes its letters. A label of another split
    is a class of the training split if it has the same text, or is the same number or truth value, as 1.0 is 1 and true
    is True.

    Raises:
        ValueError: for rows without a label, a class that the training split lacks or that is written in two ways, a
            training split of a single class, or a column that does not hold classes.
    """
    feature = splits["train"].features[label]
    if not isinstance(feature, (ClassLabel, Value)) or "binary" in feature.dtype:
        raise ValueError(
            f"Expected one label per row in column {label!r}, got {feature!s:.80}; name a column of classes."
        )
    ids = feature.names if isinstance(feature, ClassLabel) else []
    texts = {name: _label_texts(split, label, ids) for name, split in splits.items()}
    if "test" in texts and not any(texts["test"]):
        logger.warning("The test split has no labels: it is left out.")
        del texts["test"]
    labels = {name: _all_labelled(values, splits[name], label) for name, values in texts.items()}
    classes = ids or sorted(set(labels["train"]), key=_by_number)
    _check_classes(classes, labels["train"], label, declared=bool(ids))
    encoded = {}
    for name, values in labels.items():
        of_text = _class_of_each_text(set(values), classes, name)
        column = np.array([of_text[text] for text in values])
        encoded[name] = splits[name].remove_columns(label).add_column(label, column, feature=ClassLabel(names=classes))
    return encoded


def _label_texts(split: Dataset, label: str, ids: list[str]) -> list[str | None]:
    """
    The label of each row as a text, `None` for a missing one. A split may number the classes in its own way. Whole
    numbers without names are indices into `ids`, the class names of the training split, if it has names.
    """
    feature, values = split.features[label], whole_column(split, label).to_pylist()
    if isinstance(feature, ClassLabel):
        return names_of_ids(feature, values)
    if isinstance(feature, Value) and "int" in feature.dtype and ids:
        return [None if i is None else ids[i] if 0 <= i < len(ids) else str(i) for i in values]
    texts = {value: None if value is None or value != value else label_text(value) for value in set(values)}
    return [texts[value] or None for value in values]


def label_text(value: Any) -> str:
    """A label as the text by which labels are compared: without blanks around it, and with composed letters (NFC)."""
    return unicodedata.normalize("NFC", str(value)).strip()


def _all_labelled(texts: list[str | None], split: Dataset, label: str) -> list[str]:
    """The labels, if no row lacks one."""
    found = [text for text in texts if text is not None]
    if len(found) < len(texts):
        raise ValueError(
            f"Expected a label in column {label!r} of every row, but {len(texts) - len(found)} have none, first "
            f"{split[texts.index(None)][ROW]}; drop these rows."
        )
    return found


def _class_of_each_text(texts: set[str], classes: list[str], split: str) -> dict[str, int]:
    """The class of each label of a split."""
    of_text = {name: i for i, name in enumerate(classes)}
    of_number = {written_short(name): i for name, i in of_text.items()}
    found = {text: of_text.get(text, of_number.get(written_short(text))) for text in texts}
    unknown = sorted(text for text, i in found.items() if i is None)
    if unknown:
        raise ValueError(
            f"Expected the classes of the training split in {split}, got {unknown[:5]} too; add training rows of "
            "these classes, or drop the rows."
        )
    return {text: i for text, i in found.items() if i is not None}


def _check_classes(classes: list[str], labels: list[str], label: str, declared: bool) -> None:
    """
    Raise `ValueError` for labels of the training split that are no classes. `declared` says that the dataset itself
    names the classes.
    """
    used = set(labels)
    if len(used) == 1:
        raise ValueError(
            f"Expected at least two classes in column {label!r} of the training split, got only {labels[0]!r}; add "
            "rows of another class, or name another column."
        )
    if declared:
        return
    check_written_once(f"class of column {label!r}", classes)
    measured = all(NUMBER.fullmatch(name) for name in classes) and any(not float(name).is_integer() for name in classes)
    if len(classes) > MOST_MEASURED and (measured or len(classes) > len(labels) / 2):
        values = "different numbers" if measured else "different values"
        raise ValueError(
            f"Expected classes in column {label!r}, got {len(classes)} {values} in {len(labels)} rows, such as "
            f"{classes[0]!r} and {classes[1]!r}; set problem_type='regression' (--problem_type regression) to predict "
            "numbers, name a column of classes, or put the values into a few ranges."
        )


def _by_number(name: str) -> tuple[bool, float, str]:
    """The order of classes: numbers by their size, then other texts."""
    number = NUMBER.fullmatch(name) is not None
    return not number, float(name) if number else 0.0, name


def check_written_once(what: str, names: Sequence[str]) -> None:
    """Raise `ValueError` if two names are [`written_short`] alike. `what` says of what they are, for the message."""
    written: dict[str, str] = {}
    for name in names:
        same = written.setdefault(written_short(name), name)
        if same != name:
            raise ValueError(
                f"Expected each {what} to be written in one way, got {same!r} and {name!r}; write one of them in all "
                "rows."
            )


def written_short(label: Any) -> str:
    """The [`label_text`] of a label, where a whole number has no decimals, such as 1 for 1.0, and True is true."""
    text = label_text(label)
    return text.lower() if text.lower() in ("true", "false") else WHOLE.sub(r"\1", text)


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
