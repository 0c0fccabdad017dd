"""Two processes against one, where a process, and at times all of them, meets batches without a modality."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file


def launch(*options, folder, output, batch_size):
    script = Path(__file__).with_name("ddp_missing.py")
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, str(script), str(folder), str(output)]
    run = subprocess.run(
        [*command, str(batch_size)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    logs = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return load_file(output / "model.safetensors"), [entry for entry in logs if "ce_loss" in entry]


def test_ranks_that_lack_a_modality_train_as_one_process_does(tmp_path, make_model, processor, digits):
    make_model().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "processor")

    def punch(row, i):
        # In batches of 4, rank 1 never has a caption, both lack the picture in the third step, and some samples do too.
        return {
            "caption": None if i // 4 % 2 else row["caption"],
            "picture": None if i // 8 == 2 or i % 4 == 3 else row["picture"],
        }

    digits.map(punch, with_indices=True, features=digits.features).save_to_disk(tmp_path / "data")
    one, one_logs = launch("--cpu", folder=tmp_path, output=tmp_path / "one", batch_size=8)
    two, two_logs = launch(
        "--multi_gpu",
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
        folder=tmp_path,
        output=tmp_path / "two",
        batch_size=4,
    )
    assert one.keys() == two.keys()
    for name, weight in one.items():
        assert (weight.float() - two[name].float()).abs().max() <= 1e-6, name
    assert len(one_logs) == len(two_logs) == 16
    for a, b in zip(one_logs, two_logs, strict=True):
        assert a.keys() == b.keys() and "rho" in one_logs[0] and "rho" not in one_logs[2]
        for key in ("image_score", "text_score", "image_pce_weight", "text_pce_weight", "rho", "loss"):
            assert a.get(key) == pytest.approx(b.get(key), abs=1e-5), key
