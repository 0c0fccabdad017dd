"""Tables with several labels in a cell, and with numbers to predict."""

import json

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
    with pytest.raises(ValueError, match=r"Expected names with '\|' between two in column 'label' of every row, got"):
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
