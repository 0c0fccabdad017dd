"""Tables: each cell is read as it is written, errors name the file and the line, and labels are classes."""

import csv
import gzip
import json
import time

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from pmr_hf import MultimodalCollator, MultimodalProcessor, NumericProcessor
from pmr_hf.command_line.script_arguments import ScriptArguments
from pmr_hf.command_line.splits import load_splits
from pmr_hf.data.columns import parse_column, whole_column, with_numbers
from pmr_hf.data.new_encoders import EncoderInput, numbers, tabular
from pmr_hf.data.table_files import read_table
from pmr_hf.data.tables import load_table


GUESSED = ["NA", "N/A", "nan", "null", "None", "NULL", "-", "007", "+1", "1e3", "1_000", "True", "2020-01-02", "0x1F"]
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
CELLS = st.sampled_from([*GUESSED, '"', '""', "'", '"a", "b"', " a ", "a\nb", "a,b", "\ufeff"]) | TEXT


def table(tmp_path, name, content, encoding="utf-8"):
    (tmp_path / name).write_bytes(content.encode(encoding))
    return tmp_path / name


def labelled(tmp_path, labels, suffix=".csv", **kwargs):
    """The splits of a table with these labels, all of which train and validate."""
    rows = pd.DataFrame({"text": [f"text {i}" for i in range(len(labels))], "label": labels})
    file = str(tmp_path / f"labels{suffix}")
    rows.to_json(file, orient="records", lines=True) if suffix == ".jsonl" else rows.to_csv(file, index=False)
    return load_table({"text": "text"}, files={"train": file, "validation": file}, **kwargs)


# ---- Cells ----


@settings(max_examples=50)
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6))
def test_a_csv_file_gives_the_cells_that_were_written(tmp_path, rows):
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])
    assert read_table(tmp_path / "a.csv")[:] == {
        "a": [row[0] or None for row in rows],
        "b": [row[1] or None for row in rows],
    }


@settings(max_examples=50)
@given(st.lists(st.tuples(CELLS, CELLS).map(lambda row: [" ".join(cell.split()) for cell in row]), min_size=1))
def test_a_tsv_file_has_a_row_for_each_line(tmp_path, rows):
    rows = [row for row in rows if any(row)] + [["end", "end"]]
    file = table(tmp_path, "a.tsv", "".join(f"{a}\t{b}\n" for a, b in [("a", "b"), *rows]))
    assert read_table(file)[:] == {name: [row[i] or None for row in rows] for i, name in enumerate("ab")}


@settings(max_examples=50)
@given(st.lists(CELLS, min_size=1, max_size=6))
def test_a_jsonl_file_keeps_its_strings(tmp_path, cells):
    file = table(tmp_path, "a.jsonl", "".join(json.dumps({"a": cell}) + "\n" for cell in cells))
    assert read_table(file)["a"] == cells


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_no_cell_is_guessed_whatever_stands_beside_it(tmp_path, suffix):
    mark = "," if suffix == ".csv" else "\t"
    content = f"a{mark}b\n" + "".join(f"{cell}{mark}x\n" for cell in ["", *GUESSED])
    assert read_table(table(tmp_path, f"a{suffix}", content))["a"] == [None, *GUESSED]


def test_quotes_in_a_tsv_file_swallow_no_rows(tmp_path, caplog):
    lines = ['"one', "two", '5" disk', '"four"', '"', "six"]
    file = table(tmp_path, "a.tsv", "text\tlabel\n" + "".join(f"{text}\tx\n" for text in lines))
    assert read_table(file)["text"] == lines
    assert "1 cells of column 'text' in" in caplog.text and "begin and end with a quote" in caplog.text


def test_numbers_are_numbers_and_texts_of_digits_are_texts(tmp_path):
    file = table(tmp_path, "a.csv", "code,age,label\n007, 3.5 ,x\n,,y\n1,-2e1,x\n2,4,y\n")
    files = {"train": str(file), "validation": str(file)}
    rows = load_table({"text": "code", "age": "age"}, files=files, numbers_in=["age"])["train"]
    assert rows["code"] == ["007", None, "1", "2"]
    assert np.array_equal(np.array(rows["age"], float), [3.5, np.nan, -20, 4], equal_nan=True)


def test_a_column_of_texts_and_numbers_stays_text(tmp_path):
    file = table(tmp_path, "a.csv", "code,label\n007,x\n008,y\n")
    columns, files = {"text": "code", "n": "code"}, {"train": str(file), "validation": str(file)}
    assert load_table(columns, files=files, numbers_in=["n"])["train"]["code"] == ["007", "008"]


