"""The table of verdicts in docs/which_method.md, recomputed from docs/results/diagnosis.jsonl."""

import json
import re
from pathlib import Path


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
