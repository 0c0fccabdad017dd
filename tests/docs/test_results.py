"""
The numbers of README.md, docs/results.md, docs/tables.md, docs/methods_results.md and the pages of the methods,
recomputed from the lines of docs/results/.

A comment before a table says where its numbers come from:

    <!-- numbers: test_accuracy | gray_prototype_accuracy | +test_accuracy
    joint: cg_mnist_authors joint
    PMR: cg_mnist_authors pmr_without_per sum -->

The first line has the metric of each column after the first; `-` is a column without a check, `+` stands for the
difference to the table's first row, over seeds, and `/` for the ratio to it. `seeds` are the seeds of the row's lines,
as in "0, 2", and "0, 2 (1 diverged)" if seed 1 has no line; `rate` is their common learning rate. A column with one of
these two names must have it. Each other line has the first cell of a row, then the file of its runs, their method, and
their fusion head and setting if they are not concat and none. If each column of a row has runs of its own, `;` stands
between them.
"""

import json
import re
import statistics
from collections import defaultdict
from pathlib import Path

import pytest

from pmr_hf import METHODS


DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"<!-- numbers: (.*?) -->\n+((?:\|[^\n]*\n)+)", re.DOTALL)
NUMBER = re.compile(r"\d+\.\d")
DIVERGED = re.compile(r" \((\d+) diverged\)$")
PAGES = ("../README.md", "results.md", "tables.md", "methods_results.md")
METHOD_RUNS = {
    "the digits": "methods_digits",
    "12,000 digits of MNIST": "methods_mnist",
    "clip art": "methods_clip_art",
}
IN_UNITS = ("mae", "rmse")  # other metrics are in percent


def tables():
    return [block for page in PAGES for block in BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))]


def cells(line):
    return [cell.strip().strip("*") for cell in line.strip().strip("|").split("|")]


def runs(file, method, fusion="concat", setting=None):
    lines = (DOCS / "results" / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()
    wanted = {"method": method, "fusion": fusion, "setting": setting}
    found = [run for run in map(json.loads, lines) if all(run[key] == value for key, value in wanted.items())]
    assert found, wanted
    return {run["seed"]: run for run in found}


def expected(column, of_row, of_first):
    """What the cell should show: the mean and the deviation over seeds, in percent or in units of the target."""
    if column == "seeds":
        return ", ".join(map(str, sorted(of_row)))
    if column == "rate":
        (rate,) = {run["learning_rate"] for run in of_row.values()}
        return f"{rate:g}"
    if column.startswith("/"):  # a cost, relative to the first row
        ratios = [run[column[1:]] / of_first[seed][column[1:]] for seed, run in of_row.items() if seed in of_first]
        return "" if of_row is of_first else f"{statistics.mean(ratios):.2f}"
    metric = column.removeprefix("+")
    scale, digits = (1, 3) if metric.endswith(IN_UNITS) else (100, 1)
    values = [scale * run[metric] for run in of_row.values()]
    if column.startswith("+"):
        if of_row is of_first:
            return ""
        values = [scale * (run[metric] - of_first[seed][metric]) for seed, run in of_row.items() if seed in of_first]
    sign = "+" if column.startswith("+") else ""
    mean = f"{statistics.mean(values):{sign}.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


@pytest.mark.parametrize("index", range(len(tables())))
def test_a_table_has_the_numbers_of_its_runs(index):
    header, rows = tables()[index]
    metrics, *sources = header.strip().splitlines()
    columns = [column.strip() for column in metrics.split("|")]
    named = cells(rows.splitlines()[0])[1:]
    assert all(column == name for column, name in zip(columns, named, strict=True) if name in ("seeds", "rate"))
    sources = dict(line.rsplit(": ", 1) for line in sources)
    of_row = {name: [runs(*each.split()) for each in source.split(";")] for name, source in sources.items()}
    of_row = {name: found * len(columns) if len(found) == 1 else found for name, found in of_row.items()}
    first = next(iter(of_row.values()))
    checked = set()
    for line in rows.splitlines()[2:]:
        name, *shown = cells(line)
        if name not in of_row:
            assert not NUMBER.search("".join(shown)), f"{name} has numbers, but no runs"
            continue
        assert len(columns) == len(shown), name
        for column, cell, found, of_first in zip(columns, shown, of_row[name], first, strict=True):
            diverged = DIVERGED.search(cell) if column == "seeds" else None
            assert diverged is None or int(diverged[1]) not in found, name
            shown_value = cell.removesuffix(diverged[0]) if diverged else cell
            assert column == "-" or shown_value == expected(column, found, of_first), (name, column)
        checked.add(name)
    assert checked == set(of_row)


@pytest.mark.parametrize("page", PAGES)
def test_each_table_of_metrics_names_its_runs(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    with_numbers = [table for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE) if "±" in table]
    assert with_numbers and set(with_numbers) <= {rows for _, rows in tables()}


def accuracy_and_gain(file, method):
    """As pages of methods show them: the mean accuracy, and what is gained over joint training with its deviation."""
    lines = map(json.loads, (DOCS / "results" / f"{file}.jsonl").read_text(encoding="utf-8").splitlines())
    of_method = defaultdict(dict)
    for run in lines:
        of_method[run["method"]][run["seed"]] = run
    own, joint = of_method[method], of_method["joint"]
    if not own:
        return []
    return [(expected("test_accuracy", own, joint).split(" ")[0], expected("+test_accuracy", own, joint))]


@pytest.mark.parametrize("name", METHODS)
def test_the_page_of_a_method_has_the_accuracy_of_its_runs(name):
    text = (DOCS / "methods" / f"{name}.md").read_text(encoding="utf-8")
    for data, file in METHOD_RUNS.items():
        found = re.findall(rf"(\d+\.\d) percent on {data}(?: \(([^;.]*\.\d ± \d+\.\d) to joint training\))?", text)
        assert found == accuracy_and_gain(file, name), data


def test_the_page_is_short():
    assert len((DOCS / "results.md").read_text(encoding="utf-8").splitlines()) <= 250
