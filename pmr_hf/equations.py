"""
The equations of the loss of Prototypical Modal Rebalance (PMR). Each is one function, which training or a report calls.

Fan, Xu, Wang, Wang, Guo, "PMR: Prototypical Modal Rebalance for Multimodal Learning", CVPR 2023 (arXiv 2211.07089).
Eqs. 6 and 12, the class means and their update, are in `model/prototypes.py`; Eq. 7, the prototype classifier, is in
`model/distance.py`. All functions are pure and never wait for the device. All but `ratio_of_two` work on tensors.
"""

import torch


def ratio_of_two(first: float, second: float) -> float:
    """The imbalance ratio rho (Eq. 8), at least 0: the score of the first modality over the score of the second."""
    return first / second


def imbalance_ratio(scores: torch.Tensor) -> torch.Tensor:
    """
    The imbalance ratios rho^m = s^m / min_l s^l (Eq. 8 for M modalities). Takes scores (M,) and returns (M,), at least
    1.
    """
    scores = _positive(scores)
    return scores / scores.min()


def prototypical_cross_entropy(log_probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    The prototypical cross entropy -log p_i(y_i) of each sample, in nats. Its mean over a batch is PCE (Eq. 9).

    Args:
        log_probabilities (`torch.Tensor`): (..., B, K), log-probabilities of the prototype classifier.
        labels (`torch.Tensor`): (B,) int64 classes.

    Returns:
        `torch.Tensor`: (..., B).
    """
    classes = labels.expand(log_probabilities.shape[:-1])[..., None]
    return -log_probabilities.gather(-1, classes).squeeze(-1)


def true_class_probability(cross_entropy: torch.Tensor) -> torch.Tensor:
    """The probability p_i(y_i) of each sample's true class (Eq. 8), in [0, 1], from -log p_i(y_i) of any shape."""
    return (-cross_entropy).exp()


def prototypical_entropy(log_probabilities: torch.Tensor) -> torch.Tensor:
    """
    The entropy H(p_i) of each sample (Eq. 13), in [0, log K] nats. Takes log-probabilities (..., B, K) of the prototype
    classifier and returns (..., B).
    """
    return -(log_probabilities.exp() * log_probabilities).sum(-1)


def masked_mean(values: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """The mean (...) of the values (..., B) that the bool mask (..., B) keeps. It is 0 if the mask keeps none."""
    if mask is None:
        return values.mean(-1)
    return torch.where(mask, values, 0).sum(-1) / mask.sum(-1).clamp(min=1)


def rebalance_weights(scores: torch.Tensor, present: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The weights of the PCE terms and of the entropy terms (Eq. 11 and its form for M modalities).

    The weight of PCE is a^m = clip(max_l s^l / s^m - 1, 0, 1), which accelerates the slow modalities. The weight of the
    entropy is e^m = clip(s^m / min_l s^l - 1, 0, 1), which holds the dominant modalities back. For two modalities,
    these weights are beta and gamma of Eqs. 10, 11 and 13.

    Args:
        scores (`torch.Tensor`): (M,), s^m, the mean true-class probability of modality m, in [0, 1].
        present (`torch.Tensor`, *optional*): (M,) bool, the modalities that the batch has; all by default. An absent
            modality has weight 0 and is not compared with the others.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: PCE weights (M,) and entropy weights (M,), in [0, 1] and without gradient.
    """
    scores = _positive(scores)
    present = torch.ones_like(scores, dtype=torch.bool) if present is None else present.bool()
    highest = torch.where(present, scores, 0).max()
    lowest = torch.where(present, scores, torch.inf).min()
    pce_weights = (highest / scores - 1).clamp(0, 1)
    per_weights = (scores / lowest - 1).clamp(0, 1)
    return torch.where(present, pce_weights, 0), torch.where(present, per_weights, 0)


def rebalancing_terms(
    pce: torch.Tensor,
    entropy: torch.Tensor,
    counted: torch.Tensor,
    shares: torch.Tensor,
    pce_weights: torch.Tensor,
    per_weights: torch.Tensor,
    alpha: float,
    mu: float,
) -> torch.Tensor:
    """
    The terms that PMR adds to the loss, alpha * sum_m a^m PCE^m - mu * sum_m e^m H^m (Eqs. 10 and 13 for M modalities).

    Args:
        pce (`torch.Tensor`): (M, B), [`prototypical_cross_entropy`] of each sample.
        entropy (`torch.Tensor`): (M, B), [`prototypical_entropy`] of each sample.
        counted (`torch.Tensor`): (M, B) bool, the samples that count.
        shares (`torch.Tensor`): (M,), the weight of one sample in the means PCE^m and H^m.
        pce_weights (`torch.Tensor`): (M,), a^m of [`rebalance_weights`].
        per_weights (`torch.Tensor`): (M,), e^m of [`rebalance_weights`].
        alpha (`float`): weight of the prototypical cross entropies, at least 0.
        mu (`float`): weight of the entropies, at least 0.

    Returns:
        `torch.Tensor`: a scalar.
    """
    a, e = (shares * alpha * pce_weights)[:, None], (shares * mu * per_weights)[:, None]
    return torch.where(counted, a * pce - e * entropy, 0).sum()


def _positive(scores: torch.Tensor) -> torch.Tensor:
    # A probability can underflow to 0. Two modalities with score 0 are balanced, so 0 / 0 must not give NaN.
    return scores.detach().float().clamp(min=torch.finfo(torch.float32).tiny)
