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
    known, true = (collator.convert_labels(labels_in(split, collator.label)).numpy() for split in (train, rows))
    if collator.problem_type == SINGLE_LABEL:
        return float((true == np.bincount(known).argmax()).mean())
    if collator.problem_type == REGRESSION:
        median = np.median(known, axis=0)
        return mean_absolute_error(np.broadcast_to(median, true.shape), true)
    return micro_f1(np.broadcast_to(known.mean(0) > 0.5, true.shape), true)
