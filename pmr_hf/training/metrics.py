"""Classification metrics as `evaluate.Metric`s that load without a hub."""

from collections.abc import Callable
from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import f1_score
from transformers import EvalPrediction


class _ClassificationMetric(evaluate.Metric):
    """Base: predicted and true classes, (N,) integers each. `keep_in_memory`, so that processes share no cache file."""

    def __init__(self, **kwargs):
        super().__init__(keep_in_memory=True, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation="",
            inputs_description="predictions and references: class ids, (N,)",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )


class Accuracy(_ClassificationMetric):
    """`Accuracy().compute(predictions=..., references=...)["accuracy"]`: the share of right classes, in [0, 1]."""

    def _compute(self, predictions, references):
        return {"accuracy": float(np.mean(np.asarray(predictions) == np.asarray(references)))}


class MacroF1(_ClassificationMetric):
    """`MacroF1().compute(...)["macro_f1"]`: F1 averaged over the classes that occur in either list, in [0, 1]."""

    def _compute(self, predictions, references):
        return {"macro_f1": float(f1_score(references, predictions, average="macro", zero_division=0))}


def modality_metrics(
    prediction: EvalPrediction, compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None
) -> dict[str, float]:
    """
    Metrics of the fused logits, and the accuracy of each modality alone.

    Args:
        prediction (`EvalPrediction`): of the whole dataset. Its predictions are a dict of `logits` (N, K), or (N, T, K)
            of segments, if the model gives some, and of predicted classes (N,) or (N, T), by the key of their accuracy,
            -1 for a sample that lacks the modality. Labels are -100 for a segment without one.
        compute_metrics (`Callable`, *optional*): the metrics of the logits; accuracy and macro F1 by default.
    """
    predictions: dict[str, Any] = {**prediction.predictions}
    labels, logits = np.asarray(prediction.label_ids), predictions.pop("logits", None)
    metrics: dict[str, float] = {}
    if logits is not None and compute_metrics is not None:
        fused = EvalPrediction(logits, labels, inputs=prediction.inputs, losses=prediction.losses)
        metrics |= compute_metrics(fused)
    elif logits is not None and (labels >= 0).any():
        labelled = labels >= 0
        pair = {"predictions": logits.argmax(-1)[labelled], "references": labels[labelled]}
        metrics |= Accuracy().compute(**pair) | MacroF1().compute(**pair)
    for key, classes in predictions.items():
        known = (classes >= 0) & (labels >= 0)
        if known.any():
            metrics[key] = Accuracy().compute(predictions=classes[known], references=labels[known])["accuracy"]
    return metrics
