"""What each column of a table holds, told from its values and features."""

import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from datasets import Audio, ClassLabel, Dataset, Image, List
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from pmr_hf import infer_columns
from pmr_hf.data.default_encoders import DEFAULT_ENCODERS


LABELS = ["cat", "dog", "dog", "eel", "cat", "eel", "eel", "dog", "cat", "cat"] * 4
GENERATOR = np.random.default_rng(0)
DRAWN = GENERATOR.integers(0, 1000, 40).tolist()
CITIES = ["Bonn", "New York", "Ulm"]
# By what it is: 40 values, the kind that they have, and a part of the reason
COLUMNS = {
    "pictures": ([f"a b/{i}.PNG" for i in DRAWN], "image", "40 of 40 are files of pictures, such as 'a b/"),
    "addresses": ([f"https://a.org/{i}.jpg?size=3" for i in DRAWN], "image", "files of pictures"),
    "most are sound": (["none", *(f"{i}.flac" for i in range(39))], "audio", "39 of 40 are files of sound"),
    "videos": ([f"{i}.mp4" if i % 3 else None for i in range(40)], "video", "files of videos"),
    "too few files": ([f"{i}.wav" if i % 5 else f"{i}.txt" for i in range(40)], "left out", "ids: 40 different codes"),
    "lists of pictures": ([[f"{i}.png", f"{i}.jpg"] for i in range(40)], "image", "80 of 80 are files of pictures"),
    "titles": ([f"The story of {i} cats" for i in range(40)], "text", "texts of 5 words on average, 40 of 40"),
    "captions that repeat": ([f"this is digit {i % 19}" for i in range(40)], "text", "19 of 40 different"),
    "a language without blanks": ([f"今日は天気がいいです{chr(0x4E00 + i)}" for i in range(40)], "text", "texts of"),
    "words": ([f"{'abcdefgh'[i % 8]}{'xyzuv'[i // 8]}" if i else "bx" for i in range(40)], "text", "single words, 39"),
    "cities": ([CITIES[i % 3] for i in DRAWN], "category", "3 values that repeat, such as "),
    "answers": ([["I live alone now", "I do not live alone"][i % 2] for i in DRAWN], "category", "2 values"),
    "truth": ([i % 2 == 0 for i in DRAWN], "category", "true or false"),
    "zero or one": ([str(i % 2) for i in DRAWN], "category", "two values, '0' and 1"),
    "yes or nothing": (["yes" if i % 2 else None for i in DRAWN], "category", "'yes' or no value"),
    "padded": ([f"0{i % 7}" for i in DRAWN], "category", "7 values that repeat"),
    "groups": ([i % 5 for i in DRAWN], "number", "numbers from 0 to 4"),
    "group id": ([i % 5 for i in DRAWN], "category", "5 ids that repeat, by their name"),
    "ages": ([20 + i % 70 for i in DRAWN], "number", "numbers from 2"),
    "texts of numbers": ([f" {i / 7:.3f} " for i in DRAWN], "number", "numbers from"),
    "numbers with gaps": ([float(i) if i % 3 else float("nan") for i in DRAWN], "number", "numbers from"),
    "numbers that stay the same or lack": ([3 if i % 3 else None for i in DRAWN], "category", "'3' or no value"),
    "numbers with NA": (
        [str(i) if j % 9 else "NA" for j, i in enumerate(DRAWN)],
        "left out",
        "5 of 40 cells are no numb",
    ),
    "prices": ([f"{i},50 €" for i in range(40)], "left out", "numbers with a unit or a comma, such as '0,50 €'"),
    "percents": ([f"{i % 13} %" for i in DRAWN], "category", "write them as 3.5 to use them as numbers"),
    "vectors as texts": (
        [f"[0.{i}, -1e-3, nan]" for i in range(40)],
        "left out",
        "lists written as texts, such as '[0.0",
    ),
    "arrays as texts": ([f"[0.{i}  1.\n 2.]" for i in range(40)], "left out", "lists written as texts"),
    "names as texts": ([f"['a{i}', \"b\"]" for i in range(40)], "left out", "lists written as texts"),
    "vectors as texts that repeat": ([f"[{i % 5}, 1]" for i in DRAWN], "left out", "lists written as texts"),
    "dicts as texts": ([f"{{'a': {i}}}" for i in range(40)], "left out", "lists written as texts"),
    "texts in brackets": ([f"[Music {i}] and more words" for i in range(40)], "text", "texts of 5 words"),
    "__index_level_0__": ([i * i * 17 for i in DRAWN[::-1]], "left out", "ids by their name"),
    "decimals": ([Decimal(i * i % 17) / 4 for i in DRAWN], "number", "numbers from 0 to 4"),
    "intervals of time": ([pd.Timedelta(i, "h") for i in DRAWN], "left out", "dates"),
    "vectors": ([[i, 0.5] for i in range(40)], "numbers", "a list of 2 numbers in each row"),
    "sequences": ([[[i, 0.5]] * (1 + i % 3) for i in range(40)], "numbers", "sequences of numbers"),
    "uneven": ([[1.0] * (1 + i % 3) for i in range(40)], "left out", "other things than equally many numbers"),
    "words in lists": ([["a", "b"]] * 40, "left out", "lists of texts"),
    "dicts": ([{"a": i} for i in range(40)], "left out", "dicts"),
    "index": ([*range(40)], "left out", "ids: whole numbers that count the rows, from 0 to 39"),
    "shuffled numbers of rows": (GENERATOR.permutation(40).tolist(), "left out", "ids: whole numbers that count"),
    "post_id": ([i * 977 for i in range(40)], "left out", "ids by their name: 40 different whole numbers"),
    "long": ([10**12 + i * i for i in range(40)], "left out", "ids or times: long numbers"),
    "codes": ([f"{i * 7919:x}" for i in range(1, 41)], "left out", "ids: 40 different codes"),
    "zip": ([f"{i:05}" for i in range(40)], "left out", "ids: 40 different codes"),
    "nothing": ([None] * 40, "left out", "no row has a value"),
    "blanks": ([" ", ""] * 20, "left out", "no row has a value"),
    "always": (["x"] * 40, "left out", "the same value 'x' in every row"),
    "one picture": (["a.png"] * 40, "left out", "the same value 'a.png' in every row"),
    "days": (
        [datetime.date(2020, 1, 1) + datetime.timedelta(i) for i in range(40)],
        "left out",
        "dates, such as '2020",
    ),
    "times": ([f"2020-01-{i % 28 + 1:02} 10:30:00" for i in DRAWN], "left out", "dates, such as "),
    "german dates": ([f"{i % 28 + 1}.3.2021" for i in DRAWN], "left out", "dates, such as "),
    "english dates": ([f"Mar {i % 28 + 1} 2004" for i in DRAWN], "left out", "dates, such as "),
    "long dates": ([f"{i % 28 + 1} March 2004, 07:08" for i in DRAWN], "left out", "dates, such as "),
    "dates of mails": ([f"Tue, {i % 28 + 1:02} Mar 2019 07:08:00 +0000" for i in DRAWN], "left out", "dates, such as "),
    "short dates and times": ([f"{i % 28 + 1:02}.03.2019, 07:08" for i in DRAWN], "left out", "dates, such as "),
    "compact dates": ([f"201903{i % 28 + 1:02}" for i in DRAWN], "left out", "dates, such as "),
    "numbers like dates": ([20190307 + 100 * i for i in DRAWN], "number", "numbers from 20190"),
    "areas": ([f"{1500 + i * 7} sq ft" for i in DRAWN], "left out", "numbers with a unit or a comma"),
    "speeds": ([f"{100 + i * 7} km/h" for i in DRAWN], "left out", "numbers with a unit or a comma"),
    "dollars": ([f"US$ {100 + i * 7}" for i in DRAWN], "left out", "numbers with a unit or a comma"),
    "thousands": ([f"{1 + i} 234.5" for i in DRAWN], "left out", "numbers with a unit or a comma"),
    "may": ([f"{name} may {i} be" for i, name in zip(DRAWN, LABELS, strict=True)], "text", "texts of 4 words"),
    "mostly NULL": (
        ["NULL"] * 22 + [str(i * 1.5) for i in range(18)],
        "category",
        "but 22 of 40 cells are no numbers, such as 'NULL'; leave these empty",
    ),
    "some NULL": (
        ["NULL"] * 15 + [str(i * 1.5) for i in range(25)],
        "left out",
        "but 15 of 40 cells are no numbers, such as 'NULL'; leave these empty",
    ),
    "levels": (["unknown"] * 20 + [*"12345"] * 4, "category", "6 values that repeat, such as 'unknown'"),
    "the label": ([f"The animal called {name}" for name in LABELS], "left out", "LEAK: each of its values"),
    "its number": ([{"cat": 7, "dog": 3, "eel": 5}[name] for name in LABELS], "left out", "LEAK"),
    "bytes": ([b"a%d" % i for i in range(40)], "left out", "bytes of an unknown type"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_of_values(name):
    values, kind, reason = COLUMNS[name]
    (found,) = infer_columns([{name: value, "label": label} for value, label in zip(values, LABELS, strict=True)]).found
    assert (found.name, found.kind) == (name, kind), found.reason
    assert reason in found.reason and (found.modality is None) == (kind == "left out")


def test_features_of_a_dataset_tell_without_reading_files():
    features = {
        "photo": Image(),
        "sound": Audio(),
        "group": ClassLabel(names=["a", "b", "c"]),
        "several": List(Image()),
    }
    gone = {"bytes": b"no picture", "path": None}
    row = {"photo": gone, "sound": gone, "group": 1, "cube": [[[0, 1]]], "several": [gone], "label": 0}
    rows = Dataset.from_list([row, row | {"label": 1, "group": 2}, row | {"photo": None, "group": 0}] * 4)
    for name, feature in features.items():
        rows = rows.cast_column(name, feature)
    inferred = infer_columns(rows)
    kinds = {column.name: column.kind for column in inferred.found}
    assert kinds == {"photo": "image", "sound": "audio", "group": "category", "cube": "left out", "several": "image"}
    assert inferred.columns == {"photo": "photo", "audio": "sound", "tabular": ["group"], "several": "several"}


def test_pictures_in_memory_in_a_frame():
    frame = pd.DataFrame({"view": [PILImage.new("L", (2, 2), i) for i in range(8)], "kind": [*"ab"] * 4})
    assert infer_columns(frame, "kind").columns == {"image": "view"}


def test_modalities_are_named_by_kind_or_after_their_columns():
    rows = [
        {
            "front view": f"{i}.png",
            "label": f"{i}.jpg",
            "tabular": f"{i}.webp",
            "2nd": f"{i}.gif",
            "title": f"a story of {i} cats",
            "age": 20 + i % 7,
            "city": CITIES[i % 3],
            "what": LABELS[i],
        }
        for i in range(40)
    ]
    inferred = infer_columns(rows, "what")
    # a modality cannot be called `label` or `2nd`, and `tabular` has the numbers and categories
    images = {"front_view": "front view", "image_1": "label", "image_2": "tabular", "image_3": "2nd"}
    assert inferred.columns == {**images, "text": "title", "tabular": ["age", "city"]}
    assert inferred.modality_kinds == {**dict.fromkeys(images, "image"), "text": "text", "tabular": "tabular"}
    assert (inferred.numbers, inferred.categories) == (["age"], ["city"])
    assert set(inferred.modality_kinds.values()) <= DEFAULT_ENCODERS.keys()


def test_what_a_user_names_replaces_what_was_inferred():
    rows = [
        {"a": f"{i}.png", "t": f"a story of {i} cats", "age": 20 + i % 7, "n": i % 5, "label": LABELS[i]}
        for i in range(40)
    ]
    inferred = infer_columns(rows)
    assert inferred.columns == {"image": "a", "text": "t", "tabular": ["age", "n"]}
    assert inferred.without({"tabular": ["n"]}).columns == {"image": "a", "text": "t"}
    rest = inferred.without({"story": "t", "image": "b"})
    assert rest.columns == {"tabular": ["age", "n"]}
    assert [column.reason for column in rest.found[:2]] == [
        "--columns names another column for 'image'",
        "--columns names it for 'story'",
    ]


def test_the_table_is_aligned():
    rows = [{"picture": f"{i}.png", "age": 20 + i % 7, "label": LABELS[i]} for i in range(40)]
    assert str(infer_columns(rows)).splitlines() == [
        "column   kind    modality  why",
        "picture  image   image     40 of 40 are files of pictures, such as '0.png'",
        "age      number  tabular   numbers from 20 to 26",
    ]


def test_a_long_table_is_sampled_from_all_of_it():
    """The first thousand rows have one city and short numbers of users, the values of all rows repeat."""
    rows = 5000
    frame = pd.DataFrame(
        {
            "city": ["Bonn"] * 2000 + [f"{'abcdefghij'[i % 10]}{'klmnopqrst'[i // 10 % 10]}x" for i in range(3000)],
            "user": [f"u{i // 3}" for i in range(rows)],
            "row": GENERATOR.permutation(rows),
            "label": LABELS * (rows // 40),
        }
    )
    inferred = infer_columns(frame)
    assert [column.kind for column in inferred.found] == ["category", "category", "left out"]
    assert "101 values that repeat" in inferred.found[0].reason


@pytest.mark.parametrize("kind", ["csv", "folder", "frame", "dataset"])
def test_any_table_goes_in(tmp_path, kind):
    frame = pd.DataFrame({"age": [20 + i % 7 for i in range(40)], "label": LABELS})
    frame.to_csv(tmp_path / "train.csv", index=False)
    tables = {"csv": tmp_path / "train.csv", "folder": str(tmp_path), "frame": frame}
    tables["dataset"] = Dataset.from_pandas(frame).shuffle(seed=0)
    assert infer_columns(tables[kind]).columns == {"tabular": ["age"]}


def test_a_table_without_its_label():
    with pytest.raises(ValueError, match=r"Expected the label 'label' among the columns \['a'\]"):
        infer_columns([{"a": 1}])


ONE_TYPE = st.sampled_from([st.integers(-3, 10**10), st.floats(), st.text(max_size=9), st.booleans(), st.just("a.png")])
NAMES = st.lists(st.text(max_size=6).filter(lambda name: name != "label" and "\0" not in name), max_size=5, unique=True)


@settings(max_examples=60)
@given(st.data(), NAMES, st.integers(1, 12))
def test_every_column_is_in_one_place(data, names, count):
    table = {"label": data.draw(st.lists(st.sampled_from("ab"), min_size=count, max_size=count))}
    for name in names:
        values = st.none() | data.draw(ONE_TYPE)
        table[name] = data.draw(st.lists(values, min_size=count, max_size=count))
    inferred = infer_columns(Dataset.from_dict(table))
    used = [part for column in inferred.columns.values() for part in ([column] if isinstance(column, str) else column)]
    left_out = [column.name for column in inferred.found if column.kind == "left out"]
    assert sorted(used + left_out) == sorted(names) and len(inferred.found) == len(names)
    assert set(inferred.numbers + inferred.categories) == set(inferred.columns.get("tabular", []))
    assert list(inferred.columns) == list(inferred.modality_kinds) and all(column.reason for column in inferred.found)


@pytest.mark.parametrize("name", ["user", "user_id"])
def test_more_categories_than_a_table_takes_are_left_out(name):
    values = [i // 2 if name == "user_id" else f"u{i // 2}" for i in range(200_002)]
    (found,) = infer_columns(pd.DataFrame({name: values, "label": [*"ab"] * 100_001})).found
    assert found.kind == "left out" and "100,001" in found.reason and "more than 100,000 categories" in found.reason
