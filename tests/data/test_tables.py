"""Tables in files and folders: splits, labels, paths, and the errors for bad ones."""

import json
import uuid
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage

from pmr_hf import infer_columns
from pmr_hf.data.tables import load_table


COLUMNS = {"image": "img", "text": "caption"}


@pytest.fixture
def table(tmp_path):
    """40 rows with pictures on disk, of the classes cat and dog, and one row of the class eel."""
    (tmp_path / "pictures").mkdir()
    rows = []
    for i in range(40):
        PILImage.new("L", (8, 8), i).save(tmp_path / "pictures" / f"{i}.png")
        kind = "eel" if i == 7 else ("dog", "cat")[i % 2]
        rows.append({"img": f"pictures/{i}.png", "caption": f"number {i}", "kind": kind, "extra": i})
    return pd.DataFrame(rows)


def write(table, file):
    if file.suffix == ".parquet":
        table.to_parquet(file)
    elif file.suffix == ".jsonl":
        table.to_json(file, orient="records", lines=True)
    else:
        table.to_csv(file, index=False, sep="\t" if file.suffix == ".tsv" else ",")
    return str(file)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_table_with_string_labels_and_relative_paths(table, tmp_path, suffix):
    file = write(table, tmp_path / f"all{suffix}")
    splits = load_table(COLUMNS, label="kind", files={"train": file}, files_in=["image"])
    train, validation = splits["train"], splits["validation"]
    assert train.features["kind"].names == ["cat", "dog", "eel"] == validation.features["kind"].names
    assert set(train.column_names) == {"img", "caption", "kind", "source_row"}
    for row in [*train, *validation]:
        i = int(row["caption"].split()[1])
        assert row["source_row"] == f"all{suffix}, row {i + 1}"
        assert row["img"] == str(tmp_path / "pictures" / f"{i}.png")
        assert train.features["kind"].int2str(row["kind"]) == table["kind"][i]


def test_the_cut_is_stratified_disjoint_and_the_same_again(table, tmp_path, caplog):
    file = write(table, tmp_path / "all.csv")
    splits = load_table(COLUMNS, label="kind", files={"train": file}, validation_size=0.2, seed=1)
    assert "No validation split: 8 of 40 training rows are taken" in caplog.text
    rows = {name: set(split["source_row"]) for name, split in splits.items()}
    assert len(rows["train"]) == 32 and not rows["train"] & rows["validation"]
    counts = np.bincount(splits["validation"]["kind"], minlength=3).tolist()
    assert counts == [4, 4, 0]  # a class of one row stays in training
    again = load_table(COLUMNS, label="kind", files={"train": file}, validation_size=0.2, seed=1)
    other = load_table(COLUMNS, label="kind", files={"train": file}, validation_size=0.2, seed=2)
    assert set(again["validation"]["source_row"]) == rows["validation"] != set(other["validation"]["source_row"])


def test_a_folder_of_tables_beside_its_pictures(table, tmp_path):
    write(table[:30], tmp_path / "train.jsonl")
    write(table[30:35], tmp_path / "dev.jsonl")
    write(table[35:], tmp_path / "test.jsonl")
    splits = load_table(COLUMNS, label="kind", dataset_name=str(tmp_path), files_in=["image"])
    assert {name: len(split) for name, split in splits.items()} == {"train": 30, "validation": 5, "test": 5}
    assert splits["test"]["img"][0] == str(tmp_path / "pictures" / "35.png")


def test_what_datasets_saved_stays_undecoded(table, tmp_path):
    features = Features({"img": Image(), "caption": Value("string"), "kind": ClassLabel(names=["dog", "cat"])})
    rows = {
        "img": [PILImage.new("L", (8, 8), i) for i in range(10)],
        "caption": ["a"] * 10,
        "kind": ["cat", "dog"] * 5,
    }
    DatasetDict({"train": Dataset.from_dict(rows, features)}).save_to_disk(tmp_path / "saved")
    splits = load_table(COLUMNS, label="kind", dataset_name=str(tmp_path / "saved"))
    row = splits["train"][0]
    assert set(row["img"]) == {"bytes", "path"} and splits["train"].features["kind"].names == ["dog", "cat"]


