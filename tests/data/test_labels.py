"""Labels of samples (B,) and of segments (B, T): which are accepted, and the error for the others."""

import numpy as np
import pytest
import torch
from helpers.strategies import JUNK, LABELS
from hypothesis import given
from hypothesis import strategies as st

from pmr_hf import MultimodalCollator
from pmr_hf.data.labels import integer_labels


@given(st.lists(LABELS | JUNK, max_size=4), st.none() | st.integers(1, 3))
def test_labels_are_integers_of_the_classes_or_stop_with_a_sentence(labels, num_labels):
    whole = [isinstance(label, (int, np.integer, torch.Tensor)) for label in labels]
    good = labels and all(whole) and all(0 <= label < (num_labels or 2**63) for label in labels)
    try:
        found = integer_labels(labels, num_labels)
    except ValueError as error:
        assert (not good or set(map(type, labels)) == {bool}) and str(error).startswith("Expected ")
    else:
        assert good or (num_labels is None and all(whole))
        assert found.dtype == torch.long and found.tolist() == [int(label) for label in labels]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0, 1], [2]], r"the same number of segment labels for each sample, got \[1, 2\]; pad with -100"),
        ([[0, -100], [9, 1]], r"labels in 0..3, got labels from 0 to 9"),
        ([[0, -1], [2, 1]], r"labels in 0..3, got labels from -1 to 2"),
        ([0, -100], r"labels in 0..3, got labels from -100 to 0"),
        ([[[0]], [[1]]], "integer labels"),
    ],
)
def test_labels_of_segments_that_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        integer_labels(labels, 4, segments=True)


def test_labels_of_segments():
    assert integer_labels([[0, -100], [3, 1]], 4, segments=True).tolist() == [[0, -100], [3, 1]]
    assert integer_labels([[-100, -100]], 4, segments=True).tolist() == [[-100, -100]]


def test_labels_of_any_integer_type(processor, digits):
    collator = MultimodalCollator(processor, {"image": "picture", "text": "caption"}, label="label")
    rows = [{**digits[0], "label": label} for label in (1, np.int32(2), torch.tensor(3))]
    assert collator(rows)["labels"].tolist() == [1, 2, 3]
    for bad in (True, 1.0, None, "one"):
        with pytest.raises(ValueError, match="Expected integer labels"):
            collator([{**digits[0], "label": bad}])
