"""Accuracy and macro F1."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from pmr_hf import Accuracy, MacroF1
from pmr_hf.training.target_metrics import accuracy, macro_f1


def test_accuracy_and_macro_f1_worked_by_hand():
    predictions, references = [0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 0, 2]
    assert Accuracy().compute(predictions=predictions, references=references) == {"accuracy": pytest.approx(4 / 6)}
    # class 0: precision 1/2, recall 1/2; class 1: 1, 1/2; class 2: 2/3, 1
    expected = (1 / 2 + 2 / 3 + 4 / 5) / 3
    assert MacroF1().compute(predictions=predictions, references=references) == {"macro_f1": pytest.approx(expected)}


def test_a_class_that_is_never_right_counts_as_zero():
    assert MacroF1().compute(predictions=[0, 0], references=[0, 1])["macro_f1"] == pytest.approx((2 / 3) / 2)


def test_batches_add_up():
    metric = Accuracy()
    metric.add_batch(predictions=np.array([0, 1]), references=np.array([0, 0]))
    metric.add_batch(predictions=np.array([2]), references=np.array([2]))
    assert metric.compute()["accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("classes", [2, 7])
def test_those_of_scikit_learn(classes):
    random = np.random.default_rng(classes)
    guesses, labels = random.integers(0, classes, 40), random.integers(0, classes + 3, 40)  # some are never guessed
    assert accuracy(guesses, labels) == pytest.approx(accuracy_score(labels, guesses))
    assert macro_f1(guesses, labels) == pytest.approx(f1_score(labels, guesses, average="macro", zero_division=0))
