"""The scores of rows and the error of a paired difference, against McNemar's formula, scikit-learn and resampling."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from pmr_hf.diagnosis.diagnose import findings_of
from pmr_hf.diagnosis.measure import Measured, averaged, difference, row_scores


CLASSES, LABELS = "single_label_classification", "multi_label_classification"


def test_the_error_of_a_difference_of_accuracies_is_that_of_mcnemar():
    labels = np.arange(20) % 4
    wrong = (labels + 1) % 4
    # Of 20 rows, both get 8 right, only the first 7, only the second 2, none 3.
    first = np.where(np.arange(20) < 15, labels, wrong)
    second = np.where((np.arange(20) < 8) | (np.arange(20) >= 18), labels, wrong)
    found = difference(row_scores(CLASSES, first, labels), row_scores(CLASSES, second, labels))
    assert found.value == pytest.approx((7 - 2) / 20)
    assert found.error == pytest.approx(math.sqrt(7 + 2 - (7 - 2) ** 2 / 20) / 20)


def test_the_error_of_a_difference_of_micro_f1_is_that_of_resampled_rows():
    draw = np.random.default_rng(0)
    labels = (draw.random((400, 5)) < 0.3).astype(float)
    first = np.where(draw.random(labels.shape) < 0.1, 1 - labels, labels)
    second = np.where(draw.random(labels.shape) < 0.15, 1 - first, first)  # many mistakes are those of the first
    found = difference(row_scores(LABELS, first, labels), row_scores(LABELS, second, labels))

    def apart(rows):
        scores = [f1_score(labels[rows], guesses[rows], average="micro") for guesses in (first, second)]
        return scores[0] - scores[1]

    assert found.value == pytest.approx(apart(slice(None)))
    resampled = np.std([apart(draw.integers(0, 400, 400)) for _ in range(300)])
    assert found.error == pytest.approx(resampled, rel=0.15)  # 300 draws have a standard error of 4 percent


def test_the_mean_is_over_the_modalities_that_a_row_has():
    def alone(name, probabilities, has):
        return Measured(None, torch.tensor(probabilities), {name: torch.tensor(has)}, np.array([0, 1, 1]), {}, {}, {})

    both = {
        "a": alone("a", [[0.6, 0.4], [0.9, 0.1], [0.9, 0.1]], [True, True, False]),
        "b": alone("b", [[0.3, 0.7], [0.2, 0.8], [0.2, 0.8]], [True, True, True]),
    }
    # The means are (0.45, 0.55), (0.55, 0.45), and (0.2, 0.8) of b alone.
    assert averaged(CLASSES, both).hits.tolist() == [False, False, True]


def test_a_modality_is_compared_with_all_jointly_on_the_rows_that_have_it():
    """Alone it gets 2 of its 3 rows right, and joint training 1 of them. Rows 3 to 5 lack it."""
    has, labels = torch.tensor([True] * 3 + [False] * 3), np.zeros(6, dtype=int)

    def one(right):
        scores = row_scores(CLASSES, 1 - np.array(right), labels)
        part = {"a": row_scores(CLASSES, labels[:3], labels[:3])}
        return Measured(scores, torch.zeros(6, 2), {"a": has}, labels, part, part, {"a": 0.0})

    found = findings_of("a", one([1, 1, 0, 0, 0, 0]), one([1, 0, 0, 1, 1, 1]), [(1.0, 0.5)])
    assert found.alone == pytest.approx(2 / 3) and found.above_joint.value == pytest.approx(1 / 3)
    assert found.above_joint.error == pytest.approx(math.sqrt(1 - 1 / 3) / 3)


def test_no_label_at_all():
    nothing = row_scores(LABELS, np.zeros((3, 2)), np.zeros((3, 2)))
    assert nothing.metric == 0 and difference(nothing, nothing).error == 0
