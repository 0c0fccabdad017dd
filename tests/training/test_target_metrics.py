"""The metrics of several labels and of a regression, against those of scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn import metrics as sk
from transformers import EvalPrediction

from pmr_hf.training.metrics import modality_metrics
from pmr_hf.training.target_metrics import multi_label_metrics, regression_metrics


def test_several_labels_are_those_of_scikit_learn():
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(50, 4)), generator.integers(0, 2, (50, 4)).astype(np.float32)
    found, guesses = multi_label_metrics(logits, labels), logits > 0
    assert found == {
        "micro_f1": pytest.approx(sk.f1_score(labels, guesses, average="micro")),
        "macro_f1": pytest.approx(sk.f1_score(labels, guesses, average="macro")),
        "subset_accuracy": pytest.approx(sk.accuracy_score(labels, guesses)),
        "mAP": pytest.approx(sk.average_precision_score(labels, logits, average="macro")),
    }


def test_labels_that_no_sample_has_do_not_count():
    logits, labels = np.array([[2.0, -1, -1], [-1, -1, -1]]), np.array([[1.0, 0, 0], [1, 0, 0]])
    found = multi_label_metrics(logits, labels)  # of the first label, one of two is found
    assert found == {
        "micro_f1": pytest.approx(2 / 3),
        "macro_f1": pytest.approx(2 / 3),
        "subset_accuracy": 0.5,
        "mAP": 1,
    }
    nothing = multi_label_metrics(-np.ones((2, 3)), np.zeros((2, 3)))
    assert nothing == {"micro_f1": 0, "macro_f1": 0, "subset_accuracy": 1}


def test_a_regression_is_that_of_scikit_learn():
    generator = np.random.default_rng(0)
    targets = generator.normal(size=(40, 3)) * [1, 10, 100]
    predictions = targets + generator.normal(size=(40, 3))
    assert regression_metrics(predictions.astype(np.float32), targets) == {
        "mae": pytest.approx(sk.mean_absolute_error(targets, predictions), rel=1e-5),
        "rmse": pytest.approx(sk.root_mean_squared_error(targets, predictions), rel=1e-5),
        "r2": pytest.approx(sk.r2_score(targets, predictions), rel=1e-5),
    }
    of_each = regression_metrics(predictions, targets, ["a", "b", "c"])
    assert of_each["mae_b"] == pytest.approx(np.abs(predictions[:, 1] - targets[:, 1]).mean())
    assert of_each["r2_c"] == pytest.approx(sk.r2_score(targets[:, 2], predictions[:, 2]))
    assert regression_metrics(np.array([[1.0], [3]]), np.array([2.0, 2])) == {"mae": 1, "rmse": 1}


def test_a_modality_counts_the_samples_that_have_it():
    labels = np.array([[1.0, 0], [0, 1], [1, 1]])
    predictions = {"logits": np.ones((3, 2)), "image_micro_f1": np.array([[1, 0], [-1, -1], [0, 0]])}
    found = modality_metrics(EvalPrediction(predictions, labels), problem_type="multi_label_classification")
    assert found["image_micro_f1"] == pytest.approx(2 * 1 / (1 + 3))
    predictions = {"logits": np.ones((3, 1)), "image_mae": np.array([[3.0], [np.nan], [1]])}
    found = modality_metrics(EvalPrediction(predictions, np.array([1.0, 5, 1])), problem_type="regression")
    assert found["image_mae"] == 1 and found["mae"] == pytest.approx(4 / 3)