@pytest.mark.parametrize("labels", [[3, 5, 9], [True, False, True], [0.5, 1.0, 2.0], ["b", "a", "c"]])
def test_labels_of_any_type(labels, tmp_path):
    rows = pd.DataFrame({"caption": [f"{i}" for i in range(30)], "label": labels * 10})
    file = write(rows, tmp_path / "a.jsonl")
    splits = load_table({"text": "caption"}, files={"train": file, "validation": file})
    assert splits["train"].features["label"].names == [str(value) for value in sorted(set(labels))]
    names = splits["train"].features["label"].int2str(splits["train"]["label"][:])
    assert names == [str(value) for value in labels * 10]


def test_a_test_split_without_labels_is_left_out(table, tmp_path, caplog):
    files = {"train": write(table, tmp_path / "a.csv"), "test": write(table.assign(kind=None), tmp_path / "b.csv")}
    assert "test" not in load_table(COLUMNS, label="kind", files=files)
    assert "The test split has no labels" in caplog.text


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t: t.assign(kind=t["kind"].where(t["extra"] != 3)), ValueError, r"1 have none, first a.csv, row 4"),
        (lambda t: t.drop(columns="caption"), ValueError, r"\['caption'\] are not among"),
        (
            lambda t: t.assign(img="gone.png"),
            FileNotFoundError,
            r"40 of 40 are not there, first a.csv, row 1: .*gone.png",
        ),
    ],
)
def test_bad_tables(table, tmp_path, change, error, message):
    file = write(change(table), tmp_path / "a.csv")
    with pytest.raises(error, match=message):
        load_table(COLUMNS, label="kind", files={"train": file}, files_in=["image"])


def test_a_class_that_training_lacks(table, tmp_path):
    files = {"train": write(table[:5], tmp_path / "a.csv"), "test": write(table, tmp_path / "b.csv")}
    with pytest.raises(ValueError, match=r"Expected the classes of the training split in test, got \['eel'\] too"):
        load_table(COLUMNS, label="kind", files=files)


