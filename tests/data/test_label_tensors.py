"""Labels of rows as tensors: several labels, and numbers."""

import numpy as np
import pytest
import torch

from pmr_hf.data.label_tensors import labels_tensor


NAMES = ["cat", "dog", "owl"]


def hot(labels, num_labels=3, names=NAMES):
    return labels_tensor("multi_label_classification", labels, num_labels, names).tolist()


def test_names_and_multi_hot_vectors():
    assert hot([["owl", "cat"], [], ["dog"]]) == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert hot([[1, 0, 1], np.array([0, 0, 0]), torch.tensor([0.0, 1, 0]), [True, False, False]]) == [
        [1, 0, 1],
        [0, 0, 0],
        [0, 1, 0],
        [1, 0, 0],
    ]
    assert hot([[1, 0]], num_labels=None, names=None) == [[1, 0]]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ([0, 2], r"zeros and ones, as the label of row 1, got \[0, 2\]; give names in place of ids"),
        ([2, 0, 1], "give names in place of ids"),
        (None, "the label of row 1, got None.*for a row without a label"),
        ("cat", "got 'cat'"),
        (["cat", "cow"], r"Expected labels among \['cat', 'dog', 'owl'\] in row 1, got 'cow'"),
        ([["cat"], 0, 0], "a list of class names"),
    ],
)
def test_labels_that_are_refused(label, message):
    with pytest.raises(ValueError, match=message):
        hot([[], label])


def numbers(targets, count=None):
    return labels_tensor("regression", targets, count)


def test_numbers_keep_their_digits():
    assert numbers([1, 2.5, np.float32(3)]).tolist() == [1, 2.5, 3]
    assert numbers([[1, 2], np.array([3.0, 4])], 2).tolist() == [[1, 2], [3, 4]]
    assert numbers([1234567.89]).item() == 1234567.89 and numbers([1234567.89]).dtype == torch.float64


@pytest.mark.parametrize(
    ("target", "count", "message"),
    [
        (float("nan"), None, "Expected a finite number.* target of row 1, got nan"),
        (float("inf"), None, "got inf"),
        (None, None, "got None"),
        ("3", None, "got '3'"),
        (True, None, "got True"),
        ([1.0, 2.0], None, r"Expected 1 number as the target of row 1.* got \[1.0, 2.0\]"),
        ([1.0], None, "Expected 1 number"),
    ],
)
def test_targets_that_are_refused(target, count, message):
    with pytest.raises(ValueError, match=message):
        numbers([1.0, target], count)


def test_the_number_of_targets_is_that_of_the_model():
    with pytest.raises(ValueError, match="Expected 2 numbers as the target of row 0"):
        numbers([1.0], 2)
