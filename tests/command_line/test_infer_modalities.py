"""Modalities that a command line leaves out, taken from the training table."""

import json

import pandas as pd
import pytest

from pmr_hf import MultimodalProcessor
from pmr_hf.command_line.build import add_new_encoders, new_encoder, pretrained_processor
from pmr_hf.command_line.infer_modalities import inferred_columns
from pmr_hf.command_line.script_arguments import ScriptArguments
from pmr_hf.command_line.splits import load_splits


LABELS = ["cat", "dog", "dog", "eel", "cat", "eel", "eel", "dog", "cat", "cat"] * 4
ROWS = pd.DataFrame(
    [
        {
            "id": i,
            "picture": f"{i}.png",
            "clip": f"{i}.mp4",
            "title": f"a story of {i} cats",
            "age": 20 + i * i % 37,
            "stars": i % 5,
            "zip": f"0{i % 7}",
            "kind": LABELS[i],
        }
        for i in range(40)
    ]
)
ALL = {"image": "picture", "video": "clip", "text": "title", "tabular": ["age", "stars", "zip"]}


@pytest.fixture
def complete(tmp_path):
    """A function that completes the arguments of a command for the table above."""
    ROWS.to_csv(tmp_path / "train.csv", index=False)

    def complete(**options):
        args = ScriptArguments(train_file=str(tmp_path / "train.csv"), label_column="kind", **options)
        inferred = inferred_columns(args)
        if inferred is not None:
            args.complete(inferred)
        return args

    return complete


def test_every_modality_gets_a_default_encoder(complete):
    args = complete()
    assert args.columns == ALL and not args.infers
    assert args.backbones == {
        "image": "facebook/dinov2-small",
        "video": "facebook/dinov2-small",
        "text": "sentence-transformers/all-MiniLM-L6-v2",
        "tabular": "tabular",
    }
    assert args.pooling["text"] == "mean" and args.inferred_videos == ["video"]


def test_named_encoders_replace_the_default_ones(complete):
    args = complete(backbones=["text=/folder", "image=resnet18"])
    assert args.columns == ALL and list(args.backbones) == list(ALL)
    assert args.backbones["image"] == "resnet18" and args.backbones["text"] == "/folder"
    assert "text" not in args.pooling  # the pooling of MiniLM is not that of another encoder


def test_named_columns_replace_a_part(complete):
    args = complete(columns=["text=id", "years=age", "tabular=stars"])
    assert args.columns == {"text": "id", "years": "age", "tabular": "stars", "image": "picture", "video": "clip"}
    assert args.backbones["years"] == "tabular" and args.backbones["text"].endswith("MiniLM-L6-v2")
    assert complete(columns=["both=age,id"]).backbones["both"] == "tabular"


def test_the_columns_and_encoders_of_the_same_modalities_are_all(complete):
    args = complete(columns=["text=title"], backbones=["text=/folder"])
    assert args.columns == {"text": "title"} and args.backbones == {"text": "/folder"} and args.cell_kinds == {}


def test_some_of_the_inferred_modalities(complete):
    args = complete(modalities=["text", "tabular"], backbones=["image=a"])
    assert args.columns.keys() == args.backbones.keys() == {"text", "tabular"} and args.inferred_videos == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"backbones": ["picture=a"]},
            r"for the modalities \['image', 'video', 'text', 'tabular'\], got \['picture'\] too",
        ),
        ({"columns": ["number=id"]}, r"Expected --backbones for \['number'\], since their columns do not tell"),
        ({"columns": ["text=titel"]}, r"Expected --columns to name columns among \['id', .*, got \['titel'\] too"),
        ({"modalities": ["sound"]}, r"Expected --modalities among \['image', 'video', .*, got \['sound'\]"),
    ],
)
def test_mistakes_are_named(complete, options, said):
    with pytest.raises(ValueError, match=said):
        complete(**options)


def test_a_table_without_a_column_to_use(tmp_path):
    ROWS[["id", "kind"]].to_csv(tmp_path / "train.csv", index=False)
    args = ScriptArguments(dataset_name=str(tmp_path), label_column="kind")
    with pytest.raises(ValueError, match=r"all are left out \('id': ids: whole numbers that count the rows, from 0"):
        args.complete(inferred_columns(args))
    ROWS[["kind"]].to_csv(tmp_path / "train.csv", index=False)
    with pytest.raises(ValueError, match=r"all are left out \(there are none\)"):
        args.complete(inferred_columns(args))


@pytest.mark.parametrize(("given", "frames"), [([], 8), (["video=3"], 3)])
def test_an_encoder_of_pictures_gets_eight_frames_of_each_video(complete, given, frames):
    args = complete(backbones=["image=resnet18", "video=resnet18"], modalities=["image", "video"], num_frames=given)
    processor = add_new_encoders(args, pretrained_processor(args), None)[1]
    assert processor.num_frames == {"video": frames}


@pytest.mark.parametrize("named", [False, True])
def test_the_tables_encoder_has_numbers_and_categories(complete, named):
    """From a csv file, where every cell is a text. A code such as 02 is no number, and keeps its zero."""
    options = {"columns": ["tabular=age,stars,zip"], "backbones": ["tabular=tabular"]} if named else {}
    args = complete(**options, modalities=["tabular"])
    train = load_splits(args, pretrained_processor(args), seed=0)["train"]
    config, processor = new_encoder("tabular", args, train)
    assert list(processor.numbers) == ["age", "stars"] and config.num_features == 2
    assert processor.categories == {"zip": [f"0{i}" for i in range(7)]} and config.cardinalities == [9]
    assert processor.numbers["stars"][0] == pytest.approx(sum(map(int, train["stars"])) / len(train))


def test_what_was_inferred_holds_where_the_training_rows_would_tell_otherwise(complete):
    """Two values make a category, though each is a number."""
    args = complete(modalities=["tabular"])
    args.cell_kinds = args.cell_kinds | {"stars": "category"}
    train = load_splits(args, MultimodalProcessor({}), seed=0)["train"]
    assert new_encoder("tabular", args, train)[1].categories["stars"] == [*"01234"]


def test_the_kinds_of_json_values_are_those_of_csv_cells(complete, tmp_path):
    found = inferred_columns(ScriptArguments(train_file=complete().train_file, label_column="kind"))
    rows = json.loads(ROWS.to_json(orient="records"))
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    same = inferred_columns(ScriptArguments(train_file=str(tmp_path / "train.jsonl"), label_column="kind"))
    assert str(found) == str(same)
