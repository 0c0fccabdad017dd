"""Tables with several labels in a cell, and with numbers to predict."""

import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, List

from pmr_hf.data.tables import load_table
from pmr_hf.data.target_columns import encode_targets, names_of, random_cut, target_names


SEVERAL, NUMBERS = "multi_label_classification", "regression"


def csv_of(folder, cells, name="train", quote='"'):
    lines = [f"text {i},{quote}{cell}{quote}" for i, cell in enumerate(cells)]
    (folder / f"{name}.csv").write_text("\n".join(["text,label", *lines]) + "\n")


def load(folder, problem_type, **kwargs):
    return load_table({"text": "text"}, dataset_name=str(folder), problem_type=problem_type, **kwargs)


def test_cells_are_split_and_stay_names(tmp_path):
    csv_of(tmp_path, ["cat| dog ", "", "owl", " | dog|dog"])
    csv_of(tmp_path, ["dog", ""], "validation")
    splits = load(tmp_path, SEVERAL)
    assert splits["train"]["label"][:] == [["cat", "dog"], [], ["owl"], ["dog"]]
    assert splits["validation"]["label"][:] == [["dog"], []]
    assert names_of(splits["train"], "label") == ["cat", "dog", "owl"]


def test_another_separator_and_lists_of_json(tmp_path):
    csv_of(tmp_path, ["cat;a|b", "dog", "cat"])
    splits = load(tmp_path, SEVERAL, label_separator=";")
    assert sorted(map(tuple, [*splits["train"]["label"], *splits["validation"]["label"]])) == [
        ("cat",),
        ("cat", "a|b"),
        ("dog",),
    ]
    (tmp_path / "json").mkdir()
    rows = [{"text": "a", "label": ["cat", "dog"]}, {"text": "b", "label": []}, {"text": "c", "label": ["cat"]}]
    (tmp_path / "json" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    splits = load(tmp_path / "json", SEVERAL)
    assert len(splits["validation"]) == 1 and names_of(splits["train"], "label")[0] == "cat"


def test_ids_of_a_class_label_become_names():
    feature = {"label": List(ClassLabel(names=["a", "b", "c"]))}
    data = Dataset.from_dict({"label": [[2, 0], [], [1]]}).cast_column("label", feature["label"])
    data = data.add_column("source_row", ["row 1", "row 2", "row 3"])
    assert encode_targets({"train": data}, ["label"], SEVERAL)["train"]["label"][:] == [["c", "a"], [], ["b"]]


def test_a_label_that_training_lacks_is_named(tmp_path):
    csv_of(tmp_path, ["cat", "dog"])
    csv_of(tmp_path, ["cat|cow"], "test")
    csv_of(tmp_path, ["cat"], "validation")
    with pytest.raises(ValueError, match=r"Expected the labels of the training split in test, got \['cow'\] too"):
        load(tmp_path, SEVERAL)


def test_numbers_keep_their_digits_and_a_test_split_may_lack_them(tmp_path):
    csv_of(tmp_path, ["1.5", "-2e3", " 1234567.89 "])
    csv_of(tmp_path, ["0"], "validation")
    csv_of(tmp_path, ["", ""], "test", quote="")
    splits = load(tmp_path, NUMBERS)
    assert splits["train"]["label"][:] == [1.5, -2000.0, 1234567.89] and "test" not in splits


@pytest.mark.parametrize("cell", ["", "nan", "inf", "12 kg", "1,5"])
def test_rows_without_a_number_are_refused(cell, tmp_path):
    csv_of(tmp_path, ["1.5", cell, "2"])
    with pytest.raises(ValueError, match=r"Expected a finite number in column 'label'.* in train.csv, row 2, one of 1"):
        load(tmp_path, NUMBERS)


def test_a_column_that_holds_no_lists_of_names(tmp_path):
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps({"text": "a", "label": [i, 2]}) for i in range(3)))
    with pytest.raises(
        ValueError, match=r"Expected names with '\|' between two, or lists of names, in column 'label'.*got"
    ):
        load(tmp_path, SEVERAL)
    csv_of(tmp_path / "..", ["", ""])
    with pytest.raises(ValueError, match="Expected names of labels in column 'label' of the training split, got none"):
        load_table({"text": "text"}, files={"train": str(tmp_path / ".." / "train.csv")}, problem_type=SEVERAL)


def test_the_validation_split_is_random_rows():
    rest, chosen = random_cut(50, 0.1, seed=1)
    assert len(chosen) == 5 and sorted([*rest, *chosen]) == list(range(50))
    assert list(random_cut(50, 0.1, seed=1)[1]) == list(chosen) != list(random_cut(50, 0.1, seed=2)[1])
    assert [len(part) for part in random_cut(1, 0.1, seed=0)] == [1, 0]


def test_several_columns_of_numbers_become_one(tmp_path):
    (tmp_path / "train.csv").write_text("text,size,weight\nx,1.5,20\ny,-2,1e3\n")
    (tmp_path / "validation.csv").write_text("weight,text,size\n7,z,0\n")
    (tmp_path / "test.csv").write_text("text\nz\n")
    splits = load(tmp_path, NUMBERS, label=["size", "weight"])
    assert splits["train"]["size,weight"][:] == [[1.5, 20.0], [-2.0, 1000.0]]
    assert splits["validation"]["size,weight"][:] == [[0.0, 7.0]]
    assert set(splits) == {"train", "validation"}
    assert target_names(splits["train"], ["size", "weight"]) == ["size", "weight"]


