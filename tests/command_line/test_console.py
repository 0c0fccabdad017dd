"""What a run of `examples/run_pmr.py` prints: a header, a line for each epoch, and no more."""

import json
import subprocess
import sys

import numpy as np
import pytest
from datasets import DatasetDict
from helpers.scripts import EXAMPLES, run_example

from pmr_hf.command_line.console import header, in_words, values_of_epoch
from pmr_hf.command_line.parse_arguments import parse_arguments


SHORT = ["--num_train_epochs", "2", "--max_train_samples", "128", "--max_eval_samples", "64", "--use_cpu"]


def run(folder, *arguments):
    command = [sys.executable, str(EXAMPLES / "run_pmr.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_a_header_then_a_line_for_each_epoch_then_the_table(tmp_path):
    done = run(tmp_path, *SHORT, "--logging_steps", "1", "--output_dir", "out")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    lines = done.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[:6]] == ["data", "gray", "colored", "training", "length", "device"]
    assert lines[0].endswith("digits, 10 classes; rows: 128 train, 64 validation, 450 test")
    assert lines[1].endswith(" cg_mnist_gray, 98.8 thousand parameters") and lines[3].split()[1:4] == [
        "joint",
        "and",
        "then",
    ]
    assert lines[4].endswith(" 2 epochs, 4 steps of 64 rows")
    epochs = {"joint": lines[7:11], "pmr": lines[12:16]}
    for method, (title, names, *rows) in epochs.items():
        assert title.startswith(f"{method}: loss in training, accuracy on validation")
        assert names.split() == ["epoch", "loss", "fused", "gray", "colored", "ratio"]
        folder = tmp_path / ("out" if method == "pmr" else "out-joint")
        history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
        for number, row in enumerate(rows, 1):
            logs = [entry for entry in history if "loss" in entry and number - 1 < entry["epoch"] <= number]
            evals = [entry for entry in history if "eval_loss" in entry and entry["epoch"] == number]
            scores = [np.mean([entry[f"{name}_score"] for entry in logs]) for name in ("gray", "colored")]
            fused = "eval_best_answer_accuracy" if method == "pmr" else "eval_accuracy"
            keys = [fused, "eval_gray_prototype_accuracy", "eval_colored_prototype_accuracy"]
            values = [np.mean([entry["loss"] for entry in logs]), *(evals[0][key] for key in keys)]
            assert len(logs) == 2  # the steps of an epoch
            assert row.split() == [f"{number}/2", *(f"{value:.3f}" for value in [*values, scores[0] / scores[1]])]
    assert lines[16] == "" and lines[17].startswith("digits, concat") and lines[-1] == "saved to out"
    assert len(lines) == 29


def test_verbose_prints_what_trainer_prints(tmp_path):
    arguments = [*SHORT, "--compare_with", "none", "--verbose", "--output_dir", "out"]
    done = run_example("run_pmr.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0 and "{'loss': " in done.stdout + done.stderr and "Prototypes: " in done.stderr
    assert "pmr: loss in training" not in done.stdout and "saved to out" in done.stdout


def test_the_steps_of_an_epoch_are_its_means_also_over_uneven_logs():
    entries = [
        {"loss": 3.0, "a_score": 0.1, "b_score": 0.4, "c_score": 0.2, "step": 14},
        {"loss": 1.0, "a_score": 0.4, "b_score": 0.4, "c_score": 0.2, "step": 15},
        {"eval_accuracy": 0.5, "eval_a_prototype_accuracy": 0.3, "step": 15},
        {"eval_best_answer_accuracy": 0.6, "step": 15},
    ]
    two = values_of_epoch(entries, 11, ["a", "b"], "accuracy")
    assert two == pytest.approx({"loss": 2.5, "fused": 0.6, "a": 0.3, "ratio": (0.7 / 4) / 0.4})
    three = values_of_epoch(entries[:3], 11, ["a", "b", "c"], "accuracy")
    assert three["ratio"] == pytest.approx(0.4 / (0.7 / 4)) and three["fused"] == 0.5
    assert values_of_epoch([], 3, ["a"], "accuracy") == {}


def test_a_mistake_is_one_line_on_the_console(tmp_path):
    done = run(tmp_path, "--typo", "1")
    assert done.returncode == 1
    assert (
        done.stderr == "ValueError: Expected the arguments that --help lists, got ['--typo', '1'] too; correct or "
        "remove them.\n"
    )
    done = run(tmp_path, "--learning_rate", "x")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 2
    assert done.stderr.endswith("argument --learning_rate/--learning-rate: invalid float value: 'x'\n")


@pytest.mark.parametrize(
    ("method", "options", "how"),
    [
        ("ogm", ["--optim", "adamw_torch"], "ogm, which scales each update,"),
        ("ogm", ["--optim", "sgd"], "ogm, which scales each gradient,"),
        ("agm", ["--modulation", "update", "--optim", "sgd"], "agm, which scales each update,"),
        ("uniform", [], "uniform,"),
    ],
)
def test_the_header_says_what_a_method_scales(method, options, how, make_model, digits, tmp_path):
    arguments = ["--method", method, "--output_dir", str(tmp_path), "--use_cpu", "True", *options]
    script_args, training_args = parse_arguments(arguments)
    script_args.backbones = {"image": "a", "text": "b"}
    printed = header(script_args, training_args, make_model(), DatasetDict(train=digits), [method])
    assert f"\ntraining  {how} with the fusion head concat\n" in printed


def test_numbers_of_parameters():
    assert [in_words(number) for number in (532, 98800, 86_390_000)] == ["532", "98.8 thousand", "86.4 million"]