def test_a_number_that_is_none_is_named_by_the_collator(tmp_path):
    file = table(tmp_path, "a.csv", "age,label\n3,x\nold,y\n")
    rows = load_table({"n": "age"}, files={"train": str(file), "validation": str(file)}, numbers_in=["n"])["train"]
    collator = MultimodalCollator(MultimodalProcessor({"n": NumericProcessor([0.0], [1.0])}), {"n": "age"})
    with pytest.raises(ValueError, match=r"a\.csv, row 2.*'old'"):
        collator(list(rows))


def test_blanks_around_paths_do_not_count(tmp_path):
    (tmp_path / "x.png").write_bytes(b"x")
    file = table(tmp_path, "a.csv", "img,label\n x.png ,a\nx.png,b\n   ,b\n")
    rows = load_table({"i": "img"}, files={"train": str(file), "validation": str(file)}, files_in=["i"])["train"]
    assert rows["img"] == [str(tmp_path / "x.png")] * 2 + ["   "]


def test_tables_that_datasets_reads_are_not_guessed_either(tmp_path):
    (tmp_path / "csv").mkdir()
    (tmp_path / "tsv").mkdir()
    table(tmp_path, "csv/part.csv", "text,label\n007,NA\nnull,None\nNA,NA\nx,None\n")
    table(tmp_path, "tsv/part.tsv", 'text\tlabel\n"007\tNA\nnull\tNone\nNA"\tNA\nx\tNone\n')
    for kind, texts in {"csv": {"007", "null", "NA", "x"}, "tsv": {'"007', "null", 'NA"', "x"}}.items():
        splits = load_table({"text": "text"}, dataset_name=str(tmp_path / kind), validation_size=0.5)
        assert set(splits["train"]["text"]) | set(splits["validation"]["text"]) == texts
        assert splits["train"].features["label"].names == ["NA", "None"]


# ---- Files ----


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "latin-1", "utf-16"])
@pytest.mark.parametrize("name", ["A.CSV", "a.Tsv", "a.jsonl"])
def test_an_encoding_and_an_ending_in_capitals(tmp_path, name, encoding):
    rows = {"A.CSV": "text,b\ncafé,x\n", "a.Tsv": "text\tb\ncafé\tx\n", "a.jsonl": '{"text": "café", "b": "x"}\n'}
    file = table(tmp_path, name, rows[name], encoding)
    given = "utf-8" if encoding == "utf-8-sig" else encoding
    assert read_table(file, encoding=given)[:] == {"text": ["café"], "b": ["x"]}


def test_the_command_line_gives_the_encoding(tmp_path):
    file = table(tmp_path, "a.csv", "text,label\ncafé,x\nthé,y\n", "cp1252")
    options = {"columns": ["text=text"], "train_file": str(file), "validation_file": str(file)}
    options["backbones"] = ["text=a"]
    args = ScriptArguments(**options, encoding="cp1252", on_error="missing")  # paths of files that are not there
    splits = load_splits(args, MultimodalProcessor({}), seed=0)
    assert splits["train"]["text"] == [str(tmp_path / "café"), str(tmp_path / "thé")]
    with pytest.raises(ValueError, match="got 'cp1253x'; correct --encoding"):
        ScriptArguments(**options, encoding="cp1253x")