def test_lists_of_numbers_in_one_column():
    rows = Dataset.from_dict({"size": [[1, 2], [3, 4]], "source_row": ["a", "b"]})
    rows = encode_targets({"train": rows}, ["size"], NUMBERS)["train"]
    assert rows["size"][:] == [[1.0, 2.0], [3.0, 4.0]]
    assert target_names(rows, ["size"]) == ["size 1", "size 2"]


@pytest.mark.parametrize(
    ("cells", "columns", "problem_type", "sentence"),
    [
        (
            ["1,", "2,3"],
            ["a", "b"],
            NUMBERS,
            r"in columns 'a' and 'b' of every row, got \['1', None\] in train.csv, row 1",
        ),
        (["1,x", "2,3"], ["a", "b"], NUMBERS, "'x'"),
        (["1,2", "2,3"], ["a", "b"], SEVERAL, "one label column"),
        (["1,2", "2,3"], ["a", "b"], "single_label_classification", "one label column"),
        (["1,2", "2,3"], ["a", "a"], NUMBERS, "different"),
        (["1,2", "2,3"], ["a", "c"], NUMBERS, r"\['c'\] are not among"),
    ],
)
def test_mistakes_in_several_columns(tmp_path, cells, columns, problem_type, sentence):
    (tmp_path / "train.csv").write_text("text,a,b\n" + "".join(f"t,{row}\n" for row in cells))
    with pytest.raises(ValueError, match=sentence):
        load(tmp_path, problem_type, label=columns)


def of_frame(labels, problem_type, **kwargs):
    frame = pd.DataFrame({"text": [f"text {i}" for i in range(len(labels))], "label": labels})
    return load_table(
        {"text": "text"}, files={"train": frame, "validation": frame}, problem_type=problem_type, **kwargs
    )


@pytest.mark.parametrize("text", ["['cat', 'dog']", '["cat"]', "[]", " ['cat'\n 'dog'] ", "{'cat': 1}"])
def test_lists_that_were_written_as_texts_are_no_names(text):
    """As `DataFrame.to_csv` writes a column of lists."""
    with pytest.raises(
        ValueError, match=r"or lists of names, in column 'label'.*in table 'train', row 2, one of 1 such"
    ):
        of_frame(["cat", text, "dog"], SEVERAL)
    assert names_of(of_frame(["[cat] or {dog}", "(cat)"], SEVERAL)["train"], "label") == ["(cat)", "[cat] or {dog}"]


@pytest.mark.parametrize(
    ("cells", "separator", "advice"),
    [
        (["cat;dog", "dog", ""], "|", "have ';', so that each of these is one label"),
        (["cat, dog", "dog, cat"], ";", r"2 of 2 have ','"),
        (["cat|dog", "dog;cat"], "|", None),
        (["cat", "dog"], "|", None),
        ([["cat;x"], ["dog"]], "|", None),
    ],
)
def test_another_separator_than_the_given_one_is_noticed(cells, separator, advice, caplog):
    of_frame(cells, SEVERAL, label_separator=separator)
    assert ("No cell of column 'label' has the separator" in caplog.text) == (advice is not None)
    assert advice is None or (advice in caplog.text and "label_separator=" in caplog.text)


def test_names_are_compared_by_their_letters_however_unicode_composes_them():
    composed, apart = "caf\u00e9", "cafe\u0301"
    assert of_frame([f"{apart}|tea", composed], SEVERAL)["train"]["label"][:] == [[composed, "tea"], [composed]]


@pytest.mark.parametrize(("one", "other"), [("1", "1.0"), ("True", "true")])
def test_one_label_written_in_two_ways(tmp_path, one, other):
    (tmp_path / "a.csv").write_text(f"text,label\nhello,{one}|b\nbye,{other}\nagain,b\n")
    with pytest.raises(ValueError, match=f"to be written in one way, got '{one}' and '{other}'"):
        load_table({"text": "text"}, files={"train": tmp_path / "a.csv"}, problem_type="multi_label_classification")


def test_lists_of_a_frame_may_be_arrays():
    """As pandas reads a column of lists from parquet, with an empty one whose type is unknown."""
    cells = [np.array(["cat", "dog"], dtype=object), np.array([], dtype=object), ("dog",)]
    assert of_frame(cells, SEVERAL)["train"]["label"][:] == [["cat", "dog"], [], ["dog"]]


def test_decimals_of_a_database_are_numbers():
    assert of_frame([Decimal("1.25"), Decimal("-3")], NUMBERS)["train"]["label"][:] == [1.25, -3.0]


def test_the_names_of_a_class_label_are_predicted_not_its_ids():
    """Ids as numbers would be 0, 1 and 2."""
    rows = Dataset.from_dict({"text": [*"abc"], "label": [0, 1, 2]}).cast_column(
        "label", ClassLabel(names=["1", "2", "10"])
    )
    files = {"train": rows, "validation": rows}
    splits = load_table({"text": "text"}, files=files, problem_type=NUMBERS)
    assert splits["train"]["label"][:] == [1.0, 2.0, 10.0]
    splits = load_table({"text": "text"}, files=files, problem_type=SEVERAL)
    assert splits["train"]["label"][:] == [["1"], ["2"], ["10"]]
    stars = rows.cast_column("label", ClassLabel(names=["1 star", "2 stars", "10 stars"]))
    with pytest.raises(ValueError, match="Expected a finite number in column 'label' of every row, got '1 star'"):
        load_table({"text": "text"}, files={"train": stars, "validation": stars}, problem_type=NUMBERS)


def test_one_row_is_too_few_to_cut_a_regression():
    with pytest.raises(ValueError, match="Expected at least two rows to cut a validation split from, got 1; give"):
        load_table({"text": "text"}, files={"train": [{"text": "a", "label": 3.0}]}, problem_type=NUMBERS)
