"""The processor of numbers: standardisation, missing numbers, and errors."""

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from pmr_hf import NumericProcessor
from pmr_hf.model.media import UnreadableError


def test_numbers_are_standardised_as_scikit_learn_does(tmp_path):
    generator = np.random.default_rng(0)
    train, test = generator.normal(5, 3, (20, 4)), generator.normal(5, 3, (6, 4))
    train[:, 2] = 0.1  # constant
    processor = NumericProcessor.fit(train.tolist())
    processor.save_pretrained(tmp_path)
    expected = StandardScaler().fit(train).transform(test)
    values = NumericProcessor.from_pretrained(tmp_path)(test)["values"]
    assert values.dtype == torch.float32
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)


def test_a_number_that_is_not_there_takes_the_training_mean():
    processor = NumericProcessor.fit([[1.0, None], [3.0, 10.0], [float("nan"), 20.0]])
    assert processor.mean == [2.0, 15.0] and processor.std == [1.0, 5.0]
    assert processor([[None, 20.0], [4.0, float("nan")]])["values"].tolist() == [[0.0, 1.0], [2.0, 0.0]]


@pytest.mark.parametrize("bad", [[[1.0]], [[1.0, 2.0, 3.0]], [["a", "b"]], [[[[1.0, 2.0]]]]])
def test_values_of_another_kind(bad):
    with pytest.raises(UnreadableError, match="is not a vector"):
        NumericProcessor([0.0, 0.0], [1.0, 1.0])(bad)


def test_one_column_of_numbers_and_bad_numbers():
    processor = NumericProcessor.fit([1.0, 3.0])
    assert processor([processor.read(5.0)])["values"].tolist() == [[3.0]]
    with pytest.raises(UnreadableError, match="holds an infinite number"):
        processor.read([float("inf")])
    with pytest.raises(UnreadableError, match="but value 2, 'old' is not a vector of numbers"):
        NumericProcessor.fit([1.0, "old"])
