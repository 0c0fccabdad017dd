"""Evaluation metrics of the fused logits and of each modality alone."""

from collections.abc import Callable

from transformers import EvalPrediction

from .metrics import Accuracy, MacroF1


def modality_metrics(
    prediction: EvalPrediction, compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None
) -> dict[str, float]:
    """
    Compute the metrics of the fused logits, and the accuracy of each modality alone.

    Args:
        prediction (`EvalPrediction`): the predictions and labels of the whole dataset. The predictions are a dict. If
            the model returns logits, `logits` are (N, K), or (N, T, K) for segments. Every other key names an accuracy,
            and its value holds the predicted classes, (N,) or (N, T), with -1 for a sample that lacks the modality. The
            labels are (N,) or (N, T), with -100 for a segment without a label.
        compute_metrics (`Callable`, *optional*): computes the metrics of the fused logits. Accuracy and macro F1 by
            default.

    Returns:
        `dict[str, float]`: the metrics. Accuracies without any labelled sample are left out.
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
