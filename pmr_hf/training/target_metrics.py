"""Metrics of one class, of several labels, and of a regression."""

from collections.abc import Sequence

import numpy as np


def accuracy(guesses: np.ndarray, labels: np.ndarray) -> float:
    """The share of right guesses, in [0, 1], from classes (N,)."""
    return float((guesses == labels).mean())


def macro_f1(guesses: np.ndarray, labels: np.ndarray) -> float:
    """The F1 score averaged over the classes that are guessed or true, in [0, 1], from classes (N,)."""
    classes = 1 + max(guesses.max(), labels.max())
    both = np.bincount(labels[guesses == labels], minlength=classes)
    found = np.bincount(guesses, minlength=classes) + np.bincount(labels, minlength=classes)
    return mean_f1(both, found)


def mean_f1(both: np.ndarray, found: np.ndarray) -> float:
    """
    The mean F1 score of the classes that are guessed or true, and 0 if there is none, from `both` (K,), how often each
    is guessed and true, and `found` (K,), how often it is guessed plus how often it is true.
    """
    scores = 2 * both[found > 0] / found[found > 0]
    return float(scores.mean()) if len(scores) else 0.0


def multi_label_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """
    The metrics of several labels, in [0, 1]. A label is predicted if its probability is above 0.5.

    Args:
        logits (`np.ndarray`): (N, K), whose sigmoid is the probability of each label.
        labels (`np.ndarray`): (N, K), 0 or 1.

    Returns:
        `dict[str, float]`: `micro_f1` over all labels of all samples; `macro_f1`, the mean over the labels that are
        predicted or true; `subset_accuracy`, the share of samples whose labels are all right; and `mAP`, the mean
        average precision of the labels that some sample has, left out if there are none.
    """
    from sklearn.metrics import average_precision_score  # slow to import

    labels, guesses = labels.astype(int), (logits > 0).astype(int)
    metrics = {
        "micro_f1": micro_f1(guesses, labels),
        "macro_f1": mean_f1((labels & guesses).sum(0), (labels + guesses).sum(0)),
        "subset_accuracy": float((guesses == labels).all(1).mean()),
    }
    precisions = [average_precision_score(labels[:, k], logits[:, k]) for k in np.flatnonzero(labels.any(0))]
    if precisions:
        metrics["mAP"] = float(np.mean(precisions))
    return metrics


def micro_f1(guesses: np.ndarray, labels: np.ndarray) -> float:
    """The F1 score over all labels of all samples, in [0, 1], from 0 or 1 (N, K). It is 0 if no label is right."""
    both = 2 * np.logical_and(guesses, labels).sum()
    return float(both / max((guesses != 0).sum() + (labels != 0).sum(), 1))


def regression_metrics(
    predictions: np.ndarray, targets: np.ndarray, names: Sequence[str] | None = None
) -> dict[str, float]:
    """
    The metrics of a regression: `mae` and `rmse` in the user's units, and `r2`, at most 1. Of several targets, each is
    the mean. Targets that are the same in all samples are left out of `r2`.

    Args:
        predictions (`np.ndarray`): (N, R).
        targets (`np.ndarray`): (N, R), or (N,) for one target.
        names (`Sequence[str]`, *optional*): the names of several targets, to add those of each, such as `mae_weight`.
    """
    predictions = predictions.astype(np.float64)
    targets = targets.reshape(predictions.shape).astype(np.float64)
    squares = ((predictions - targets) ** 2).mean(0)  # (R,)
    variances = targets.var(0)
    metrics = {"mae": mean_absolute_error(predictions, targets), "rmse": float(np.sqrt(squares).mean())}
    if variances.any():
        metrics["r2"] = float((1 - squares[variances > 0] / variances[variances > 0]).mean())
    for i, name in enumerate(names or ()):
        one = regression_metrics(predictions[:, [i]], targets[:, i])
        metrics |= {f"{metric}_{name}": value for metric, value in one.items()}
    return metrics


def mean_absolute_error(predictions: np.ndarray, targets: np.ndarray) -> float:
    """The mean absolute error of predictions (N, R) for targets (N, R) or (N,), in the user's units."""
    return float(np.abs(predictions - targets.reshape(predictions.shape)).mean())
