"""`run_pmr.py` and `predict.py` on a user's table with several labels in a cell, and with numbers to predict."""

import json

import numpy as np
import pandas as pd
import pytest
from helpers.scripts import run_example

from pmr_hf.command_line.parse_arguments import parse_arguments


DATA = ["--columns", "left=a,b", "right=c,d", "--backbones", "left=numbers", "right=numbers"]


def run(script, folder, *arguments):
    done = run_example(script, *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_table(folder):
    """60 rows of four numbers. `tags` and `price` follow from them."""
    values = np.random.default_rng(0).normal(size=(60, 4))
    table = pd.DataFrame(values, columns=list("abcd"))
    table["tags"] = [
        "|".join(name for name, x in zip(["big", "odd"], row[::2], strict=True) if x > 0) for row in values
    ]
    table["price"] = 1000 + 300 * values[:, 0] + 100 * values[:, 2]
    table["rate"] = 0.5 + 0.01 * values[:, 1]
    table.to_csv(folder / "train.csv", index=False)
    return table


def job(folder, method, problem_type, column):
    arguments = ["--method", method, "--train_file", "train.csv", *DATA, "--label_column", column]
    arguments += ["--problem_type", problem_type, "--output_dir", "out", "--num_train_epochs", "40"]
    printed = run("run_pmr.py", folder, *arguments, "--learning_rate", "0.02")
    run(
        "predict.py", folder, "--model", "out", "--input", "train.csv", "--columns", *DATA[1:3], "--output", "new.jsonl"
    )
    results = json.loads((folder / "out" / "all_results.json").read_text())
    return printed, results, [json.loads(line) for line in (folder / "new.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_several_labels(tmp_path):
    table = write_table(tmp_path)
    printed, results, predictions = job(tmp_path, "pmr", "multi_label_classification", "tags")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification" and config["id2label"] == {"0": "big", "1": "odd"}
    assert "validation micro_f1" in printed and f"{results['eval_micro_f1']:.3f}" in printed
    assert results["eval_mAP"] > 0.7 and {"eval_left_prototype_micro_f1", "eval_best_answer_micro_f1"} <= results.keys()
    best = [row["labels"][0] for row in predictions]
    right = [each["label"] in tags for each, tags in zip(best, table["tags"], strict=True) if each["score"] > 0.5]
    assert np.mean(right) > 0.8


def test_a_regression_of_two_columns(tmp_path):
    table = write_table(tmp_path)
    printed, results, predictions = job(tmp_path, "joint", "regression", "price,rate")
    assert "validation mae" in printed and results["eval_r2"] > 0.3
    values = [{value["label"]: value["value"] for value in row["values"]} for row in predictions]
    for name in ("price", "rate"):  # each in its own unit
        errors = np.abs([row[name] for row in values] - table[name])
        assert errors.mean() < 0.5 * table[name].std() and results[f"eval_r2_{name}"] > 0.3
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    errors = [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]
    assert state["best_metric"] == min(errors)


def compare(folder, problem_type, column, *arguments):
    """The lines of results of `benchmark.py`, its tables, and the metrics of the runs by rate."""
    rates = ["1e-9", "0.05"]
    command = ["--train_file", "train.csv", "--label_column", column, *DATA, "--problem_type", problem_type, *arguments]
    command += ["--seeds", "0", "--learning_rates", *rates, "--num_train_epochs", "20", "--output_dir", "compared"]
    run("benchmark.py", folder, *command)
    lines = [json.loads(line) for line in (folder / "compared" / "results.jsonl").read_text().splitlines()]
    trained = {
        rate: json.loads((folder / "compared" / f"concat-joint-lr{rate}-seed0" / "trained.json").read_text())
        for rate in rates
    }
    return lines, (folder / "compared" / "results.md").read_text(), trained


@pytest.mark.slow
def test_methods_are_compared_on_a_regression(tmp_path):
    write_table(tmp_path)
    lines, tables, trained = compare(tmp_path, "regression", "price", "--methods", "joint", "unimodal")
    assert [line["method"] for line in lines] == ["joint", "unimodal: left", "unimodal: right"]
    joint, left, right = lines
    errors = {rate: metrics["eval_loss"] for rate, metrics in trained.items()}
    assert errors["0.05"] < errors["1e-9"] and joint["grid"] == errors and joint["eval_loss"] == errors["0.05"]
    assert joint["test_mae"] == pytest.approx(trained["0.05"]["eval_mae"], rel=1e-5)  # there is no test split
    assert joint["learning_rate"] == 0.05 and joint["problem_type"] == "regression" and joint["test_r2"] > 0.3
    assert joint["left_share"] > joint["right_share"] > 0  # of 300 and 100 per unit
    assert joint["left_label_shares"]["price"] > joint["right_label_shares"]["price"]
    assert joint["left_probe_mae"] < joint["right_probe_mae"] and "left_share" not in left
    assert "| validation MAE, selected by | over joint | RMSE | R² |" in tables and right["test_mae"] > left["test_mae"]


@pytest.mark.slow
def test_methods_are_compared_on_several_labels(tmp_path):
    table = write_table(tmp_path)
    table["tags"] = table["tags"].str.replace("|", ";")
    table.to_csv(tmp_path / "train.csv", index=False)
    arguments = ["--label_separator", ";", "--methods", "joint", "recipe"]
    (joint, recipe), tables, trained = compare(tmp_path, "multi_label_classification", "tags", *arguments)
    scores = {rate: metrics["eval_micro_f1"] for rate, metrics in trained.items()}
    assert scores["0.05"] > scores["1e-9"] and joint["grid"] == scores and joint["learning_rate"] == 0.05
    for name in ("micro_f1", "macro_f1", "mAP", "subset_accuracy"):
        assert joint[f"test_{name}"] == pytest.approx(trained["0.05"][f"eval_{name}"], abs=1e-6), name
    assert joint["left_prototype_micro_f1"] == pytest.approx(trained["0.05"]["eval_left_prototype_micro_f1"])
    assert joint["left_label_shares"]["big"] > joint["right_label_shares"]["big"]
    assert recipe["test_micro_f1"] > 0.5 and recipe["answer"] in ("head", "prototypes")
    assert "| validation micro F1, selected by | over joint | macro F1 | mAP | subset accuracy |" in tables


def test_arguments_that_are_refused(tmp_path):
    table = ["--train_file", "train.csv", *DATA, "--problem_type"]
    with pytest.raises(
        ValueError, match=r"Expected --method among \['joint', 'dgl', 'uniform', 'gblend', 'mmpareto', 'late_fusion'\]"
    ):
        parse_arguments(["--method", "pmr", *table, "regression"])
    with pytest.raises(ValueError, match="--dataset digits, whose samples have one class each"):
        parse_arguments(["--problem_type", "regression", "--method", "joint"])
    assert parse_arguments([*table, "regression"])[0].method == "joint"
    assert parse_arguments([*table, "multi_label_classification"])[1].balance_labels
    assert not parse_arguments([*table, "multi_label_classification", "--method", "joint"])[1].balance_labels
    assert parse_arguments(table[:-1])[0].method == "pmr"
    with pytest.raises(ValueError, match="Expected --label_separator to be a character or more, got none"):
        parse_arguments(["--method", "joint", *table, "multi_label_classification", "--label_separator", ""])
