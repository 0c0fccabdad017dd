"""
docs/which_method.md: its table of verdicts, recomputed from docs/results/diagnosis.jsonl, and its advice beside that of
a diagnosis.
"""

import json
import re
from pathlib import Path

import pytest

from pmr_hf import METHODS
from pmr_hf.diagnosis.findings import ADVICE, METHODS_PAGE


DOCS = Path(__file__).parents[2] / "docs"
LOSS = re.compile(r"(\d+\.\d) \((-?\d+\.\d) to (-?\d+\.\d)\)")


def lost(run, modality):
    """What joint training took from a modality by prototypes, in points."""
    (found,) = [each for each in run["modalities"] if each["name"] == modality]
    return 100 * found["lost_by_prototypes"]["value"]


def test_the_verdicts_and_losses_are_those_of_the_runs():
    runs = [json.loads(line) for line in (DOCS / "results" / "diagnosis.jsonl").read_text("utf-8").splitlines()]
    section = (DOCS / "which_method.md").read_text("utf-8").split("## How sure the verdict is")[1].split("\n## ")[0]
    rows = [re.split(r" \| ", line.strip("| ")) for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 3
    for name, evaluated, count, starved, ignored, balanced, losses in rows:
        data, share = re.fullmatch(r"(.*?)(?:, `--validation_size (.*)`)?", name).groups()
        found = [run for run in runs if run["data"] == data and str(run["validation_size"]) == (share or "default")]
        assert len(found) == int(count) and {run["rows"] for run in found} == {int(evaluated)}
        verdicts = [run["verdict"] for run in found]
        assert [verdicts.count(each) for each in ("starved", "ignored", "balanced")] == [
            int(starved),
            int(ignored),
            int(balanced),
        ]
        of_slow = [lost(run, {"digits": "gray", "clip art": "image"}[data]) for run in found]
        shown = f"{sum(of_slow) / len(of_slow):.1f} ({min(of_slow):.1f} to {max(of_slow):.1f})"
        assert losses == shown


def named(advice):
    """What an advice names to try."""
    text = advice.replace("run_pmr.py", "").replace("_", " ").replace("'", '"').lower()
    names = [*METHODS, "recipe", "modality dropout", 'answer="best"', "longer", "higher learning rate"]
    return {name for name in names if re.search(rf"\b{name.replace('_', ' ')}", text)}


@pytest.mark.parametrize(
    ("verdict", "row", "names"),
    [
        ("starved", "the encoder of a modality is starved", {"recipe"}),
        (
            "ignored",
            "the encoder is fine, and the head ignores it",
            {"modality dropout", 'answer="best"', "late_fusion"},
        ),
        ("too short", "the training was too short to tell", {"longer", "higher learning rate"}),
        ("balanced", "there is little to rebalance", {"joint"}),
    ],
)
def test_the_page_and_the_diagnosis_give_the_same_advice(verdict, row, names):
    page = (DOCS / "which_method.md").read_text("utf-8")
    (tried,) = re.findall(rf"^\| {row} \| .* \| (.*) \|$", page, re.MULTILINE)
    assert named(ADVICE[verdict]) == names <= named(tried)
    assert named(tried) - names <= {"recipe"}  # which the page also names as a whole


def test_the_advice_names_the_page_by_its_title():
    title = (DOCS / "which_method.md").read_text("utf-8").splitlines()[0].removeprefix("# ")
    assert f'"{title}"' in METHODS_PAGE
    assert all(METHODS_PAGE in ADVICE[verdict] and "docs/" not in ADVICE[verdict] for verdict in ("starved", "ignored"))