TOO_WIDE = r"Expected 2 cells in .*{}, line 3, as in its header, got 3; correct the line"
BAD_FILES = {
    "empty": ("a.csv", b"", "an empty file"),
    "header": ("a.csv", b"text,label\n", "found none below the names of its columns"),
    "header of tsv": ("a.tsv", b"text\tlabel\n\n", "found none below the names of its columns"),
    "no json rows": ("a.jsonl", b"\n \n", "found none"),
    "cells": ("a.csv", b"text,label\na,b\na,b,c\n", TOO_WIDE.format("a.csv")),
    "after a cell of two lines": ("a.csv", b'text,label\n"a\nb",c\na\n', r"line 4, as in its header, got 1"),
    "cells of tsv": ("a.tsv", b"text\tlabel\na\tb\na\tb\tc\n", TOO_WIDE.format("a.tsv") + ".*has no quoting"),
    "open quote": ("a.csv", b'text,label\na,b\n"a,b\nc,d\n', r"lines 3 to 4, but unexpected end of data"),
    "quote inside": ("a.csv", b'text,label\n"a" b,c\n', r"a.csv, line 2, but .* expected after"),
    "semicolons": ("a.csv", b"text;label\na;b\n", "Expected commas between the columns of .*a.csv, got the header"),
    "twice": ("a.csv", b"text,text,label\na,b,c\n", r"got \['text'\] twice; rename one"),
    "cp1252": ("a.csv", b"text,label\na,b\ncaf\xe9,c\n", r"in utf-8 in .*a.csv, but line 3 .*--encoding cp1252"),
    "cp1252 in json": ("a.jsonl", b'{"text": "caf\xe9"}\n', r"a.jsonl, but line 1 .*--encoding cp1252"),
    "utf-16": ("a.csv", "text,label\na,b\n".encode("utf-16"), "give its encoding, such as --encoding utf-16"),
    "broken json": ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"Expected JSON in .*a.jsonl, line 2"),
    "no object": ("a.jsonl", b'{"text": "a"}\n[1]\n', r"in .*a.jsonl, line 2, got \[1\]"),
    "types": ("a.jsonl", b'{"text": "a"}\n{"text": ["a"]}\n', r"column 'text' of .*a.jsonl, but line 2 has \['a'\]"),
    "xlsx": ("a.csv", b"PK\x03\x04\x14\x00\x06\x00", "a.csv, which is an Excel or zip file; save it as csv"),
    "xls": ("a.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "which is an Excel file"),
    "gzip": ("a.csv", gzip.compress(b"text,label\na,b\n"), "which is a gzip file; unpack it"),
    "parquet as json": ("a.json", b"PAR1\x15\x04", "give it the ending .parquet"),
    "pointer": ("a.tsv", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a pointer of Git LFS"),
    "page": ("a.csv", b"<!DOCTYPE html>\n<html>\n", "a web page; download the file itself"),
    "no parquet": ("a.parquet", b"PAR1", r"Expected a parquet file, got .*a.parquet, which cannot be read"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_an_error_names_the_file_and_the_line(tmp_path, kind):
    name, content, message = BAD_FILES[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"(?s)^Expected .*{name}") as error:
        read_table(tmp_path / name, {"text", "label"})
    assert pytest.raises(ValueError, match=message).matches(error.value)


def test_blank_lines_are_no_rows(tmp_path):
    file = table(tmp_path, "a.csv", "\n  \ntext,label\n\na,b\r\n\r\n,\nc,d\n\n")
    assert read_table(file)[:] == {"text": ["a", None, "c"], "label": ["b", None, "d"]}


def test_other_columns_may_hold_anything(tmp_path):
    file = table(tmp_path, "a.jsonl", '{"text": "a", "b": 1}\n{"text": "c", "b": [1]}\n')
    assert read_table(file, {"text"})[:] == {"text": ["a", "c"]}


@pytest.mark.parametrize(
    ("text", "columns"),
    [("a", "a"), ("a,b", ["a", "b"]), ('"a,b"', "a,b"), ('"a,b",c', ["a,b", "c"]), ('"say ""a"""', 'say "a"')],
)
def test_a_column_whose_name_has_a_comma(tmp_path, text, columns):
    assert parse_column(text) == columns
    names = [columns] if isinstance(columns, str) else columns
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[*names, "label"], ["1"] * len(names) + ["x"], ["2"] * len(names) + ["y"]])
    files = {f"{split}_file": str(tmp_path / "a.csv") for split in ("train", "validation")}
    args = ScriptArguments(columns=[f"n={text}"], backbones=["n=numbers"], **files)
    assert load_splits(args, MultimodalProcessor({}), seed=0)["train"][names[0]] == [1, 2]


@pytest.mark.parametrize("text", ["", ",", "a,", '"a'])
def test_names_of_columns_that_are_none(text):
    with pytest.raises(ValueError, match=r"Expected names of columns.*correct it"):
        parse_column(text)


def test_a_column_called_source_row(tmp_path):
    file = str(table(tmp_path, "a.csv", "source_row,label\na,b\n"))
    with pytest.raises(ValueError, match="Expected columns of other names than 'source_row'"):
        load_table({"text": "source_row"}, files={"train": file})
    both = str(table(tmp_path, "b.csv", "text,source_row,label\na,mine,x\nb,mine,y\n"))
    rows = load_table({"text": "text"}, files={"train": both, "validation": both})["train"]
    assert rows["source_row"] == ["b.csv, row 1", "b.csv, row 2"]


# ---- Labels ----


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["NA", "null", "NA"], ["NA", "null"]),
        (["b", " b", "a ", "a"], ["a", "b"]),
        (["10", "9", "007", "9"], ["007", "9", "10"]),
        (["01", "1", "1", "01"], ["01", "1"]),
        (["True", "False", "True"], ["False", "True"]),
        (["caf\u00e9", "tea", "tea"], ["caf\u00e9", "tea"]),
    ],
)
def test_labels_are_texts_without_blanks(tmp_path, labels, names):
    splits = labelled(tmp_path, labels)
    assert splits["train"].features["label"].names == names
    found = splits["train"].features["label"].int2str(splits["train"]["label"][:])
    assert found == [label.strip() for label in labels]


