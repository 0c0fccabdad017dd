"""The main job, as a user starts it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pmr_hf import MultimodalModel, MultimodalProcessor
from pmr_hf.colored_digits import cg_mnist, read_sklearn_digits


ROOT = Path(__file__).parents[1]


def run_pmr(folder, *arguments):
    command = ["-m", "accelerate.commands.launch", str(ROOT / "examples" / "run_pmr.py"), *arguments]
    run = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def main_job(tmp_path_factory):
    """Two epochs in place of sixty; every other default as it is."""
    folder = tmp_path_factory.mktemp("main_job")
    return run_pmr(folder, "--num_train_epochs", "2"), folder / "outputs" / "digits-concat-pmr"


def test_it_prints_a_short_table(main_job):
    table = main_job[0][main_job[0].index("pmr on digits, concat") :]
    for row in ("test accuracy, fused", "gray alone", "colored alone", "ratio gray / colored", "training time"):
        assert row in table


def test_the_output_folder_holds_everything(main_job):
    folder = main_job[1]
    results = json.loads((folder / "all_results.json").read_text())
    keys = {"test_accuracy", "test_macro_f1", "test_gray_prototype_accuracy", "test_colored_prototype_accuracy"}
    assert keys | {"eval_accuracy", "train_loss", "train_runtime"} <= results.keys()
    assert (folder / "README.md").is_file() and Image.open(folder / "training_dynamics.png").width > 1000
    state = json.loads((folder / "trainer_state.json").read_text())
    # the test is touched once, after the last selection on validation
    kinds = [
        "test" if "test_loss" in entry else "eval"
        for entry in state["log_history"]
        if {"test_loss", "eval_loss"} & entry.keys()
    ]
    assert kinds == ["eval", "eval", "eval", "test"]
    assert state["best_model_checkpoint"] is not None


def test_the_saved_model_gives_the_reported_test_accuracy(main_job):
    folder = main_job[1]
    model, processor = MultimodalModel.from_pretrained(folder).eval(), MultimodalProcessor.from_pretrained(folder)
    test = cg_mnist(read_sklearn_digits(), seed=42)["test"]
    output = model(**processor(gray=test["gray"][:], colored=test["colored"][:]))
    right = [guess == label for guess, label in zip(output.logits.argmax(1).tolist(), test["label"][:], strict=True)]
    results = json.loads((folder / "all_results.json").read_text())
    assert sum(right) / len(right) == pytest.approx(results["test_accuracy"])
    assert model.config.id2label[3] == "three"


def test_joint_training_and_another_head(tmp_path):
    table = run_pmr(
        tmp_path,
        "--method",
        "joint",
        "--fusion",
        "film",
        "--num_train_epochs",
        "1",
        "--max_train_samples",
        "128",
        "--logging_steps",
        "1",
    )
    assert "joint on digits, film" in table
    folder = tmp_path / "outputs" / "digits-film-joint"
    results = json.loads((folder / "all_results.json").read_text())
    assert "test_gray_prototype_accuracy" in results and "test_gray_accuracy" not in results
    state = json.loads((folder / "trainer_state.json").read_text())
    entry = next(entry for entry in state["log_history"] if "ce_loss" in entry)
    assert entry["loss"] == pytest.approx(entry["ce_loss"], abs=1e-4)
