"""Measure a trained model row by row, so that two models can be compared on the same rows."""

import math
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset

from ..data.collator import MultimodalCollator
from ..data.tables import draw_rows
from ..inference.embed import embed
from ..inference.linear_probe import PROBE_ROWS, probe_guesses
from ..inference.modality_report import shares_of
from ..model.modeling import MultimodalModel
from ..model.targets import SINGLE_LABEL
from ..training.arguments import PrototypeTrainingArguments
from ..training.counted_samples import guesses_of
from .findings import Difference


class RowScores(NamedTuple):
    """
    What each of N rows adds to a metric, which is 2 * sum(hits) / sum(sizes): the accuracy of classes, since a row has
    one true and one predicted class, or the micro F1 of several labels.
    """

    hits: np.ndarray  # (N,) labels that are predicted and true
    sizes: np.ndarray  # (N,) predicted labels, and true ones

    @property
    def metric(self) -> float:
        """The metric over all rows, in [0, 1]. It is 0 if no row has a predicted or a true label."""
        return float(2 * self.hits.sum() / max(self.sizes.sum(), 1))

    def of(self, rows: np.ndarray) -> "RowScores":
        """The scores of some of the rows, by a mask (N,)."""
        return RowScores(self.hits[rows], self.sizes[rows])

    @property
    def influences(self) -> np.ndarray:
        """How far each row pulls the metric up or down, (N,). The mean is 0."""
        return (2 * self.hits - self.metric * self.sizes) * (len(self.sizes) / max(self.sizes.sum(), 1))


class Measured(NamedTuple):
    """What a model gets right on the evaluation rows."""

    fused: RowScores  # of all rows
    probabilities: torch.Tensor  # (N, K), of the classes or labels, by the fused answer
    present: dict[str, torch.Tensor]  # by modality, the rows that have it (N,)
    labels: np.ndarray  # (N,), or (N, K) of several labels
    prototypes: dict[str, RowScores]  # by modality, of the rows that have it
    probes: dict[str, RowScores]
    shares: dict[str, float]  # by modality; empty for a model of one


def row_scores(problem_type: str, guesses: np.ndarray, labels: np.ndarray) -> RowScores:
    """The scores of rows, from predicted and true classes (N,), or from predicted and true labels (N, K) of 0 or 1."""
    if problem_type == SINGLE_LABEL:
        return RowScores(guesses == labels, np.full(len(labels), 2))
    guesses, labels = guesses > 0, labels > 0
    return RowScores((guesses & labels).sum(1), guesses.sum(1) + labels.sum(1))


def difference(first: RowScores, second: RowScores) -> Difference:
    """
    The metric of one model minus that of another on the same N rows, with the standard error of a paired difference.

    For accuracies it is that of McNemar's test: `sqrt(b + c - (b - c)**2 / N) / N` for b and c rows that only the first
    or only the second model gets right. Micro F1 is a ratio of sums, whose error follows from the influences of the
    rows (the delta method), and accuracy is the case in which all sizes are equal.
    """
    apart = first.influences - second.influences
    return Difference(first.metric - second.metric, math.sqrt((apart**2).mean() / len(apart)))


@torch.inference_mode()
def measure(
    model: MultimodalModel,
    collator: MultimodalCollator,
    train: Dataset,
    rows: Dataset,
    args: PrototypeTrainingArguments,
) -> Measured:
    """
    Measure the fused answer, prototypes and linear probes of a model in evaluation mode on `rows`. The probes are
    fitted to rows of `train`. Raises `ValueError` for a modality that no row has, or whose training rows all have the
    same labels.
    """
    size, problem = args.per_device_eval_batch_size, model.config.problem
    fitted = embed(model, draw_rows(train, PROBE_ROWS, args.seed), collator, size, "Embedding training rows")
    tested = embed(model, rows, collator, size, "Embedding evaluation rows")
    labels = tested.labels.cpu().numpy()
    by_prototypes = model.prototypes(tested.embeddings)

    def guessed(logits: torch.Tensor) -> np.ndarray:
        return guesses_of("", logits, None, problem).cpu().numpy()

    prototypes, probes = {}, {}
    for name, mask in tested.present.items():
        there = mask.cpu().numpy()
        by_probe = probe_guesses(problem, name, fitted, tested) if there.any() else None
        if by_probe is None:
            raise ValueError(
                f"Expected evaluation rows that have {name!r}, and training rows of more than one class that have it, "
                f"got {there.sum()} of {len(there)} evaluation rows, {int(fitted.present[name].sum())} training rows; "
                "give other rows, or leave the modality out."
            )
        prototypes[name] = row_scores(problem, guessed(by_prototypes[name])[there], labels[there])
        probes[name] = row_scores(problem, by_probe, labels[there])
    logits = model.fuse(tested.embeddings, tested.present).float()
    probabilities = logits.softmax(1) if problem == SINGLE_LABEL else logits.sigmoid()
    shares = {name: share[f"{name}_share"] for name, share in shares_of(model, tested).items()}
    fused = row_scores(problem, guessed(logits), labels)
    return Measured(fused, probabilities, tested.present, labels, prototypes, probes, shares)


def averaged(problem_type: str, alone: dict[str, Measured]) -> RowScores:
    """The scores of the mean probability of models of one modality each, over the modalities that a row has."""
    masks = {name: one.present[name][:, None] for name, one in alone.items()}
    total = sum(one.probabilities * masks[name] for name, one in alone.items())
    mean = (total / sum(masks.values()).clamp(min=1)).cpu()
    guesses = mean.argmax(1) if problem_type == SINGLE_LABEL else mean > 0.5
    return row_scores(problem_type, guesses.numpy(), next(iter(alone.values())).labels)
