"""The comparison of methods, as a user starts it, and its table against numbers worked by hand."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image


EXAMPLES = Path(__file__).parents[1] / "examples"
SHORT = ["--max_train_samples", "96", "--num_train_epochs", "2", "--use_cpu"]


def benchmark(folder, *arguments):
    command = [sys.executable, str(EXAMPLES / "benchmark.py"), "--output_dir", str(folder), *SHORT, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark") / "runs"
    run = benchmark(folder, "--methods", "pmr", "--seeds", "3", "--learning_rates", "1e-6", "3e-2")
    assert run.returncode == 0, run.stderr
    return folder


def test_the_rate_is_chosen_on_validation_and_the_test_is_touched_once(finished):
    accuracies = {
        rate: json.loads((finished / f"concat-pmr-lr{rate}-seed3" / "trained.json").read_text())["eval_accuracy"]
        for rate in ("1e-6", "3e-2")
    }
    best = max(accuracies, key=accuracies.get)  # the first of equals
    (result,) = map(json.loads, (finished / "results.jsonl").read_text().splitlines())
    assert result["name"] == f"concat-pmr-lr{best}-seed3" and result["eval_accuracy"] == accuracies[best]
    assert [path.parent.name for path in finished.glob("*/result.json")] == [result["name"]]
    for path in finished.glob("*/trainer_state.json"):
        assert not any("test_loss" in entry for entry in json.loads(path.read_text())["log_history"])
    assert result["train_seconds"] > 0 and result["peak_memory_mib"] > 100


@pytest.mark.slow
def test_the_result_is_that_of_the_script_itself(finished, tmp_path):
    (result,) = map(json.loads, (finished / "results.jsonl").read_text().splitlines())
    command = [sys.executable, str(EXAMPLES / "run_pmr.py"), *SHORT, "--method", "pmr", "--seed", "3"]
    command += [
        "--learning_rate",
        str(result["learning_rate"]),
        "--output_dir",
        str(tmp_path),
        "--disable_tqdm",
        "True",
    ]
    subprocess.run(command, check=True, capture_output=True)
    expected = json.loads((tmp_path / "all_results.json").read_text())
    for key in ("test_accuracy", "test_macro_f1", "eval_accuracy"):
        assert result[key] == pytest.approx(expected[key], abs=1e-6), key
    for name in ("gray", "colored"):
        found = result[f"{name}_prototype_accuracy"], result[f"{name}_head_accuracy"]
        names = f"test_{name}_prototype_accuracy", f"test_{name}_accuracy"
        assert found == pytest.approx([expected[key] for key in names], abs=1e-6)
        assert 0 <= result[f"{name}_probe_accuracy"] <= 1


@pytest.mark.slow
def test_what_is_finished_is_not_run_again_and_other_arguments_are_refused(finished):
    logs = {path: path.stat().st_mtime_ns for path in finished.glob("*/log.txt")}
    run = benchmark(finished, "--methods", "pmr", "--seeds", "3", "--learning_rates", "1e-6", "3e-2")
    assert run.returncode == 0 and "training" not in run.stdout and "measuring" not in run.stdout
    assert logs == {path: path.stat().st_mtime_ns for path in finished.glob("*/log.txt")}
    assert Image.open(finished / "curves-concat.png").width > 1000
    rates = ("--learning_rates", "1e-6", "3e-2", "--weight_decay", "0.1")
    run = benchmark(finished, "--methods", "pmr", "--seeds", "3", *rates)
    assert run.returncode != 0 and "give another --output_dir" in run.stderr


@pytest.mark.slow
def test_a_killed_comparison_goes_on_where_it_was(tmp_path):
    arguments = ["--methods", "joint", "--seeds", "3", "--num_train_epochs", "40"]
    command = [sys.executable, str(EXAMPLES / "benchmark.py"), "--output_dir", str(tmp_path), *SHORT, *arguments]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL) as run:
        while not list(tmp_path.glob("*/checkpoint-*/trainer_state.json")):
            assert run.poll() is None
            time.sleep(0.05)
        os.killpg(run.pid, signal.SIGKILL)
    run = benchmark(tmp_path, *arguments)
    assert run.returncode == 0, run.stderr
    (result,) = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    assert result["train_seconds"] is None and result["epochs"] == 40  # of a resumed run the time is not known
    history = json.loads((tmp_path / result["name"] / "trainer_state.json").read_text())["log_history"]
    assert [entry["epoch"] for entry in history if "eval_loss" in entry][:40] == list(range(1, 41))


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["crema_d", "ave", "cg_mnist"])
def test_the_papers_settings_are_understood(dataset, tmp_path):
    command = ["bash", str(EXAMPLES / "paper.sh"), dataset, "data", "--only_report", "--output_dir", str(tmp_path)]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(command, check=True, env=environment)


@pytest.mark.slow
def test_a_run_that_fails_is_named(tmp_path):
    run = benchmark(tmp_path, "--methods", "pmr", "--seeds", "3", "--optim", "sgd", "--optim_args", "nonsense")
    assert run.returncode != 0
    assert "Expected concat-pmr-seed3 to train, but it ended with code 1 (" in run.stderr


@pytest.fixture(scope="module")
def report():
    sys.path.insert(0, str(EXAMPLES))
    import benchmark_report

    sys.path.remove(str(EXAMPLES))
    return benchmark_report


def test_the_table_by_hand(report):
    base = {"fusion": "concat", "setting": None, "rho": 0.5, "peak_memory_mib": 100.0, "learning_rate": 0.01}
    results = []
    for method, accuracies, seconds in (("joint", (0.3, 0.4, 0.5), 10.0), ("pmr", (0.5, 0.5, 0.4), 12.0)):
        for seed, accuracy in enumerate(accuracies):
            own = {"a_probe_accuracy": 0.25, "a_prototype_accuracy": accuracy, "a_share": 0.1 * seed}
            own |= {"method": method, "seed": seed, "test_accuracy": accuracy, "test_macro_f1": 0.2}
            results.append({**base, **own, "train_seconds": None if seed == 1 else seconds})
    fused, alone = report.table_of(results).strip().split("\n\n")
    joint, pmr = ([cell.strip() for cell in line.split("|")[1:-1]] for line in fused.splitlines()[2:])
    assert joint[:5] == ["concat", "joint", "3", "40.0 ± 10.0", ""]
    # differences of 20, 10 and -10 points
    assert pmr[3:5] == ["46.7 ± 5.8", "+6.7 ± 15.3 (2 of 3 ahead)"]
    assert pmr[6:9] == ["1.20", "1.00", "0.01"]
    assert "| concat | pmr | 46.7 ± 5.8 |  | 25.0 ± 0.0 | 0.10 | 0.50 |" in alone
