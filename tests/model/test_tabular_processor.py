"""The processor of tables: its columns by name, missing and unknown cells, what is saved, and errors."""

import json
import math
from decimal import Decimal

import datasets
import numpy as np
import pandas as pd
import pytest
import torch

from pmr_hf import MultimodalProcessor, NumericProcessor, TabularProcessor
from pmr_hf.model.media import UnreadableError
from pmr_hf.model.tabular_processor import category_of


TRAIN = [
    {"zip": "Bonn", "age": 1, "class": 2, "note": "x"},
    {"zip": " Aachen ", "age": "3.0", "class": "1.0", "note": "y"},
    {"zip": None, "age": None, "class": 1, "note": "z"},
]


@pytest.fixture
def processor():
    return TabularProcessor.fit(TRAIN, numbers=["age"], categories=["zip", "class"])


def as_lists(batch):
    return batch["values"].tolist(), batch["categories"].tolist()


def test_numbers_are_standardised_and_categories_become_ids(processor):
    assert processor.columns == ["age", "zip", "class"]
    assert processor.numbers == {"age": (2.0, 1.0)}
    assert processor.categories == {"zip": ["Aachen", "Bonn"], "class": ["1", "2"]}
    batch = processor([TRAIN[0], {"class": 7, "zip": "", "age": "5"}, {"age": math.nan, "zip": "Bonn", "class": None}])
    assert batch["values"].dtype == torch.float32 and batch["categories"].dtype == torch.int64
    assert as_lists(batch) == ([[-1.0], [3.0], [0.0]], [[3, 3], [0, 1], [3, 0]])


def test_the_order_of_the_columns_does_not_count(processor):
    row = {"age": 5, "zip": "Bonn", "class": 1}
    assert as_lists(processor([row])) == as_lists(processor([dict(reversed(row.items()))])) == ([[3.0]], [[3, 2]])


def test_what_is_saved_keeps_names_order_and_categories(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = TabularProcessor.from_pretrained(tmp_path)
    assert loaded.columns == ["age", "zip", "class"] and loaded.categories == processor.categories
    assert as_lists(loaded(TRAIN)) == as_lists(processor(TRAIN))
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["numbers"] == [{"name": "age", "mean": 2.0, "std": 1.0}]
    assert saved["categories"][0] == {"name": "zip", "values": ["Aachen", "Bonn"]}
    MultimodalProcessor({"stats": processor}).save_pretrained(tmp_path / "whole")
    whole = MultimodalProcessor.from_pretrained(tmp_path / "whole")
    assert whole.kinds == {"stats": "tabular"} and as_lists(whole(stats=TRAIN)["stats"]) == as_lists(processor(TRAIN))


def test_rows_of_a_dataset_and_of_pandas(processor):
    columns = {"age": [1, 3, None], "zip": ["Bonn", "Aachen", None], "class": [2, 1, 1]}
    pictures = {"picture": [{"bytes": b"no picture", "path": None}] * 3}
    features = datasets.Dataset.from_dict(columns).features | {"picture": datasets.Image()}
    dataset = datasets.Dataset.from_dict(columns | pictures, features=datasets.Features(features))
    frame = pd.DataFrame(columns | {"class": [2.0, 1.0, 1.0]})
    for rows in (dataset, dataset.remove_columns("picture").with_format("torch"), frame):
        found = TabularProcessor.fit(rows, ["age"], ["zip", "class"])
        assert found.numbers == processor.numbers and found.categories == processor.categories
    assert as_lists(processor(frame)) == as_lists(processor(TRAIN))


@pytest.mark.parametrize(
    ("cells", "text"),
    [
        ((1, 1.0, "1", " 1 ", "1.0", np.float32(1), np.int64(1), torch.tensor(1), Decimal("1.0")), "1"),
        ((True, "True", "true", "TRUE", np.bool_(True)), "true"),
        ((1.5, "1.5", np.float32(1.5)), "1.5"),
        (("01",), "01"),
        (("1.10",), "1.10"),
        ((None, "", " ", math.nan, pd.NA), None),
    ],
)
def test_cells_that_are_one_category(cells, text):
    assert {category_of("class", cell) for cell in cells} == {text}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, "Bonn", 2], r"is not a dict with the columns \['age', 'zip', 'class'\]"),
        ({"age": 1, "class": 2}, r"lacks the columns \['zip'\] of \['age', 'zip', 'class'\]"),
        ({"age": "old", "zip": "Bonn", "class": 2}, r"'old' in column 'age' is not a number"),
        ({"age": [1], "zip": "Bonn", "class": 2}, r"\[1\] in column 'age' is not a number"),
        ({"age": "inf", "zip": "Bonn", "class": 2}, r"'inf' in column 'age' is infinite"),
        ({"age": 1e39, "zip": "Bonn", "class": 2}, r"1e\+39 in column 'age' is too large"),
        ({"age": 1, "zip": ["Bonn"], "class": 2}, r"\['Bonn'\] in column 'zip' is not a category"),
    ],
)
def test_rows_that_cannot_be_read(processor, value, message):
    with pytest.raises(UnreadableError, match=message):
        processor.read(value)


