"""Evaluation metrics: of the fused logits, and of each modality alone."""

from collections.abc import Callable

from transformers import EvalPrediction

from .metrics import Accuracy, MacroF1


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
    predictions, labels = dict(prediction.predictions), prediction.label_ids
    logits = predictions.pop("logits", None)
    metrics = {}
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