@pytest.mark.parametrize(("train", "other"), [("0 1 2", "0.0 1.0 2.0"), ("0.0 1.0", "1 0"), ("0 1 x", "1.0 x")])
def test_a_whole_number_with_and_without_decimals_is_one_class(tmp_path, train, other):
    files = {}
    for split, labels in {"train": train.split() * 2, "validation": other.split()}.items():
        files[split] = str(table(tmp_path, f"{split}.csv", "text,label\n" + "".join(f"t,{x}\n" for x in labels)))
    splits = load_table({"text": "text"}, files=files)
    feature = splits["train"].features["label"]
    found = feature.int2str(splits["validation"]["label"][:])
    assert [x.removesuffix(".0") for x in found] == [x.removesuffix(".0") for x in other.split()]


def test_a_truth_value_of_json_is_that_of_pandas(tmp_path):
    rows = [{"text": "a", "label": True}, {"text": "b", "label": False}]
    file = table(tmp_path, "a.csv", "text,label\na,false\nb,TRUE\n")
    splits = load_table({"text": "text"}, files={"train": rows, "validation": str(file)})
    assert splits["train"].features["label"].names == ["False", "True"] and splits["validation"]["label"][:] == [0, 1]


def test_one_class_written_in_two_ways(tmp_path):
    with pytest.raises(ValueError, match=r"written in one way, got '1' and '1\.0'|got '1\.0' and '1'"):
        labelled(tmp_path, ["1", "1.0", "2", "2"])


def test_a_class_is_the_same_however_unicode_composes_its_letters(tmp_path):
    """In one split, and in another one; also if a dataset declares the classes."""
    composed, apart = "caf\u00e9", "cafe\u0301"
    assert labelled(tmp_path, [composed, "tea", apart])["train"]["label"][:] == [0, 1, 0]
    declared = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}).cast_column(
        "label", ClassLabel(names=["tea", apart])
    )
    other = [{"text": "c", "label": composed}, {"text": "d", "label": "tea"}]
    splits = load_table({"text": "text"}, files={"train": declared, "validation": other})
    assert splits["validation"]["label"][:] == [1, 0]


def test_bytes_are_no_classes():
    rows = [{"text": "a", "label": b"x"}, {"text": "b", "label": b"y"}]
    with pytest.raises(ValueError, match=r"Expected one label per row in column 'label', got Value\('binary'\)"):
        load_table({"text": "text"}, files={"train": rows, "validation": rows})


def test_a_blank_label_is_missing(tmp_path):
    with pytest.raises(ValueError, match=r"but 1 have none, first labels\.csv, row 2; drop these rows"):
        labelled(tmp_path, ["a", "  ", "b"])


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("kind", ["prices", "whole prices", "dates", "names"])
def test_values_that_are_no_classes(tmp_path, kind, suffix):
    values = {
        "prices": [round(10 + 0.37 * i, 2) for i in range(200)],
        "whole prices": [1000 + 7 * i for i in range(200)],
        "dates": [f"2024-{1 + i // 28:02}-{1 + i % 28:02}" for i in range(200)],
        "names": [f"name {i}" for i in range(200)],
    }[kind]
    with pytest.raises(ValueError, match=r"got 200 different .* in 200 rows.*set problem_type='regression'"):
        labelled(tmp_path, values, suffix)


def test_measured_values_that_repeat_are_no_classes_but_grades_are(tmp_path):
    with pytest.raises(ValueError, match="got 40 different numbers in 400 rows"):
        labelled(tmp_path, [0.5 + i % 40 for i in range(400)])
    assert len(labelled(tmp_path, [i % 9 / 2 for i in range(90)])["train"].features["label"].names) == 9
    assert len(labelled(tmp_path, [i % 200 for i in range(1000)])["train"].features["label"].names) == 200


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("value", ["a", 1, 2.5])
def test_one_class_in_all(tmp_path, value, suffix):
    with pytest.raises(ValueError, match=rf"at least two classes in column 'label' .*, got only '{value}'"):
        labelled(tmp_path, [value] * 20, suffix)


