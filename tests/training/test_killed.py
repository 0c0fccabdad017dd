"""A run that is killed with `kill -9` at random moments, and resumed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_run_that_is_killed_20_times_ends_with_the_weights_of_one_that_is_not(
    tmp_path, make_model, processor, digits
):
    make_model(dropout=0.2).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "processor")
    digits.save_to_disk(tmp_path / "data")
    run = subprocess.run(
        [sys.executable, str(Path(__file__).parents[1] / "helpers" / "kill_and_resume.py"), str(tmp_path), "20"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    result = json.loads(run.stdout.splitlines()[-1])
    assert sum(result["killed"].values()) == 20 and result["ended"] >= 2
    assert result["different"] == []
    assert result["half_written"] > 0 and {"saving", "refreshing", "training"} == result["killed"].keys()
