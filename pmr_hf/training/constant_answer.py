"""The metric of a constant answer, which a model must beat."""

import numpy as np
from datasets import Dataset

from ..data.collator import MultimodalCollator
from ..data.columns import labels_in
from ..model.targets import REGRESSION, SINGLE_LABEL
from .target_metrics import mean_absolute_error, micro_f1


def constant_answer(collator: MultimodalCollator, train: Dataset, rows: Dataset) -> float:
    """
    The metric on `rows` of one answer for all of them, which the training rows give: the accuracy of the most frequent
    class; the micro F1 of the labels that most rows have; or the mean absolute error of the median of each number.
    """
    true = _labels_of(collator, rows)
    guess = np.broadcast_to(constant_guess(collator, train), true.shape)
    if collator.problem_type == SINGLE_LABEL:
        return float((guess == true).mean())
    return mean_absolute_error(guess, true) if collator.problem_type == REGRESSION else micro_f1(guess, true)


def constant_guess(collator: MultimodalCollator, train: Dataset) -> np.ndarray:
    """The most frequent class (); the labels (K,) that most rows have; or the median of each number, () or (R,)."""
    known = _labels_of(collator, train)
    if collator.problem_type == SINGLE_LABEL:
        return np.bincount(known).argmax()
    return np.median(known, axis=0) if collator.problem_type == REGRESSION else known.mean(0) > 0.5


def _labels_of(collator: MultimodalCollator, rows: Dataset) -> np.ndarray:
    return collator.convert_labels(labels_in(rows, collator.label)).numpy()
