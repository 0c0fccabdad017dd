"""
The metrics of an evaluation, of the fused logits and of each modality alone, by problem type.

`target_metrics.py` computes them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from transformers import EvalPrediction

from ..model.targets import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from .target_metrics import accuracy, macro_f1, mean_absolute_error, micro_f1, multi_label_metrics, regression_metrics


# The metrics of the fused logits, by problem type
METRIC_NAMES = {
    SINGLE_LABEL: ("accuracy", "macro_f1"),
    MULTI_LABEL: ("micro_f1", "macro_f1", "mAP", "subset_accuracy"),
    REGRESSION: ("mae", "rmse", "r2"),
}


def modality_metrics(
    prediction: EvalPrediction,
    compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
    problem_type: str = SINGLE_LABEL,
    target_names: Sequence[str] | None = None,
) -> dict[str, float]:
    """
    Compute the metrics of the fused logits, and that of each modality alone, see `METRIC_NAMES`.

    Args:
        prediction (`EvalPrediction`): the predictions and labels of the whole dataset. The predictions are a dict. If
            the model returns logits, `logits` are (N, K), or (N, T, K) for segments. Every other key names a metric,
            and its value holds the predicted classes, (N,) or (N, T), with -1 for a sample that lacks the modality. The
            labels are (N,) or (N, T), with -100 for a segment without a label. Of several labels, classes and labels
            are 0 or 1, (N, K). In a regression, predictions are numbers (N, R), NaN for a sample that lacks the
            modality, and labels (N,) or (N, R).
        compute_metrics (`Callable`, *optional*): computes the metrics of the fused logits. By default, they are those
            of the problem type.
        problem_type (`str`, *optional*): one of [`~pmr_hf.model.targets.PROBLEM_TYPES`].
        target_names (`Sequence[str]`, *optional*): the names of several targets of a regression, to add those of each.

    Returns:
        `dict[str, float]`: the metrics. Those without any labelled sample are left out.
    """
    predictions: dict[str, Any] = {**prediction.predictions}
    labels, logits = np.asarray(prediction.label_ids), predictions.pop("logits", None)
    metrics: dict[str, float] = {}
    if logits is not None and compute_metrics is not None:
        fused = EvalPrediction(logits, labels, inputs=prediction.inputs, losses=prediction.losses)
        metrics |= compute_metrics(fused)
    elif logits is not None and logits.ndim < 2 and problem_type != REGRESSION:
        raise ValueError(
            f"Expected fused logits (N, K) to compute the metrics from, got {logits.shape} from "
            "`preprocess_logits_for_metrics`; pass a `compute_metrics` that takes them."
        )
    elif logits is not None and problem_type == MULTI_LABEL:
        metrics |= multi_label_metrics(logits, labels)
    elif logits is not None and problem_type == REGRESSION:
        metrics |= regression_metrics(logits, labels, target_names)
    elif logits is not None and (labels >= 0).any():
        labelled = labels >= 0
        pair = logits.argmax(-1)[labelled], labels[labelled]
        metrics |= {"accuracy": accuracy(*pair), "macro_f1": macro_f1(*pair)}
    for key, classes in predictions.items():
        if problem_type != SINGLE_LABEL:
            known = classes.min(1) >= 0 if problem_type == MULTI_LABEL else np.isfinite(classes).all(1)
            if known.any():
                metric = micro_f1 if problem_type == MULTI_LABEL else mean_absolute_error
                metrics[key] = metric(classes[known], labels[known])
            continue
        known = (classes >= 0) & (labels >= 0)
        if known.any():
            metrics[key] = accuracy(classes[known], labels[known])
    return metrics
