"""The pages of the methods have the same parts, name the true arguments and logs, and their code runs as printed."""

import ast
import dataclasses
import re
from pathlib import Path

import pytest
from helpers.all_methods import CASES, parts_of

from pmr_hf import PrototypeTrainer, PrototypeTrainingArguments
from pmr_hf.command_line.benchmark_cells import BENCHMARK_METHODS
from pmr_hf.methods import METHODS
from pmr_hf.training.arguments import MultimodalTrainingArguments


DOCS = Path(__file__).parents[2] / "docs"
INDEX = (DOCS / "methods" / "README.md").read_text(encoding="utf-8")
PARTS = ["What it does", "Equations", "In your code", "Arguments", "Logged", "When to use it"]
RESULTS = "See [all methods](../methods_results.md)."
OPTIONS = dict(reversed(CASES.values()))  # the first case of each trainer
# The name in a classification, which the test trains, of a metric of another problem type
IN_CLASSIFICATION = {"mse_loss": "ce_loss", "micro_f1": "accuracy", "mae": "accuracy"}
RUNTIMES = {"train_runtime", "eval_runtime"}
every_method = pytest.mark.parametrize("name", METHODS)


def page(name):
    file = DOCS / "methods" / f"{name}.md"
    assert file.is_file(), f"Expected a page of the method {name!r}; write {file}, with the parts of the others."
    return file.read_text(encoding="utf-8")


def part(name, title):
    """The text below a heading of the second level."""
    return re.split(r"^## .*\n", page(name), flags=re.MULTILINE)[PARTS.index(title) + 1]


def rows(text):
    """The cells of the rows of a table, without its header."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*$", text, re.M)][2:]


def names_in(cell):
    return re.findall(r"`([^`]+)`", cell)


@every_method
def test_a_page_has_the_parts_in_order(name):
    text = page(name)
    lines = text.splitlines()
    assert len(lines) <= 60, f"{name}.md has {len(lines)} lines; shorten it to at most 60."
    headings = re.findall(r"^(#+) (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    assert headings[0][0] == "#", "The first line is `# <Short name>`."
    assert headings[1:] == [("##", title) for title in PARTS], f"The parts of a page are {PARTS}, in this order."
    assert re.search(r"\]\(https://(arxiv|doi)\.org/", lines[2]), "The third line is one with a link to the paper."
    assert RESULTS in part(name, "When to use it"), f"The last part ends with the results, and {RESULTS!r}."


@every_method
def test_the_table_of_arguments_has_those_of_the_method_and_their_defaults(name):
    cls = METHODS[name].args_class
    base = MultimodalTrainingArguments if name == "joint" else PrototypeTrainingArguments
    inherited = {field.name for field in dataclasses.fields(base)}
    expected = {field.name: field.default for field in dataclasses.fields(cls) if field.name not in inherited}
    table = rows(part(name, "Arguments"))
    found = {names_in(row[0])[0]: ast.literal_eval(row[1].strip("`")) for row in table}
    assert found == expected, f"The rows are those of the fields that {cls.__name__} adds to {base.__name__}."
    assert all(len(row) == 3 and row[2] for row in table), "Columns: argument, default, meaning."


@pytest.fixture
def logged_by(make_model, make_trainer, digits):
    """A function that returns the keys that a method logs: 2 epochs of 2 steps, and an evaluation."""

    def keys(cls, **options):
        few = {"train_dataset": digits.select(range(16)), "eval_dataset": digits.select(range(16, 48))}
        trainer = make_trainer(make_model(**parts_of(cls)), cls=cls, **few, **options)
        trainer.train()
        trainer.evaluate()
        # Without evaluations of the method's own, whose metrics have another prefix
        entries = [e for e in trainer.state.log_history if not {k for k in e if k.endswith("_runtime")} - RUNTIMES]
        return {key for entry in entries for key in entry}

    return keys


@pytest.fixture(scope="module")
def logged_jointly():
    """What joint training logs, which each method adds to: a set that the first test that needs it fills."""
    return set()


@every_method
def test_the_logged_names_are_those_of_a_training(name, logged_by, logged_jointly):
    """Under each `modulation`, if the method has one."""
    cls = METHODS[name]
    options = OPTIONS.get(cls, {})
    settings = [{"modulation": value} for value in ("gradient", "update")] if "modulation" in options else [{}]
    logged = set().union(*(logged_by(cls, **options | setting) for setting in settings))
    shown = set()
    for row in rows(part(name, "Logged")):
        for metric in names_in(row[0]):
            for other, own in IN_CLASSIFICATION.items():
                metric = metric.replace(other, own)
            for modality in ("image", "text"):
                shown.add(re.sub(r"^(eval_)?m_", rf"\1{modality}_", metric))
    missing = {metric for metric in shown if not {metric, f"eval_{metric}"} & logged}
    assert not missing, f"{name}.md lists {missing}, which no log has; a log of a modality m is written `m_<metric>`."
    if name != "joint":
        if not logged_jointly:
            logged_jointly |= logged_by(PrototypeTrainer)
        added = {key.removeprefix("eval_") for key in logged - logged_jointly}
        unlisted = added - {metric.removeprefix("eval_") for metric in shown}
        assert not unlisted, f"The logs have {unlisted}; add them to the table of {name}.md."


@every_method
def test_the_code_runs_as_printed(name, make_model, digits, collator, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", part(name, "In your code"), re.DOTALL)
    assert len(blocks) == 1, "The part has one block of python."
    monkeypatch.chdir(tmp_path)
    names = {"model": make_model(**parts_of(METHODS[name])), "dataset": digits, "collator": collator}
    exec(compile(blocks[0], f"{name}.md", "exec"), names)
    trainer = names["trainer"]
    assert type(trainer) is METHODS[name] and trainer.state.global_step > 0, "The block trains with the method."
    assert [str(path) for path in Path().glob("*/*")] == [f"outputs/{name}"], f"It writes to outputs/{name} alone."


def test_the_index_has_every_method():
    listed = dict(re.findall(r"^\| \[`(\w+)`\]\(\1\.md\) \| `(\w+)`", INDEX, re.MULTILINE))
    assert listed == {name: cls.__name__ for name, cls in METHODS.items()}, "Add a row to docs/methods/README.md."
    further = set(re.findall(r"^\| `(\w+)` \|", INDEX, re.MULTILINE))
    assert further == set(BENCHMARK_METHODS) - set(METHODS), "The second table has the other names of the benchmark."
    pages = {file.stem for file in (DOCS / "methods").glob("*.md")} - {"README"}
    assert pages == set(METHODS), "Each page in docs/methods is that of a method."


def test_the_methods_are_in_the_order_of_their_papers():
    years = [int(year) for year in re.findall(r"^\| \[.*?(?:CVPR|ICCV|ICML|ECCV|TPAMI) (\d{4}),", INDEX, re.MULTILINE)]
    assert len(years) >= len(METHODS) - 3 and years == sorted(years), "Rows are in the order of the years."
