"""Classification metrics as `evaluate.Metric`s that load without a hub."""

import datasets
import evaluate
import numpy as np

from .target_metrics import accuracy, macro_f1


class _ClassificationMetric(evaluate.Metric):
    """Base class. `keep_in_memory` keeps the processes from sharing a cache file."""

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
    """
    The fraction of correct predictions, in [0, 1]. `Accuracy().compute(predictions=..., references=...)["accuracy"]`
    takes predicted and true classes, (N,) integers each.
    """

    def _compute(self, predictions, references):
        return {"accuracy": accuracy(np.asarray(predictions), np.asarray(references))}


class MacroF1(_ClassificationMetric):
    """
    The F1 score averaged over the classes that are predicted or true, in [0, 1].
    `MacroF1().compute(predictions=..., references=...)["macro_f1"]` takes (N,) integers each.
    """

    def _compute(self, predictions, references):
        return {"macro_f1": macro_f1(np.asarray(predictions), np.asarray(references))}
