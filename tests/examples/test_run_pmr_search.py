"""`examples/run_pmr.py --search`: on validation alone, deterministic, and followed by the usual training."""

import json
import sys

import pytest
from helpers.scripts import load_example

from pmr_hf import PMRTrainer, PrototypeTrainer


COMMAND = ["--search", "2", "--num_train_epochs", "1", "--max_train_samples", "128", "--max_eval_samples", "64"]
COMMAND += ["--compare_with", "none", "--use_cpu", "--disable_tqdm", "True", "--output_dir", "out"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that runs the script in an empty folder, with more arguments."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["run_pmr.py", *COMMAND, *arguments])
        load_example("run_pmr").main()
        return json.loads((tmp_path / "out" / "all_results.json").read_text())

    return run


def test_a_search_then_the_usual_training(run, tmp_path, monkeypatch, capsys):
    evaluated, evaluate = [], PrototypeTrainer.evaluate

    def noted(self, dataset=None, *args, **kwargs):
        evaluated.append((self.args.output_dir, dataset is None))
        return evaluate(self, dataset, *args, **kwargs)

    monkeypatch.setattr(PrototypeTrainer, "evaluate", noted)
    results = run()
    assert {folder for folder, _ in evaluated} == {"out/_search/run-0", "out/_search/run-1", "out"}
    assert [folder for folder, is_validation in evaluated if not is_validation] == ["out"]
    found = json.loads((tmp_path / "out" / "search_results.json").read_text())
    objectives = [trial["objective"] for trial in found["trials"]]
    chosen = found["trials"][found["best"]]
    assert len(set(objectives)) == 2 and chosen["objective"] == max(objectives)
    assert results["eval_best_answer_accuracy"] == max(objectives)  # the final training repeats the best trial
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| learning rate, schedule | {chosen['arguments']['learning_rate']:g}, " in card
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("pmr, best of 2 trials, ")]
    assert f"best_answer_accuracy {max(objectives):.4g}: learning_rate " in line
    assert json.loads((tmp_path / "out" / "config.json").read_text())["modality_dropout"] == 0.3  # of the recipe
    left = {path.name for path in (tmp_path / "out").glob("*") if path.is_dir()}
    assert left == {"checkpoint-2", "gray", "colored", "_examples"}

    with pytest.raises(ValueError, match=r"with .*search_results\.json"):
        run()
    with monkeypatch.context() as patch:  # a run that resumes has its search behind it
        patch.setattr(PMRTrainer, "hyperparameter_search", lambda *args, **kwargs: pytest.fail("searched again"))
        assert run("--resume_from_checkpoint", "True")["test_accuracy"] == results["test_accuracy"]


def test_without_optuna_nothing_is_begun(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"Expected `optuna` for a search; install it: pip install pmr_hf\[search\]"):
        run()
    assert not list(tmp_path.iterdir())