def test_tables_and_splits_that_are_not_there(table, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected a table .*none.csv, found none"):
        load_table(COLUMNS, files={"train": str(tmp_path / "none.csv")})
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(ValueError, match="Expected a table of type"):
        load_table(COLUMNS, files={"train": str(tmp_path / "a.txt")})
    with pytest.raises(ValueError, match="Expected a dataset name or files"):
        load_table(COLUMNS)
    with pytest.raises(ValueError, match=r"Expected a training split, got \['test'\]"):
        load_table(COLUMNS, label="kind", files={"test": write(table, tmp_path / "b.csv")})


def test_missing_values_stay(table, tmp_path):
    """A missing path, and a file that does not exist where `check_files` allows it."""
    table.loc[2, "img"] = None
    table.loc[3, "img"] = "gone.png"
    file = write(table, tmp_path / "a.jsonl")
    assert json.loads(Path(file).read_text().splitlines()[2])["img"] is None
    splits = load_table(
        COLUMNS, label="kind", files={"train": file, "validation": file}, files_in=["image"], check_files=False
    )
    assert splits["train"]["img"][2] is None and splits["train"]["img"][3] == str(tmp_path / "gone.png")


def test_sound_and_video_columns_need_no_decoder(tmp_path):
    rows = {"sound": [{"bytes": b"x", "path": ""}] * 4, "clip": [{"bytes": b"y", "path": ""}] * 4, "label": [*"abab"]}
    features = Features({"sound": datasets.Audio(), "clip": datasets.Video(), "label": Value("string")})
    Dataset.from_dict(rows).cast(features).save_to_disk(tmp_path / "saved")
    splits = load_table({"audio": "sound", "video": "clip"}, dataset_name=str(tmp_path / "saved"))
    assert (splits["train"][0]["sound"]["bytes"], splits["train"][0]["clip"]["bytes"]) == (b"x", b"y")


def test_each_splits_class_ids_are_its_own(tmp_path):
    """One split has a ClassLabel with other names, another has plain strings or ids."""
    names = {"train": ["cat", "dog", "owl"], "validation": ["dog", "owl"]}
    rows = {"train": [0, 1, 2] * 4, "validation": [0, 1]}
    for split, ids in rows.items():
        features = Features({"caption": Value("string"), "label": ClassLabel(names=names[split])})
        Dataset.from_dict({"caption": ["a"] * len(ids), "label": ids}, features).to_parquet(
            tmp_path / f"{split}.parquet"
        )
    splits = load_table({"text": "caption"}, dataset_name=str(tmp_path))
    assert splits["validation"].features["label"].names == names["train"] and splits["validation"]["label"][:] == [1, 2]
    for label, expected in ((["owl", "cat"], [2, 0]), ([2, 0], [2, 0])):
        Dataset.from_dict({"caption": ["a", "b"], "label": label}).to_parquet(tmp_path / "validation.parquet")
        assert load_table({"text": "caption"}, dataset_name=str(tmp_path))["validation"]["label"][:] == expected
    Dataset.from_dict({"caption": ["a"], "label": [7]}).to_parquet(tmp_path / "validation.parquet")
    with pytest.raises(ValueError, match=r"in validation, got \['7'\] too"):
        load_table({"text": "caption"}, dataset_name=str(tmp_path))


def test_labels_that_one_file_reads_as_numbers_and_another_as_strings(tmp_path):
    files = {}
    for split, labels in {"train": ["1", "2", "x"] * 2, "validation": ["1", "2"]}.items():
        files[split] = write(pd.DataFrame({"caption": "a", "label": labels}), tmp_path / f"{split}.csv")
    splits = load_table({"text": "caption"}, files=files)
    assert splits["validation"]["label"][:] == [0, 1]


def test_paths_in_lists_and_in_several_columns(table, tmp_path):
    rows = pd.DataFrame(
        {"pair": [["pictures/1.png", "pictures/2.png"]] * 4, "one": "pictures/3.png", "label": [*"abab"]}
    )
    file = write(rows, tmp_path / "a.jsonl")
    columns = {"pair": "pair", "both": ["one", "one"]}
    splits = load_table(columns, files={"train": file, "validation": file}, files_in=["pair", "both"])
    assert splits["train"]["pair"][0] == [str(tmp_path / "pictures" / f"{i}.png") for i in (1, 2)]
    assert splits["train"]["one"][0] == str(tmp_path / "pictures" / "3.png")
    gone = write(rows.assign(pair=[["pictures/1.png", "gone.png"]] * 4), tmp_path / "b.jsonl")
    with pytest.raises(FileNotFoundError, match="4 of 4 are not there"):
        load_table(columns, files={"train": gone}, files_in=["pair", "both"])


def test_a_test_file_without_the_label_column(table, tmp_path):
    files = {"train": write(table, tmp_path / "a.csv"), "test": write(table.drop(columns="kind"), tmp_path / "b.csv")}
    assert list(load_table(COLUMNS, label="kind", files=files)) == ["train", "validation"]


def test_too_few_rows_to_cut_and_two_sources(tmp_path):
    file = write(pd.DataFrame({"caption": ["a", "b"], "label": ["x", "y"]}), tmp_path / "a.csv")
    with pytest.raises(ValueError, match="a class of at least two rows to cut"):
        load_table({"text": "caption"}, files={"train": file})
    with pytest.raises(ValueError, match="a dataset name or files"):
        load_table({"text": "caption"}, files={"train": file}, dataset_name="name")


def test_addresses_in_place_of_paths(table, tmp_path):
    file = write(table.assign(img="https://example.org/a.png"), tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"got the address 'https://.*; download the files first"):
        load_table(COLUMNS, label="kind", files={"train": file}, files_in=["image"])


IN_MEMORY = {
    "frame": lambda rows: rows,
    "dataset": lambda rows: Dataset.from_pandas(rows, preserve_index=False),
    "shuffled": lambda rows: Dataset.from_pandas(rows, preserve_index=False).shuffle(seed=0).with_format("torch"),
    "list": lambda rows: rows.to_dict("records"),
    "folder of one table": lambda rows: rows.to_csv("one/train.csv", index=False) or "one",
    "saved by datasets": lambda rows: (
        Dataset.from_pandas(rows, preserve_index=False).save_to_disk("one/all") or "one/all"
    ),
}


@pytest.mark.parametrize("kind", IN_MEMORY)
def test_tables_that_are_no_single_file(table, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one").mkdir()
    rows = table[table["kind"] != "eel"].set_index(np.arange(39) * 7)  # an index that is no column
    rows = rows.assign(img=[str(tmp_path / path) for path in rows["img"]])
    splits = load_table(COLUMNS, label="kind", files={"train": IN_MEMORY[kind](rows)}, files_in=["image"])
    both = [row for split in splits.values() for row in split]
    assert {row["caption"] for row in both} == set(rows["caption"]) and len(both) == 39
    assert all(row["img"].endswith(f"/{row['caption'].split()[1]}.png") for row in both)


def test_a_frame_keeps_texts_and_its_gaps():
    frame = pd.DataFrame({"text": ["007", np.nan, "NA", None], "age": [1.5, np.nan, 2, 3], "label": [*"abab"]})
    rows = load_table({"text": "text", "n": "age"}, files={"train": frame, "validation": frame})["train"]
    assert rows["text"][:] == ["007", None, "NA", None] and rows["age"][:] == [1.5, None, 2, 3]
    assert rows["source_row"][0] == "table 'train', row 1"


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (
            pd.DataFrame({"text": ["a", 3], "label": [*"ab"]}),
            r"one type in each column, got {'text': \['int', 'str'\]}",
        ),
        (pd.DataFrame([["a", "b"]], columns=["text", 3]), r"texts as names of columns, each once, got \[3\]"),
        (pd.DataFrame([["a", "b"]], columns=["label", "label"]), r"got \['label', 'label'\]; rename"),
        (pd.DataFrame({"text": [], "label": []}), "Expected rows in the table of the split 'train', got none"),
    ],
)
def test_a_frame_that_is_no_table_of_columns(frame, said):
    with pytest.raises(ValueError, match=said):
        load_table({"text": "text"}, files={"train": frame})


