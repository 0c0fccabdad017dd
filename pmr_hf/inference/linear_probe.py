"""Linear probes: how well a linear model reads the classes, labels or targets from the embeddings of one modality."""

import numpy as np

from ..model.targets import MULTI_LABEL, REGRESSION
from ..training.target_metrics import accuracy, mean_absolute_error, micro_f1
from .embed import Embedded


PROBE_ROWS = 10_000  # a linear probe is fitted to at most this many training rows


def probe_metric(problem_type: str, name: str, fitted: Embedded, tested: Embedded) -> float | None:
    """
    The metric of [`probe_guesses`]: accuracy, the micro F1 of several labels, or the mean absolute error in the user's
    units.
    """
    guesses = probe_guesses(problem_type, name, fitted, tested)
    if guesses is None:
        return None
    labels = tested.labels[tested.present[name]].cpu().numpy()
    if problem_type == REGRESSION:
        return mean_absolute_error(guesses, labels)
    return micro_f1(guesses, labels) if problem_type == MULTI_LABEL else accuracy(guesses, labels)


def probe_guesses(problem_type: str, name: str, fitted: Embedded, tested: Embedded) -> np.ndarray | None:
    """
    What a linear probe on the standardised embeddings of one modality predicts for the N rows that have it.

    Args:
        problem_type (`str`): one of [`~pmr_hf.model.targets.PROBLEM_TYPES`].
        name (`str`): the modality.
        fitted (`Embedded`): the rows that the probe is fitted to.
        tested (`Embedded`): the rows to predict.

    Returns:
        `np.ndarray | None`: the classes (N,) of logistic regression; the labels (N, K) of one logistic regression for
        each, where a label that all rows or none have stays as it is; or the targets (N,) or (N, R) of ridge
        regression, in the user's units. `None` if all rows to fit have the same labels.
    """
    from sklearn.linear_model import Ridge  # slow to import
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = _present(fitted, name), fitted.labels[fitted.present[name]].cpu().numpy()
    x_test = _present(tested, name)
    if len(y) == 0 or (y == y[:1]).all():
        return None
    if problem_type == REGRESSION:
        return make_pipeline(StandardScaler(), Ridge()).fit(x, y).predict(x_test)
    if problem_type == MULTI_LABEL:
        return np.stack([_classified(x, of_label, x_test) for of_label in y.T], 1)
    return _classified(x, y, x_test)


def _present(data: Embedded, name: str) -> np.ndarray:
    """The embeddings of the rows that have a modality, (N, D)."""
    return data.embeddings[name][data.present[name]].float().cpu().numpy()


def _classified(x: np.ndarray, y: np.ndarray, x_test: np.ndarray) -> np.ndarray:
    """The classes of other rows by logistic regression."""
    from sklearn.linear_model import LogisticRegression  # slow to import
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if (y == y[0]).all():
        return np.full(len(x_test), y[0])
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, y).predict(x_test)