def test_classes_that_a_dataset_declares_are_taken(tmp_path):
    names = [f"class {i}" for i in range(30)]
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    rows = Dataset.from_dict({"text": ["a"] * 30, "label": list(range(30))}, features)
    rows.to_parquet(tmp_path / "train.parquet")
    rows.to_parquet(tmp_path / "validation.parquet")
    splits = load_table({"text": "text"}, dataset_name=str(tmp_path))
    assert splits["train"].features["label"].names == names and splits["train"]["label"][:] == list(range(30))


# ---- Time ----


def test_a_column_of_selected_rows():
    rows = Dataset.from_dict({"a": [5, 6, 7, 8]}).select([3, 1])
    assert whole_column(rows, "a").to_pylist() == [8, 6] == rows["a"][:]
    assert whole_column(rows.shuffle(seed=0), "a").to_pylist() == rows.shuffle(seed=0)["a"][:]


def test_numbers_are_fitted_alike_by_column_and_by_row():
    rows = {"source_row": list("wxyz"), "a": [1.0, 2.0, None, 4.0], "b": [1, 2, 3, 5]}
    by_column = Dataset.from_dict(rows)
    by_row = by_column.cast_column("a", Value("string"))
    found = [numbers(EncoderInput(data, ["a", "b"], "raise"))[1] for data in (by_column, by_row)]
    assert found[0].mean == pytest.approx(found[1].mean) and found[0].mean == pytest.approx([7 / 3, 11 / 4])


def test_many_rows_are_read_in_little_time(tmp_path):
    """50,000 rows; a million take twenty times as long. An attribute read per row alone takes longer than this."""
    lines = "".join(f"some text of row {i},{i / 7},class {i % 5},{'x' * 50}\n" for i in range(50_000))
    file = str(table(tmp_path, "a.csv", "text,n,label,unused\n" + lines))
    begin = time.process_time()
    splits = load_table({"text": "text", "n": "n"}, files={"train": file}, numbers_in=["n"])
    collator = MultimodalCollator(
        MultimodalProcessor({"n": NumericProcessor([0.0], [1.0])}), {"n": "n"}, label="label", num_labels=5
    )
    collator.check_dataset(splits["train"])
    assert time.process_time() - begin < 3
    assert len(splits["train"]) == 45_000 and splits["train"].features["n"].dtype == "float64"


# ---- What pandas and other programs write ----


@pytest.mark.parametrize("orient", ["columns", "index", "split", "table"])
def test_a_file_of_one_object_for_all_rows_is_named(tmp_path, orient):
    frame = pd.DataFrame({"text": ["a", "b", "c"], "label": ["x", "y", "x"]})
    frame.to_json(tmp_path / "a.json", orient=orient)
    with pytest.raises(
        ValueError, match=r"an object for each row in .*a\.json, .* which holds all rows; .*orient='records'"
    ):
        read_table(tmp_path / "a.json", {"text", "label"})
    frame.to_json(tmp_path / "a.json", orient="records")
    assert read_table(tmp_path / "a.json")["text"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "row",
    [
        {"stats": [1, 2], "frames": ["a.png", "b.png"]},
        {"sound": {"array": [0.5], "sampling_rate": 8000}},
        {"data": [1, 2], "text": "a"},
        {"data": [[1, 2], [3, 4]]},
    ],
)
def test_a_file_of_one_row(tmp_path, row):
    assert read_table(table(tmp_path, "a.jsonl", json.dumps(row)))[0] == row


@pytest.mark.parametrize(
    ("name", "header", "marks"),
    [("a.csv", "text;label", "commas"), ("a.csv", "text\tlabel", "commas"), ("a.tsv", "text,label", "tabs")],
)
@pytest.mark.parametrize("columns", [None, {"text", "label"}])
def test_another_mark_between_columns_is_told_by_the_header(tmp_path, name, header, marks, columns):
    """The cells of the first table have a decimal comma too."""
    file = table(tmp_path, name, f"{header}\n1,5;a\n")
    with pytest.raises(ValueError, match=f"Expected {marks} between the columns of .*, got the header"):
        read_table(file, columns)
    assert read_table(table(tmp_path, "b.csv", "a|b\nx\n"), {"a|b"})["a|b"] == ["x"]