def test_training_rows_that_cannot_be_read():
    rows = [{"age": 1}, {"age": "old"}, {"age": 3}]
    with pytest.raises(UnreadableError, match=r"Expected rows .* but in row 2, 'old' in column 'age' is not a number"):
        TabularProcessor.fit(rows, ["age"])
    assert TabularProcessor.fit(rows, ["age"], on_error="missing").numbers == {"age": (2.0, 1.0)}
    with pytest.raises(UnreadableError, match=r"in row 1, .* lacks the columns \['city'\]"):
        TabularProcessor.fit(rows, ["age"], ["city"])
    with pytest.raises(ValueError, match=r"got none that can be read"):
        TabularProcessor.fit([], ["age"])
    with pytest.raises(ValueError, match=r"Expected lists of names of columns .*'age'"):
        TabularProcessor.fit(rows, "age")


def test_a_row_without_any_value_is_a_missing_modality(processor):
    whole = MultimodalProcessor({"stats": processor})
    batch = whole(stats=[TRAIN[0], {"age": None, "zip": " ", "class": math.nan, "note": "z"}, None])["stats"]
    assert batch["present"].tolist() == [True, False, False]
    assert batch["categories"].tolist() == [[3, 3], [0, 0], [0, 0]]
    files = TabularProcessor.fit([{"bytes": 1, "path": "a"}], ["bytes"], ["path"])  # columns that a file has too
    assert MultimodalProcessor({"stats": files})(stats=[{"bytes": None, "path": "a"}])["stats"]["categories"] == 2


def test_columns_of_one_kind_alone():
    numbers = TabularProcessor.fit([{"age": 5}, {"age": 5}], ["age"])  # a column that never varies
    assert as_lists(numbers([{"age": 7}])) == ([[2.0]], [[]])
    categories = TabularProcessor.fit([{"city": "a"}], (), ["city"])
    assert as_lists(categories([{"city": "a"}, {"city": "b"}])) == ([[], []], [[2], [1]])


