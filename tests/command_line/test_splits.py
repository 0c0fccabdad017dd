"""The splits that a command line asks for."""

import pandas as pd
import pytest

from pmr_hf import MultimodalProcessor, NumericProcessor
from pmr_hf.command_line.script_arguments import ScriptArguments
from pmr_hf.command_line.splits import load_splits


def test_reference_digits_become_a_split():
    splits = load_splits(ScriptArguments(reference_samples=50), MultimodalProcessor({}), seed=0)
    assert list(splits) == ["train", "validation", "test", "prototypes"] and len(splits["prototypes"]) == 50


def test_the_share_that_is_cut_for_validation(tmp_path):
    digits = load_splits(ScriptArguments(validation_size=0.3), MultimodalProcessor({}), seed=0)
    assert (len(digits["train"]), len(digits["validation"])) == (942, 405)  # of 1,347
    pd.DataFrame({"age": range(20), "label": ["young", "old"] * 10}).to_csv(tmp_path / "ages.csv", index=False)
    args = ScriptArguments(
        columns=["age=age"], backbones=["age=numbers"], train_file=str(tmp_path / "ages.csv"), validation_size=0.3
    )
    ages = load_splits(args, MultimodalProcessor({"age": NumericProcessor()}), seed=0)
    assert (len(ages["train"]), len(ages["validation"])) == (14, 6)


@pytest.mark.parametrize("by", ["file", "folder"])
def test_prototypes_from_a_table_of_ones_own(tmp_path, by):
    rows = [{"age": i, "label": "young" if i < 6 else "old"} for i in range(12)]
    for name, part in {"train": rows, "validation": rows[:3] + rows[9:], "prototypes": rows[4:8]}.items():
        pd.DataFrame(part).to_csv(tmp_path / f"{name}.csv", index=False)
    files = {f"{name}_file": str(tmp_path / f"{name}.csv") for name in ("train", "validation")}
    files |= {"prototype_file": str(tmp_path / "prototypes.csv")}
    where = files if by == "file" else {"dataset_name": str(tmp_path)}
    args = ScriptArguments(columns=["age=age"], backbones=["age=numbers"], **where)
    splits = load_splits(args, MultimodalProcessor({"age": NumericProcessor()}), seed=0)
    assert splits["prototypes"]["age"] == [4, 5, 6, 7]
    assert splits["prototypes"].features["label"].names == splits["train"].features["label"].names == ["old", "young"]


@pytest.mark.parametrize("other", ["validation", "test"])
def test_rows_that_would_leak_are_refused(tmp_path, other):
    rows = [{"age": i, "label": "young" if i < 6 else "old"} for i in range(12)]
    tables = {"train": rows, "validation": rows[:2] + rows[10:], "test": rows[2:4], "prototypes": rows[4:8]}
    tables[other] = tables[other] + rows[7:8]
    for name, part in tables.items():
        pd.DataFrame(part).to_csv(tmp_path / f"{name}.csv", index=False)
    args = ScriptArguments(columns=["age=age"], backbones=["age=numbers"], dataset_name=str(tmp_path))
    with pytest.raises(ValueError, match=rf"in no other split, got 1 that are in {other} too, such as \{{'age': 7"):
        load_splits(args, MultimodalProcessor({"age": NumericProcessor()}), seed=0)