@pytest.mark.parametrize("bad", ["1,5", "12 kg", "NA"])
def test_one_cell_does_not_make_categories_of_a_column_of_numbers(bad):
    cells = [str(i / 4) for i in range(30)] + [bad]
    rows = Dataset.from_dict({"x": cells, "source_row": cells})
    with pytest.raises(
        ValueError, match=rf"in column 'x', got numbers, but 1 of 31 cells .* as '{bad}'; leave these empty"
    ):
        tabular(EncoderInput(rows, ["x"]))
    assert list(tabular(EncoderInput(rows, ["x"], kinds={"x": "category"}))[1].categories) == ["x"]
    repeated = Dataset.from_dict({"x": [*"1234", bad] * 4})
    assert list(tabular(EncoderInput(repeated, ["x"]))[1].categories) == ["x"]


def test_a_bad_cell_of_a_table_is_found_in_its_file(tmp_path):
    """Whatever rows were taken out for validation before it."""
    cells = [str(i / 4) for i in range(40)]
    cells[29] = "N/A"
    file = table(tmp_path, "a.csv", "x,label\n" + "".join(f"{cell},{'ab'[i % 2]}\n" for i, cell in enumerate(cells)))
    train = load_table({"tab": ["x"]}, files={"train": file}, seed=3)["train"]
    assert "N/A" in train["x"][:]
    with pytest.raises(ValueError, match=r"in a\.csv, row 30, but 'N/A' in column 'x' is not a number; .*--on_error"):
        tabular(EncoderInput(train, ["x"], kinds={"x": "number"}))


def test_columns_of_classes_are_their_names(tmp_path):
    """Another table of the same names may number them in another way."""
    found = []
    for i, names in enumerate((["Bonn", "Graz", "Linz"], ["Linz", "Bonn", "Graz"])):
        cities = [names.index(name) for name in ("Graz", "Linz", "Bonn", "Graz")] * 5
        features = Features({"city": ClassLabel(names=names), "label": Value("string")})
        rows = Dataset.from_dict({"city": [*cities[:-1], None], "label": [*"abab"] * 5}, features=features)
        rows.to_parquet(tmp_path / f"{i}.parquet")
        splits = load_table({"tab": ["city"]}, files={"train": str(tmp_path / f"{i}.parquet")})
        assert set(splits["train"]["city"]) <= {"Bonn", "Graz", "Linz", None}
        found.append(tabular(EncoderInput(splits["train"], ["city"]))[1].categories)
    assert found[0] == found[1] == {"city": ["Bonn", "Graz", "Linz"]}


def test_columns_without_a_name_are_left_out(tmp_path, caplog):
    file = table(tmp_path, "a.csv", "text,label,,\nhello,a,,\nbye,b,,\n")
    assert read_table(file).column_names == ["text", "label"]
    assert "2 columns of " in caplog.text and "have no name in its header" in caplog.text
    assert read_table(table(tmp_path, "b.csv", ",text\n0,hello\n")).column_names == ["", "text"]


def test_numbers_with_a_comma_do_not_become_categories():
    rows = Dataset.from_dict({"x": [f"{i},5" for i in range(30)]})
    with pytest.raises(
        ValueError, match="in column 'x', got numbers with a unit or a comma, such as '0,5'; write them"
    ):
        tabular(EncoderInput(rows, ["x"]))
    codes = Dataset.from_dict({"x": [f"{i:05}" for i in range(30)]})
    assert list(tabular(EncoderInput(codes, "x"))[1].categories) == ["x"]


@pytest.mark.parametrize("column", ["x", ["x", "y"]])
def test_a_modality_of_numbers_that_no_row_has(column):
    rows = Dataset.from_dict({"x": [None, float("nan")], "y": [None, float("nan")], "source_row": ["a", "b"]})
    with pytest.raises(ValueError, match=r"Expected numbers in column .* of the training rows, got none"):
        numbers(EncoderInput(rows, column))


def test_the_only_column_of_a_table_may_be_numbers():
    rows = Dataset.from_dict({"x": ["1", " 2.5 ", None]})
    for part, expected in ((rows, [1, 2.5, np.nan]), (rows.select([2, 0]), [np.nan, 1])):
        found = with_numbers(part, {"x"})
        assert found.column_names == ["x"]
        np.testing.assert_array_equal(np.array(found["x"][:], dtype=float), expected)
