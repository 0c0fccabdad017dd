"""The comparison of methods, run as a user runs it."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from helpers.scripts import EXAMPLES, load_example
from PIL import Image

from pmr_hf.command_line.benchmark_cells import BENCHMARK_METHODS, Cell
from pmr_hf.command_line.parse_arguments import parse_arguments
from pmr_hf.command_line.split_command import options_of


SHORT = ["--max_train_samples", "96", "--num_train_epochs", "2", "--use_cpu"]


def benchmark(folder, *arguments):
    command = [sys.executable, str(EXAMPLES / "benchmark.py"), "--output_dir", str(folder), *SHORT, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def script():
    return load_example("benchmark")


@pytest.fixture(scope="module")
def finished(script, tmp_path_factory):
    """The folder of two runs, each in a process of its own."""
    folder, printed = tmp_path_factory.mktemp("benchmark") / "runs", io.StringIO()
    arguments = ["--methods", "pmr", "--seeds", "3", "--learning_rates", "1e-6", "3e-2"]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(sys, "argv", ["benchmark.py", "--output_dir", str(folder), *SHORT, *arguments])
        script.main()
    (folder / "printed.txt").write_text(printed.getvalue())
    return folder


def test_the_rate_is_chosen_on_validation_and_the_test_is_touched_once(finished):
    accuracies = {
        rate: json.loads((finished / f"concat-pmr-lr{rate}-seed3" / "trained.json").read_text())["eval_accuracy"]
        for rate in ("1e-6", "3e-2")
    }
    best = max(accuracies, key=accuracies.get)  # the first of equal ones
    (result,) = map(json.loads, (finished / "results.jsonl").read_text().splitlines())
    assert result["name"] == f"concat-pmr-lr{best}-seed3" and result["eval_accuracy"] == accuracies[best]
    assert result["grid"] == accuracies
    tables = (finished / "results.md").read_text()
    assert f"| {float(best):g} of 1e-6, 3e-2 |" in tables
    assert (finished / "printed.txt").read_text().endswith(f"{tables}\nwritten to {finished}\n")
    assert [path.parent.name for path in finished.glob("*/result.json")] == [result["name"]]
    for path in finished.glob("*/trainer_state.json"):
        assert not any("test_loss" in entry for entry in json.loads(path.read_text())["log_history"])
    assert result["train_seconds"] > 0 and result["peak_memory_mib"] > 100
    missing = {"1e-6": "lower", "3e-2": "higher"}[best]
    printed = (finished / "printed.txt").read_text()
    assert f"concat-pmr-lr{best}-seed3: the best rate is at the end of the grid; add a {missing} one." in printed


@pytest.mark.slow
def test_the_result_is_that_of_the_script_itself(finished, tmp_path):
    (result,) = map(json.loads, (finished / "results.jsonl").read_text().splitlines())
    command = [sys.executable, str(EXAMPLES / "run_pmr.py"), *SHORT, "--method", "pmr", "--seed", "3"]
    command += [
        *("--recipe", "paper", "--compare_with", "none"),
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
    assert run.returncode != 0 and "it has none in place of --weight_decay 0.1; give another --output_dir" in run.stderr


@pytest.mark.slow
def test_a_killed_comparison_goes_on_where_it_was(tmp_path):
    arguments = ["--methods", "joint", "--seeds", "3", "--num_train_epochs", "200"]
    command = [sys.executable, str(EXAMPLES / "benchmark.py"), "--output_dir", str(tmp_path), *SHORT, *arguments]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL) as run:
        while not list(tmp_path.glob("*/checkpoint-*/trainer_state.json")):
            assert run.poll() is None
            time.sleep(0.05)
        # Kill only the command: its training run continues, and a second command starts no other one
        run.kill()
        run.wait()
        second = benchmark(tmp_path, *arguments)
        assert second.returncode == 1 and "still trains there; wait for it or stop it" in second.stderr
        os.killpg(run.pid, signal.SIGKILL)
    other = benchmark(tmp_path, *arguments, "--weight_decay", "0.1")
    assert other.returncode == 1 and "give another --output_dir" in other.stderr
    run = benchmark(tmp_path, *arguments)
    assert run.returncode == 0, run.stderr
    (result,) = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    assert result["train_seconds"] is None and result["epochs"] == 200  # the time of a resumed run is unknown
    history = json.loads((tmp_path / result["name"] / "trainer_state.json").read_text())["log_history"]
    assert [entry["epoch"] for entry in history if "eval_loss" in entry][:200] == list(range(1, 201))


PICTURES_AND_FRAMES = ({"visual": "basic"}, "random", "on_the_fly")
AS_THEY_ARE = ({}, "even", "cached")


@pytest.mark.parametrize(
    ("arguments", "alpha", "epochs", "pmr_epochs", "rate", "stable_steps", "training_data"),
    [
        ("crema_d data", 2, 130, 71, 1e-3, 70 * 95, PICTURES_AND_FRAMES),  # ceil(6,028 / 64) steps in an epoch
        ("ave data", 2, 130, 71, 1e-3, 70 * 53, PICTURES_AND_FRAMES),  # ceil(3,339 / 64)
        ("cg_mnist data", 1, 100, 61, 1e-3, 70 * 844, AS_THEY_ARE),  # ceil(54,000 / 64)
        ("cg_mnist data --tenth", 1, 10, 6, 1e-2, 5908, AS_THEY_ARE),
        ("crema_d data --pmr_alpha 3", 3, 130, 71, 1e-3, 70 * 95, PICTURES_AND_FRAMES),
    ],
)
def test_the_papers_settings_are_those_of_its_authors(
    arguments, alpha, epochs, pmr_epochs, rate, stable_steps, training_data, tmp_path
):
    """Each value as the authors ran it. A `python` that only prints its arguments takes the place of the benchmark."""
    (tmp_path / "python").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n", encoding="utf-8")
    (tmp_path / "python").chmod(0o755)
    command = ["bash", str(EXAMPLES / "paper.sh"), *arguments.split()]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    file, *given = run.stdout.splitlines()
    assert Path(file).name == "benchmark.py"
    options = {option[0]: option[1:] for option in options_of(given)}
    assert [options.pop(f"--{name}") for name in ("fusions", "seeds")] == [["concat", "sum", "film", "gated"], [*"012"]]
    assert options.pop("--methods") == ["unimodal", "joint", "dropout", "gblend", "ogm_ge", "pmr_without_per", "pmr"]
    shared = [[name, *values] for name, values in options.items()]
    for method, per in (("pmr", 0.01), ("pmr_without_per", 0)):
        script_args, args = parse_arguments(Cell(method, "concat").arguments(shared))
        assert (script_args.dataset, script_args.data_dir) == tuple(arguments.split()[:2])
        assert script_args.initialization == "kaiming" and script_args.modality_dropout == 0
        assert (script_args.augment, script_args.frames, script_args.preprocess) == training_data
        assert (args.num_train_epochs, args.learning_rate, args.max_grad_norm) == (epochs, rate, 0)
        assert args.optim == "sgd" and args.optim_args == "momentum=0.9,weight_decay=1e-4"
        assert args.per_device_train_batch_size == 64 and args.gradient_accumulation_steps == 1
        assert args.lr_scheduler_type == "warmup_stable_decay" and args.warmup_steps == 0
        decay = {"num_stable_steps": stable_steps, "num_decay_steps": 1, "min_lr_ratio": 0.1}
        assert args.lr_scheduler_kwargs == decay
        assert (args.pmr_weights, args.pmr_alpha, args.pmr_epochs, args.pmr_mu) == ("hard", alpha, pmr_epochs, per)
        assert args.prototype_momentum == 0 and args.answer is None
    audio, _ = parse_arguments(Cell("unimodal", "concat", modality=next(iter(script_args.columns))).arguments(shared))
    assert audio.augment == {}


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["crema_d", "ave", "cg_mnist"])
def test_the_papers_settings_are_understood(dataset, tmp_path):
    command = ["bash", str(EXAMPLES / "paper.sh"), dataset, "data", "--only_report", "--output_dir", str(tmp_path)]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.stderr.endswith(
        f"Expected finished runs in {tmp_path}, found none.\n"
    )  # the arguments have been read by then


@pytest.mark.slow
def test_a_run_that_fails_is_named(tmp_path):
    """The other runs still start."""
    wrong = ("--optim", "sgd", "--optim_args", "nonsense")
    run = benchmark(tmp_path, "--methods", "pmr", "joint", "--seeds", "3", *wrong)
    assert run.returncode == 1
    for name in ("concat-pmr-seed3", "concat-joint-seed3"):
        assert f"Expected {name} to train, but it ended with code 1 (ValueError: not enough values" in run.stderr


@pytest.mark.slow
def test_numbers_of_three_modalities_without_a_test_and_with_a_rate_that_diverges(tmp_path):
    """`b` has no value in validation, and `c` has values for only one class in training."""
    rows = {"train": range(96), "validation": range(96, 144)}
    for name, numbers in rows.items():
        lines = ["a1,a2,b,c,label"]
        for i in numbers:
            kind, b = i % 3, "" if name == "validation" else i % 5
            lines.append(f"{kind},{i % 7},{b},{i % 4 if kind == 0 else ''},{'xyz'[kind]}")
        (tmp_path / f"{name}.csv").write_text("\n".join(lines), encoding="utf-8")
    files = ["--train_file", str(tmp_path / "train.csv"), "--validation_file", str(tmp_path / "validation.csv")]
    data = [*files, "--columns", "a=a1,a2", "b=b", "c=c", "--backbones", "a=numbers", "b=numbers", "c=numbers"]
    common = [*data, "--seeds", "0", "--learning_rates", "1e30", "1e-2", "--optim", "sgd", "--logging_steps", "1"]
    methods = ["--methods", "joint", "unimodal", "ogm", "--fusions", "film"]
    run = benchmark(tmp_path / "out", *common, *methods, "--ogm_alpha", "0.5", "--gradient_cosine_steps", "2")
    assert run.returncode == 0, run.stderr
    results = {result["method"]: result for result in map(json.loads, (tmp_path / "out" / "results.jsonl").open())}
    assert list(results) == ["joint", "unimodal: a", "unimodal: b", "unimodal: c", "ogm"]
    assert all(result["split"] == "validation" and result["learning_rate"] == 1e-2 for result in results.values())
    assert all(result["grid"]["1e30"] is None and result["grid"]["1e-2"] > 0 for result in results.values())
    assert all("diverged" in path.read_text() for path in tmp_path.glob("out/*1e30*/trained.json"))
    for result in (results["joint"], results["ogm"]):
        assert "a_probe_accuracy" in result and "c_prototype_accuracy" in result
        assert not {"a_head_accuracy", "b_probe_accuracy", "b_prototype_accuracy", "c_probe_accuracy"} & result.keys()
        shares = [result[f"{name}_share"] for name in "abc"]
        assert shares[1] == 0 and all(abs(share) < 1 for share in shares)
    assert results["ogm"]["arguments"][-4:] == ["--ogm_alpha", "0.5", "--gradient_cosine_steps", "2"]
    assert "--ogm_alpha" not in results["joint"]["arguments"]
    assert "validation accuracy, selected by" in (tmp_path / "out" / "results.md").read_text()
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["curves-film.png"]
    # a second command in the same folder keeps the results of the first
    run = benchmark(tmp_path / "out", *common, "--gradient_cosine_steps", "2", "--methods", "acc")
    assert run.returncode == 0, run.stderr
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["method"] for line in lines] == [*results, "acc"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--fusion sum", "Expected no --fusion here: it is set by --fusions."),
        ("--seed=7", "Expected no --seed=7 here: it is set by --seeds."),
        ("--learning_rates 1e-2 --learning_rate 1", "it is set by --learning_rates."),
        ("--methods joint ogm --pmr_alpha 2", "that joint or ogm takes, got --pmr_alpha; correct it."),
        ("--vary pmr_alfa 1", "that joint or pmr takes, got --pmr_alfa; correct it."),
        ("--vary pmr_alpha", "at least one value"),
        ("--vary pmr_alpha 1 --pmr_alpha 2", "Expected --pmr_alpha only in --vary, got it twice; remove one."),
        ("--methods pmr_without_per --vary pmr_mu 0.1", "it is set by pmr_without_per."),
        ("--fusions film flim", "invalid choice: 'flim'"),
        ("--num_train_epochs many", "invalid float value: 'many'"),
        ("--compare_with joint", "Expected no --compare_with here: it is set by --methods."),
        ("--only_report", "Expected finished runs in "),
        ("--methods joint reconboost --fusions film", "got reconboost (it takes the fusion head concat or sum); leave"),
        ("--methods all reconboost --fusions film", "got reconboost (it takes the fusion head concat or sum); leave"),
        (
            "--methods joint mla --train_file a.csv --columns a=a b=b --backbones a=numbers b=cg_mnist",
            "got mla (its fusion head needs embeddings of one width, got {'a': 128, 'b': 512}, which --embedding_dim",
        ),
        (
            "--methods pmr mla relearning --train_file a.csv --columns a=a b=b --backbones a=numbers b=tabular "
            "--problem_type multi_label_classification",
            "got mla, relearning (it needs one class per sample); leave them out, or give --methods all",
        ),
        (
            "--methods pmr joint --train_file a.csv --columns a=a b=b --backbones a=numbers b=tabular "
            "--problem_type=regression",
            "got pmr (a regression has no class prototypes); leave them out",
        ),
    ],
)
def test_a_mistake_stops_before_the_first_run(script, arguments, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--output_dir", str(tmp_path / "out"), *arguments.split()])
    with pytest.raises(SystemExit) as stopped:
        script.main()
    assert said in (stopped.value.code if isinstance(stopped.value.code, str) else capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--methods joint mla --gradient_cosine_steps 3", "Expected no `gradient_cosine_steps` for MLATrainer"),
        ("--methods joint late_fusion --modality_dropout 0.1", "Expected modality_dropout=0 for LateFusionTrainer"),
    ],
)
def test_what_one_method_refuses_stops_before_the_first_run(script, arguments, said, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--output_dir", str(tmp_path / "out"), *arguments.split()])
    with pytest.raises(ValueError, match=said):
        script.main()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", BENCHMARK_METHODS)
def test_each_method_may_be_the_first_one(script, method, tmp_path, capsys, monkeypatch):
    command = ["benchmark.py", "--methods", method, "--fusions", "sum", "--only_report", "--output_dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stopped:
        script.main()
    assert stopped.value.code == f"Expected finished runs in {tmp_path}, found none."


def test_all_leaves_out_what_cannot_train_and_says_so(script, tmp_path, capsys, monkeypatch):
    """A table whose encoders have the widths 128 and 512."""
    data = ["--train_file", "a.csv", "--columns", "a=a", "b=b", "--backbones", "a=numbers", "b=spectrogram"]
    tried = []
    monkeypatch.setattr(script, "trained", lambda cell, runs: tried.append((cell.method, cell.fusion)))
    for more, expected in (
        (["--fusions", "film"], {"mla": "shared", "reconboost": "film"}),
        (["--embedding_dim", "64"], {}),
    ):
        tried.clear()
        command = ["benchmark.py", "--methods", "all", "--seeds", "0", "--output_dir", str(tmp_path), *data, *more]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit):
            script.main()
        assert set(BENCHMARK_METHODS) - {method for method, _ in tried} == expected.keys()
        lines = capsys.readouterr().out.splitlines()
        said = [line for line in lines if line.startswith("left out: ")]
        assert len(said) == bool(expected) and all(f"{name} (" in said[0] for name in expected)


def test_a_result_beside_those_of_earlier_commands(script):
    joint = {"method": "joint", "setting": None, "fusion": "concat"}
    first = joint | {"seed": 0, "learning_rate": 0.1, "test_accuracy": 0.1}
    second = joint | {"seed": 1, "learning_rate": 0.1, "test_accuracy": 0.2}
    others = [joint | {"fusion": "sum", "seed": 0, "learning_rate": 0.01}]
    others += [joint | {"method": "unimodal: a", "seed": 0, "learning_rate": 0.01}]
    others += [joint | {"setting": "d=1", "seed": 0, "learning_rate": 0.01}]
    with_result = script.with_result
    assert with_result(second, [first, *others]) == [first, *others, second]  # a further seed
    again = first | {"test_accuracy": 0.3}
    assert with_result(again, [first, *others, second]) == [*others, second, again]  # one line for each seed
    higher = first | {"learning_rate": 0.3}
    assert with_result(higher, [first, *others, second]) == [*others, higher]  # another rate is better


def test_a_seed_that_diverges_is_named_and_the_others_are_reported(script, tmp_path, monkeypatch):
    base = {"method": "joint", "setting": None, "fusion": "concat", "modalities": ["a"], "split": "test", "rho": None}
    base |= {"learning_rate": 0.1, "train_seconds": None, "peak_memory_mib": None, "arguments": []}
    command = ["benchmark.py", "--methods", "joint", "--learning_rates", "1e-1", "--output_dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*command, "--only_report"])
    for seed in range(3):
        cell = Cell("joint", "concat", "1e-1", seed)
        (tmp_path / cell.name).mkdir()
        trained = {"diverged": "ce_loss=nan"} if seed == 1 else {"eval_accuracy": 0.5}
        (tmp_path / cell.name / "trained.json").write_text(json.dumps(trained))
        result = base | {"name": cell.name, "seed": seed, "test_accuracy": 0.1, "test_macro_f1": 0.1}
        (tmp_path / cell.name / "result.json").write_text(json.dumps(result))
        (tmp_path / cell.name / "trainer_state.json").write_text('{"log_history": [{"epoch": 1, "eval_accuracy": 1}]}')
    with pytest.raises(SystemExit) as stopped:
        script.main()
    assert stopped.value.code == "Expected concat-joint-lr1e-1-seed1 to train, but it diverged: ce_loss=nan"
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [0, 2] and json.loads(lines[0])["grid"] == {"1e-1": 0.5}