AGE = {"name": "age", "mean": 0.0, "std": 1.0}
SETTINGS = {
    "no columns": {},
    "a name twice": {"numbers": [AGE], "categories": [{"name": "age", "values": []}]},
    "no name": {"numbers": [{"mean": 0.0, "std": 1.0}]},
    "name of another type": {"numbers": [AGE | {"name": 3}]},
    "std of 0": {"numbers": [AGE | {"std": 0.0}]},
    "infinite mean": {"numbers": [AGE | {"mean": math.inf}]},
    "NaN": {"numbers": [AGE | {"std": math.nan}]},
    "integer without end": {"numbers": [AGE | {"mean": 10**400}]},
    "text as a mean": {"numbers": [AGE | {"mean": "0"}]},
    "numbers of another type": {"numbers": 3},
    "categories as a text": {"categories": [{"name": "city", "values": "abc"}]},
    "a category twice": {"categories": [{"name": "city", "values": ["a", "a"]}]},
    "a missing category": {"categories": [{"name": "city", "values": ["a", ""]}]},
    "a category of another type": {"categories": [{"name": "city", "values": [["a"]]}]},
    "many categories": {"categories": [{"name": "city", "values": [str(i) for i in range(100_001)]}]},
    "many columns": {"numbers": [AGE | {"name": str(i)} for i in range(10_001)]},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_settings_of_a_stranger_are_refused_in_a_sentence(settings, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"^Expected 1 to 10,000 columns of different names, .*; take them from"):
        TabularProcessor.from_pretrained(tmp_path)


def test_by_one_word():
    columns = {"stats": {"numbers": ["age"], "categories": ["zip"]}}
    processor = MultimodalProcessor.from_backbones({"stats": "tabular"}, rows=TRAIN, columns=columns)
    assert processor.processors["stats"].categories == {"zip": ["Aachen", "Bonn"]}
    fitted = processor.processors["stats"]
    assert MultimodalProcessor.from_backbones({"stats": fitted}).processors["stats"] is fitted
    for wrong in ({"columns": columns}, {"rows": TRAIN}, {"rows": TRAIN, "columns": {"stats": {"texts": ["zip"]}}}):
        with pytest.raises(ValueError, match=r"Expected `rows` and `columns=\{'stats': .*; give both, or a fitted"):
            MultimodalProcessor.from_backbones({"stats": "tabular"}, **wrong)
    with pytest.raises(ValueError, match=r"Expected `columns` of the modalities \['stats'\]"):
        MultimodalProcessor.from_backbones({"stats": "tabular"}, rows=TRAIN, columns={**columns, "other": {}})


def test_the_example_of_a_card_is_a_row(processor):
    example, _ = MultimodalProcessor({"stats": processor}).kind("stats").example(processor.encoder_config())
    assert example == "{'age': 2.0, 'zip': 'Aachen', 'class': '1'}"


def test_numbers_know_their_columns_if_they_are_told(tmp_path):
    processor = NumericProcessor.fit([[1.0, 5.0], [3.0, 5.0]], columns=["age", "price"])
    processor.save_pretrained(tmp_path)
    loaded = NumericProcessor.from_pretrained(tmp_path)
    kind = MultimodalProcessor({"stats": loaded}).kind("stats")
    assert kind.arrange(["price", "age"]) == ["age", "price"]
    with pytest.raises(
        ValueError, match=r"Expected the columns \['age', 'price'\] of 'stats', .*got \['age', 'cost'\]"
    ):
        kind.arrange(["age", "cost"])
    with pytest.raises(ValueError, match=r"Expected a name for each of 2 columns, or None, got \['age'\]"):
        NumericProcessor([0.0, 0.0], [1.0, 1.0], columns=["age"])
    unnamed = MultimodalProcessor({"stats": NumericProcessor([0.0], [1.0])}).kind("stats")
    assert unnamed.arrange("a") == "a" and unnamed.arrange(["b", "a"]) == ["b", "a"]


def test_a_category_is_the_same_however_unicode_composes_its_letters():
    composed, apart = "Ko\u0308ln", "K\u00f6ln"
    processor = TabularProcessor.fit([{"city": composed}, {"city": "Ulm"}, {"city": apart}], (), ["city"])
    assert processor.categories == {"city": [apart, "Ulm"]}
    assert as_lists(processor([{"city": composed}, {"city": apart}]))[1] == [[2], [2]]


def test_a_frame_with_two_columns_of_one_name(processor):
    frame = pd.DataFrame([[1, "Bonn", "Aachen", 2]], columns=["age", "zip", "zip", "class"])
    for read in (processor, lambda frame: TabularProcessor.fit(frame, ["age"], ["zip"])):
        with pytest.raises(
            ValueError, match=r"Expected each column of a DataFrame once, got \['zip'\] twice; rename one"
        ):
            read(frame)