def test_a_folder_of_several_splits_gives_the_one_that_is_asked_for(table, tmp_path):
    write(table[:30], tmp_path / "train.csv")
    write(table[30:], tmp_path / "test.csv")
    files = {"train": str(tmp_path), "test": tmp_path}
    splits = load_table(COLUMNS, label="kind", files=files)
    assert len(splits["test"]) == 10 and len(splits["train"]) + len(splits["validation"]) == 30
    with pytest.raises(ValueError, match=r"the split 'prototypes', got \['test', 'train'\]"):
        load_table(COLUMNS, label="kind", files={"train": str(tmp_path), "prototypes": str(tmp_path)})


# By type: the values of a column that no table of Arrow holds, and how the message names them
UNLIKE = {
    "intervals": (pd.cut([1, 5, 9], 3), "Interval"),
    "periods": (pd.period_range("2020", periods=3, freq="D"), "Period"),
    "complex": ([1j, 2j, 3j], "complex"),
    "whole numbers without end": ([2**70, 1, 2], "int"),
    "uuids": ([uuid.UUID(int=i) for i in range(3)], "UUID"),
    "truth and numbers": ([True, 2, 3], "bool', 'int"),
}


@pytest.mark.parametrize("kind", UNLIKE)
@pytest.mark.parametrize("form", ["frame", "rows"])
def test_a_column_that_arrow_does_not_hold_is_named_if_it_is_needed(kind, form):
    values, name = UNLIKE[kind]
    frame = pd.DataFrame({"text": [*"abc"], "unlike": values, "label": [*"xyx"]})
    table = frame if form == "frame" else frame.to_dict("records")
    files = {"train": table, "validation": table}
    assert load_table({"text": "text"}, files=files)["train"]["text"][:] == [*"abc"]
    for columns, label in (({"text": "unlike"}, "label"), ({"text": "text"}, "unlike")):
        with pytest.raises(
            ValueError, match=rf"one type in each column, got {{'unlike': \['{name}'\]}} .*; convert them"
        ):
            load_table(columns, label, files=files)
    with pytest.raises(ValueError, match="or leave these columns out"):
        infer_columns(table)


