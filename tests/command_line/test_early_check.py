"""What is refused before torch is imported, beside the parsers that know every option."""

import os
import pty
import subprocess
import sys

import pytest
from helpers.scripts import EXAMPLES
from transformers import HfArgumentParser

from pmr_hf import METHODS
from pmr_hf.command_line.benchmark_cells import BENCHMARK_METHODS
from pmr_hf.command_line.early_check import begin, check, options_of_dataclasses, options_of_parser, words_named
from pmr_hf.command_line.script_arguments import ScriptArguments


def test_the_options_are_those_of_the_parsers_of_all_methods():
    """Their names, and the number or the words that each takes."""
    known, found = options_of_dataclasses(), set()
    for method in METHODS.values():
        for action in HfArgumentParser((ScriptArguments, method.args_class), add_help=False)._actions:
            settings = known[action.dest]
            found.add(action.dest)
            assert "type" not in settings or settings["type"] is action.type, action
            assert "choices" not in settings or settings["choices"] == list(action.choices), action
            assert action.nargs is None or settings["nargs"] == "*", action
    assert known.keys() == found
    assert known["pmr_alpha"] == {"type": float} and known["pmr_weights"] == {"choices": ["clip", "hard"]}
    assert known["seed"] == {"type": int} and known["columns"] == known["fusion"] == {"nargs": "*"}
    assert known["method"] == {"choices": list(METHODS)}
    computed = ("recipe", "dataset", "problem_type", "initialization", "answer")
    assert all("choices" in known[name] for name in computed)


def test_the_words_of_the_benchmark():
    known = options_of_parser(EXAMPLES / "benchmark.py")
    assert known["methods"] == {"nargs": "*", "choices": ["all", *BENCHMARK_METHODS]}
    assert known["fusions"] == {"nargs": "*"}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("A, B = 'x', 'y'\nWORDS = (A, *[B], 'z')", ["x", "y", "z"]),
        ("WORDS: dict[str, int] = {'x': 1, 'y': 2}", ["x", "y"]),
        ("from .other import FIRST as WORDS", ["a", "b"]),
        ("from . import other\nWORDS = other.FIRST", None),
        ("WORDS = {}", None),  # filled elsewhere
        ("WORDS = ('x', f())", None),
        ("from numpy import WORDS", None),
        ("OTHERS = ('x',)", None),
    ],
)
def test_words_that_a_name_stands_for(source, words, tmp_path):
    (tmp_path / "other.py").write_text("FIRST = {'a': 1, 'b': 2}")
    (tmp_path / "file.py").write_text(source)
    assert words_named("WORDS", tmp_path / "file.py") == words


@pytest.mark.parametrize(
    "command",
    [
        "",
        "--help --no_such_option",
        "--method ogm --ogm-alpha 0.3 --seed=-1",
        "--train_file {file} --columns image=scan text=title --freeze image --use_cpu --do_predict False",
        "--no_do_predict --num_train 3",  # turned off; shortened
        "--pmr_alpha nan --fusion nothing",  # `parse_arguments` refuses both
    ],
)
def test_what_the_parsers_may_take_passes(command):
    check(command.format(file=__file__).split(), EXAMPLES / "run_pmr.py")


@pytest.mark.parametrize(
    ("script", "command", "sentence"),
    [
        (
            "run_pmr.py",
            "--seed 3 --no_such_option 1",
            "Expected the arguments that --help lists, got ['--no_such_option', '1'] too; correct or remove them.",
        ),
        ("run_pmr.py", "--pmr_weights soft", "argument --pmr_weights/--pmr-weights: invalid choice: 'soft'"),
        ("run_pmr.py", "--method pmrr", "argument --method: invalid choice: 'pmrr'"),
        ("benchmark.py", "--methods joint pmrr", "argument --methods: invalid choice: 'pmrr'"),
        ("app.py", "--port 7860", "app.py: error: the following arguments are required: --model"),
        ("app.py", "--model a --missing some", "argument --missing: invalid choice: 'some'"),
        ("diagnose.py", "--seed x", "diagnose.py: error: argument --seed: invalid int value: 'x'"),
        ("diagnose.py", "--train_file lost.csv", "Expected a table lost.csv, found none there; correct the path."),
        ("benchmark.py", "--seeds 1 2 --sedes 3", "got ['--sedes', '3'] too"),
        (
            "predict.py",
            "--model a --input {file} --output c --colums d",
            "the following arguments are required: --columns",
        ),
        ("predict.py", "--model a --input lost.csv", "argument --input: expected a table lost.csv, found none there"),
    ],
)
def test_a_mistake_shows_before_torch_is_imported(script, command, sentence):
    run = [sys.executable, "-X", "importtime", str(EXAMPLES / script), *command.format(file=__file__).split()]
    lines = subprocess.run(run, capture_output=True, text=True).stderr.splitlines()
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in lines if line.startswith("import time:")}
    assert sentence in lines[-1]
    assert "argparse" in imported and not imported & {"torch", "numpy", "transformers", "datasets", "gradio", "pmr_hf"}
    assert not any("Traceback" in line for line in lines)


@pytest.mark.parametrize(
    ("command", "is_terminal", "expected"),
    [
        ("", True, {"TQDM_DELAY": "2"}),
        ("", False, {"TQDM_DELAY": "2", "TQDM_DISABLE": "1"}),
        ("--verbose", False, {}),
    ],
)
def test_which_bars_show(command, is_terminal, expected, tmp_path, monkeypatch):
    end, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as shown, (tmp_path / "log").open("w") as log:
        monkeypatch.setattr(sys, "stderr", shown if is_terminal else log)
        monkeypatch.setattr(os, "environ", {})
        begin(command.split(), EXAMPLES / "diagnose.py")
        found = dict(os.environ)
        monkeypatch.undo()
    os.close(end)
    assert found == expected
