"""Calibration: the temperature that fits a model's logits to labelled rows, and measures of calibration."""

import math

import numpy as np
import torch

from ..model.targets import MULTI_LABEL, REGRESSION, SINGLE_LABEL


LOWEST, HIGHEST = 1e-2, 1e2  # the range in which a temperature is searched


def labelled_rows(problem_type: str, labels: torch.Tensor) -> torch.Tensor:
    """Which rows (N,) have a label."""
    if problem_type == SINGLE_LABEL:
        return labels >= 0
    known = labels.isfinite() if problem_type == REGRESSION else labels >= 0
    return known.reshape(len(labels), -1).all(1)


def fit_temperature(problem_type: str, logits: torch.Tensor, labels: torch.Tensor) -> float:
    """
    The temperature T that minimises the negative log-likelihood of labels, with `logits / T` (Guo et al., "On
    Calibration of Modern Neural Networks", ICML 2017, section 4.2). It is the same in each run.

    The search is by Brent's method over log T in fp64, from 0.01 to 100. The likelihood has one maximum over T, since
    it is concave in 1 / T.

    Args:
        problem_type (`str`): one class, or several labels, whose binary likelihoods are averaged.
        logits (`torch.Tensor`): (N, K).
        labels (`torch.Tensor`): (N,) classes, or (N, K) of 0 and 1.

    Raises:
        ValueError: for a regression, for no rows, and if no temperature in the range is best: the model makes no
            mistake on these rows, or knows nothing of them.
    """
    from scipy.optimize import minimize_scalar  # slow to import

    if problem_type == REGRESSION:
        raise ValueError(
            "Expected a model of classes or labels to calibrate, got a regression, which has no probabilities; leave "
            "this call out."
        )
    logits, labels = logits.double().cpu(), labels.cpu()
    if problem_type == SINGLE_LABEL:
        # No temperature helps where the true class has probability 0, such as one without a prototype.
        possible = logits.gather(1, labels[:, None])[:, 0].isfinite()
        logits, labels = logits[possible], labels[possible]
    if len(labels) == 0:
        raise ValueError(
            "Expected labelled rows that the fused logits answer, got none; give rows with labels and all modalities."
        )

    def loss(log_t: float) -> float:
        return nll(problem_type, logits / math.exp(log_t), labels)

    ends = (math.log(LOWEST), math.log(HIGHEST))
    best = minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-6}).x
    if min(best - ends[0], ends[1] - best) < 1e-3:
        reason = "makes no mistake on" if best < 0 else "knows nothing of"
        raise ValueError(
            f"Expected a best temperature between {LOWEST} and {HIGHEST}, got none: the model {reason} these "
            f"{len(labels)} rows; give more or other rows, or leave the calibration out."
        )
    return math.exp(best)


def nll(problem_type: str, logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The mean negative log-likelihood, in nats, of labels under logits (N, K): over rows, and over several labels."""
    if problem_type == MULTI_LABEL:
        loss = torch.nn.functional.binary_cross_entropy_with_logits
        return loss(logits, labels.to(logits.dtype)).item()
    return torch.nn.functional.cross_entropy(logits, labels).item()


def reliability_bins(confidences: np.ndarray, right: np.ndarray, bins: int = 15) -> list[tuple[int, float, float]]:
    """
    The number of samples, their mean confidence and the share that is right, for each bin of equal width over [0, 1].

    A bin has its upper end and not its lower one, but for the first one, which has both. An empty bin has zeros.

    Args:
        confidences (`np.ndarray`): (N,) in [0, 1].
        right (`np.ndarray`): (N,) of 0 and 1.
        bins (`int`, *optional*, defaults to 15): number of bins.
    """
    places = np.clip(np.ceil(confidences.astype(np.float64) * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    sums = [np.bincount(places, weights=values, minlength=bins) for values in (confidences, right)]
    means = [np.divide(total, counts, out=np.zeros(bins), where=counts > 0) for total in sums]
    return list(zip(counts.tolist(), means[0].tolist(), means[1].tolist(), strict=True))


def expected_calibration_error(bins: list[tuple[int, float, float]]) -> float:
    """
    The mean over samples of |accuracy - confidence| of their bin, in [0, 1], from [`reliability_bins`] (Guo et al.,
    2017, Eq. 3).
    """
    rows = sum(count for count, _, _ in bins)
    return sum(count * abs(accuracy - confidence) for count, confidence, accuracy in bins) / max(rows, 1)