def test_columns_of_a_frame_that_are_not_needed_may_have_any_name():
    frame = pd.DataFrame([["a", "x", 1, 2], ["b", "y", 3, 4]], columns=["text", "label", "n", "n"])
    files = {"train": frame, "validation": frame}
    assert load_table({"text": "text"}, files=files)["train"]["text"][:] == ["a", "b"]
    with pytest.raises(ValueError, match=r"each once, got \['n', 'n'\]"):
        load_table({"text": "n"}, files=files)


def test_paths_may_be_objects(table, tmp_path):
    frame = table[:10].assign(img=[tmp_path / path for path in table["img"][:10]])
    splits = load_table(COLUMNS, "kind", files={"train": frame, "validation": frame}, files_in=["image"])
    assert splits["train"]["img"][3] == str(tmp_path / "pictures" / "3.png")


PARQUET = {
    "map": pa.array([[("a", 1)]] * 4, pa.map_(pa.string(), pa.int64())),
    "string_view": pa.array([*"abcd"], pa.string_view()),
    "uuid": pa.array([uuid.UUID(int=i).bytes for i in range(4)], pa.binary(16)).cast(pa.uuid()),
}


@pytest.mark.parametrize("kind", PARQUET)
def test_a_parquet_column_of_an_unknown_type_is_named_if_it_is_needed(kind, tmp_path):
    file = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": [*"abcd"], "label": [*"xyxy"], "odd": PARQUET[kind]}), file)
    files = {"train": file, "validation": file}
    assert load_table({"text": "text"}, files=files)["train"]["text"][:] == [*"abcd"]
    for load in (lambda: load_table({"text": "odd"}, files=files), lambda: infer_columns(file)):
        with pytest.raises(
            ValueError, match=rf"in .*a\.parquet, got {{'odd': .*{kind}.*; convert them, for instance to te"
        ):
            load()


def test_a_parquet_column_that_is_there_twice(tmp_path):
    columns = pa.Table.from_arrays([pa.array([*"ab"])] * 3, names=["text", "text", "label"])
    pq.write_table(columns, tmp_path / "a.parquet")
    with pytest.raises(
        ValueError, match=r"Expected each column once in .*a\.parquet, got \['text'\] twice; rename one"
    ):
        load_table({"text": "text"}, files={"train": str(tmp_path / "a.parquet")})


def test_categories_of_a_frame_and_of_its_parquet_file_are_their_values(tmp_path):
    frame = pd.DataFrame({"text": pd.Categorical([*"abab"]), "label": pd.Categorical([7, 5, 7, 5])})
    frame.to_parquet(tmp_path / "a.parquet")
    for table in (frame, str(tmp_path / "a.parquet")):
        rows = load_table({"text": "text"}, files={"train": table, "validation": table})["train"]
        assert rows["text"][:] == [*"abab"] and rows.features["label"].names == ["5", "7"]


@pytest.mark.parametrize(
    ("columns", "label", "problem_type"),
    [
        ({"text": "kind"}, "kind", "single_label_classification"),
        ({"text": "caption", "stats": ["extra", "kind"]}, "kind", "multi_label_classification"),
        ({"text": "caption", "n": "extra"}, ["extra", "size"], "regression"),
        ({"text": "extra,size"}, ["extra", "size"], "regression"),
    ],
)
def test_a_modality_that_reads_the_label(table, columns, label, problem_type):
    frame = table.assign(size=table["extra"] * 2, **{"extra,size": "a"})
    with pytest.raises(
        ValueError, match=r"Expected modalities of other columns than the label .*would tell the answer"
    ):
        load_table(columns, label, files={"train": frame}, problem_type=problem_type)


def test_a_long_text_in_place_of_a_path_is_cut(table):
    frame = table.assign(img=["iVBORw0KGgo" * 5000] * 40)
    with pytest.raises(FileNotFoundError, match="40 of 40 are not there") as error:
        load_table(COLUMNS, "kind", files={"train": frame}, files_in=["image"])
    assert len(str(error.value)) < 1500


def test_a_file_in_place_of_the_name_of_a_dataset(table, tmp_path):
    with pytest.raises(ValueError, match=r"or of a folder, got the file .*a\.csv; give it as --train_file"):
        load_table(COLUMNS, "kind", dataset_name=write(table, tmp_path / "a.csv"))
