"""The metric of a constant answer, by hand for each problem type."""

import datasets
import pytest

from pmr_hf import MultimodalCollator, MultimodalProcessor, NumericProcessor
from pmr_hf.training.constant_answer import constant_answer


@pytest.mark.parametrize(
    ("problem_type", "train", "rows", "expected"),
    [
        ("single_label_classification", [0, 2, 2, 1], [2, 1, 2, 2, 0], 3 / 5),
        # labels that most rows have: the first; right twice, once too often, and one of the second is missed
        ("multi_label_classification", [[1, 0], [1, 1], [0, 0]], [[1, 1], [1, 0], [0, 0]], 2 * 2 / (3 + 3)),
        ("regression", [1.0, 2.0, 30.0], [2.0, 5.0], 1.5),
        ("regression", [[1.0, 0.0], [2.0, 4.0], [30.0, 8.0]], [[2.0, 4.0], [5.0, 0.0]], (0 + 3 + 0 + 4) / 4),
    ],
)
def test_a_constant_answer(problem_type, train, rows, expected):
    processor = MultimodalProcessor({"a": NumericProcessor.fit([[0.0], [1.0]])})
    collator = MultimodalCollator(processor, columns={"a": "x"}, label="y")
    numbers = {"regression": 1 + isinstance(train[0], list), "multi_label_classification": 2}
    collator.match_labels(numbers.get(problem_type, 3), problem_type, {})
    splits = [datasets.Dataset.from_dict({"x": [0.0] * len(part), "y": part}) for part in (train, rows)]
    assert constant_answer(collator, *splits) == pytest.approx(expected)
