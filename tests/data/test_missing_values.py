"""The modalities of each row by the columns of a dataset alone, against the definition of a missing value."""

import numpy as np
import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from pmr_hf import MultimodalCollator, MultimodalProcessor, NumericProcessor
from pmr_hf.data.missing_values import present_rows
from pmr_hf.model.media import is_missing


PICTURE = PILImage.fromarray(np.zeros((4, 4), dtype=np.uint8))
COLUMNS = {
    "text": (Value("string"), ["a", "", "  ", None, "NA"]),
    "large text": (Value("large_string"), ["a", "", None, "\t", "b"]),
    "whole": (Value("int64"), [0, None, 3, None, -1]),
    "number": (Value("float32"), [0.0, float("nan"), None, 1.0, float("inf")]),
    "bytes": (Value("binary"), [b"a", b"", None, b"b", b""]),
    "vector": (List(Value("float64")), [[1.0, None], [None, None], [], None, [float("nan")]]),
    "fixed vector": (
        List(Value("float64"), length=2),
        [[1.0, None], [None, None], [0.0, 0.0], [None, 2.0], None],
    ),
    "texts": (List(Value("string")), [["a"], [""], ["", "b"], [], None]),
    "picture": (Image(), [PICTURE, None, PICTURE, None, None]),
    "frames": (List(Image()), [[PICTURE], [], [PICTURE, None], None, [None]]),
    "path": (Image(), ["a.png", "", None, "b.png", "c.png"]),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_of_each_kind(name):
    feature, values = COLUMNS[name]
    data = Dataset.from_dict({"x": values}, features=Features({"x": feature}))
    expected = [not is_missing(value) for value in values]
    assert present_rows(data, {"m": "x"})["m"].tolist() == expected
    assert len(set(expected)) == 2
    order = [3, 0, 0, 4]
    assert present_rows(data.select(order), {"m": "x"})["m"].tolist() == [expected[i] for i in order]
    assert present_rows([{"x": value} for value in values], {"m": "x"})["m"].tolist() == expected


def test_columns_of_numbers_are_one_modality_and_a_cache_knows_what_is_missing(tmp_path):
    rows = {"age": [1.0, None, None], "weight": [None, None, 2.0], "label": [0, 1, 0]}
    data = Dataset.from_dict(rows)
    processor = MultimodalProcessor({"vitals": NumericProcessor([0.0, 0.0], [1.0, 1.0])})
    collator = MultimodalCollator(processor, {"vitals": ["age", "weight"]})
    for each in (data, list(data), collator.cache(data)):
        assert present_rows(each, collator.columns)["vitals"].tolist() == [True, False, True]


def test_no_rows():
    assert present_rows(Dataset.from_dict({"x": []}), {"m": "x"})["m"].tolist() == []
