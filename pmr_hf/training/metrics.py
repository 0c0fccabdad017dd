"""Classification metrics as `evaluate.Metric`s that load without a hub."""

import datasets
import evaluate
import numpy as np
from sklearn.metrics import f1_score


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
