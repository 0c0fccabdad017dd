"""Every notebook of the tutorials runs as it is printed, from its first cell to its last."""

import json
from pathlib import Path

import pytest
from helpers.scripts import run_in_fork


TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
NAMES = ["own_table", *(pytest.param(name, marks=pytest.mark.slow) for name in ("missing_modality", "which_modality"))]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name, tmp_path):
    cells = json.loads((TUTORIALS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    code = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    (tmp_path / "cells.py").write_text(code, encoding="utf-8")
    done = run_in_fork(tmp_path / "cells.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_every_notebook_is_run():
    names = {getattr(name, "values", (name,))[0] for name in NAMES}
    assert {file.stem for file in TUTORIALS.glob("*.ipynb")} == names


def test_a_notebook_holds_what_it_shows_and_no_path():
    for file in TUTORIALS.glob("*.ipynb"):
        text = file.read_text(encoding="utf-8")
        cells = json.loads(text)["cells"]
        assert any(cell.get("outputs") for cell in cells)
        assert "/home/" not in text and "/tmp/" not in text and "/root/" not in text
