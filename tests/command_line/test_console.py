"""What a run of `examples/run_pmr.py` prints: a header, a line for each epoch, and no more."""

import subprocess
import sys

import pytest
from datasets import DatasetDict
from helpers.scripts import EXAMPLES, run_example
from transformers import TrainerControl, TrainerState, TrainingArguments

from pmr_hf.command_line.console import LAST_IS_BEST, EpochLines, header, in_words, values_of_epoch
from pmr_hf.command_line.parse_arguments import parse_arguments


SHORT = ["--num_train_epochs", "2", "--max_train_samples", "128", "--max_eval_samples", "64", "--use_cpu"]


def run(folder, *arguments):
    command = [sys.executable, str(EXAMPLES / "run_pmr.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_verbose_prints_what_trainer_prints(tmp_path):
    arguments = [*SHORT, "--compare_with", "none", "--verbose", "--output_dir", "out"]
    done = run_example("run_pmr.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0 and "{'loss': " in done.stdout + done.stderr and "Prototypes: " in done.stderr
    assert "pmr: loss in training" not in done.stdout and "saved to out" in done.stdout


@pytest.mark.parametrize(("best", "load_best", "said"), [(4, True, True), (2, True, False), (4, False, False)])
def test_the_last_epoch_is_named_if_it_is_the_kept_one(best, load_best, said, tmp_path, capsys):
    args = TrainingArguments(
        tmp_path, eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=load_best, disable_tqdm=True
    )
    state, lines = TrainerState(epoch=2, global_step=4, max_steps=4, best_global_step=best), EpochLines("pmr", ["a"])
    for event in (lines.on_train_begin, lines.on_train_end):
        event(args, state, TrainerControl())
    assert capsys.readouterr().out.endswith(f"{LAST_IS_BEST}\n") == said


def test_a_resumed_run_does_not_print_the_epochs_before_again(tmp_path, capsys):
    args, lines = TrainingArguments(tmp_path, disable_tqdm=True), EpochLines("pmr", ["a"])
    state = TrainerState(epoch=1, global_step=4, max_steps=8, num_train_epochs=2)
    state.log_history = [{"loss": 3.0, "step": 2}, {"loss": 1.0, "step": 4}]
    lines.on_train_begin(args, state, TrainerControl())
    lines.on_epoch_begin(args, state, TrainerControl())
    assert "/2" not in capsys.readouterr().out
    state.epoch, state.global_step, state.log_history = 2, 8, [*state.log_history, {"loss": 0.5, "step": 8}]
    lines.on_train_end(args, state, TrainerControl())
    assert capsys.readouterr().out.split()[:2] == ["2/2", "0.500"]


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
