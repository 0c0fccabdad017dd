"""The search for hyperparameters: its objective, the checks of its trials, and what it leaves behind."""

import dataclasses
import json
import sys
from pathlib import Path

import optuna
import pytest
from helpers.all_methods import WITH_HEADS
from helpers.snapshots import assert_equal_tensors, snapshot

from pmr_hf import METHODS, MultimodalTrainer, PMRTrainer
from pmr_hf.training.run_identity import read_record
from pmr_hf.training.search import objective_of


RATES = [1e-5, 1e-2, 1e-3]


@pytest.fixture
def make_searcher(make_args, make_model, digits, collator):
    """A function that makes a trainer with `model_init`; its other keyword arguments are training arguments."""

    def make(cls=MultimodalTrainer, model_init=None, **kwargs):
        return cls(
            model_init=model_init or (lambda: make_model(unimodal_heads=cls in WITH_HEADS)),
            args=make_args(cls.args_class, **({"num_train_epochs": 1} | kwargs)),
            train_dataset=digits,
            eval_dataset=digits,
            data_collator=collator,
        )

    return make


def rates(trial):
    return {"learning_rate": trial.suggest_categorical("learning_rate", RATES)}


def all_rates():
    return optuna.samplers.GridSampler({"learning_rate": RATES}, seed=0)


@pytest.mark.parametrize(
    ("cls", "metric"), [pytest.param(MultimodalTrainer, None, marks=pytest.mark.slow), (PMRTrainer, "accuracy")]
)
def test_the_default_search_finds_the_best_of_a_loop_over_the_same_values(make_searcher, cls, metric):
    """Of the loss the lowest, and of an accuracy the highest; and each trial is an ordinary run."""
    key, best = ("eval_loss", min) if metric is None else ("eval_accuracy", max)
    expected = {}
    for rate in RATES:
        trainer = make_searcher(cls, learning_rate=rate)
        trainer.train()
        expected[rate] = trainer.evaluate()[key]
    assert len(set(expected.values())) == 3
    trainer = make_searcher(cls, metric_for_best_model=metric)
    found = trainer.hyperparameter_search(rates, n_trials=3, sampler=all_rates())
    assert found.hyperparameters == {"learning_rate": best(RATES, key=expected.get)}
    assert found.objective == best(expected.values())
    results = json.loads(Path(trainer.args.output_dir, "search_results.json").read_text())
    assert {each["arguments"]["learning_rate"]: each["objective"] for each in results["trials"]} == expected
    assert results["trials"][results["best"]]["objective"] == found.objective


def test_training_with_the_best_values_repeats_the_best_trial(make_searcher):
    trainer = make_searcher(PMRTrainer, metric_for_best_model="loss", seed=3)
    given = trainer.args
    best = trainer.hyperparameter_search(n_trials=2)
    assert trainer.args is given and set(best.hyperparameters) == {
        "learning_rate",
        "pmr_alpha",
        "pmr_mu",
        "pmr_weights",
    }
    trainer.use_arguments(dataclasses.replace(given, **best.hyperparameters))
    trainer.train()
    assert trainer.evaluate()["eval_loss"] == best.objective
    again = make_searcher(PMRTrainer, metric_for_best_model="loss", seed=3).hyperparameter_search(n_trials=2)
    assert again == best  # the sampler has the seed of the arguments


def test_a_trial_does_not_keep_the_values_of_the_trial_before(make_searcher):
    used = []

    class Noted(PMRTrainer):
        def train(self, *args, **kwargs):
            used.append((self.args.pmr_alpha, self.args.seed, self.label_smoother is not None))
            return super().train(*args, **kwargs)

    values = [{"pmr_alpha": 0.5, "label_smoothing_factor": 0.1}, {"seed": 7}]
    make_searcher(Noted, pmr_alpha=2.0, max_steps=1).hyperparameter_search(
        lambda trial: values[trial.number], n_trials=2
    )
    assert used == [(0.5, 42, True), (2.0, 7, False)]


def test_what_comes_before_the_first_step_has_the_new_model_of_the_trial(make_searcher):
    """There, G-Blend estimates its weights on copies of the model."""
    models = []

    class Noted(PMRTrainer):
        def before_training(self, resume):
            models.append(snapshot(self.unwrapped_model))

    trainer = make_searcher(Noted, max_steps=1)
    trainer.hyperparameter_search(n_trials=2)
    trainer.train()
    assert len(models) == 3
    for model in models[1:]:
        assert_equal_tensors(model, models[0])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pmr_alpha": -1.0}, "Expected `pmr_alpha` of at least 0, got -1.0"),
        ({"learning_rate": -1e-3}, "Expected `learning_rate` of at least 0, got -0.001"),
        ({"pmr_weights": "soft"}, "Expected `pmr_weights` to be 'clip' or 'hard', got 'soft'"),
        ({"modality_learning_rates": {"sound": 1e-3}}, "sound"),
        ({"pmr_alfa": 1.0}, r"Expected `hp_space` to name arguments of PMRTrainingArguments, got \['pmr_alfa'\]"),
        (None, "Expected `hp_space` to return a dict of arguments, got None"),
    ],
)
def test_wrong_values_are_refused_before_the_trial_trains(make_searcher, monkeypatch, values, message):
    trainer = make_searcher(PMRTrainer)
    given = trainer.args
    monkeypatch.setattr(trainer, "train", lambda **kwargs: pytest.fail("the trial has trained"))
    with pytest.raises(ValueError, match=message):
        trainer.hyperparameter_search(lambda trial: values, n_trials=1)
    assert trainer.args is given
    monkeypatch.undo()
    assert trainer.train().global_step == 8  # the trainer still works


def test_a_loss_that_is_not_finite_is_a_failed_trial(make_searcher):
    values = [1e30, 1e-2]

    def space(trial):
        return {"learning_rate": values[trial.number], "max_grad_norm": 0.0}

    trainer = make_searcher(optim="sgd")
    best = trainer.hyperparameter_search(space, n_trials=2)
    assert best.run_id == "1" and best.hyperparameters["learning_rate"] == 1e-2
    results = json.loads(Path(trainer.args.output_dir, "search_results.json").read_text())
    assert results["trials"][0]["objective"] is None
    with pytest.raises(FloatingPointError, match="Expected a trial whose loss stays finite, got none of 1"):
        trainer.hyperparameter_search(space, n_trials=1)


def test_a_trial_is_a_run_of_its_own_and_leaves_no_pickle(make_searcher):
    saved = []

    class Noted(PMRTrainer):
        def evaluate(self, *args, **kwargs):
            folder = Path(self.args.output_dir)
            ids = {read_record(path).id for path in (folder, *folder.glob("checkpoint-*"))}
            saved.extend((path.parent.name, *ids) for path in folder.glob("checkpoint-*"))
            return super().evaluate(*args, **kwargs)

    trainer = make_searcher(
        Noted, eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True, metric_for_best_model="loss"
    )
    trainer.hyperparameter_search(n_trials=2)
    assert sorted(name for name, _ in set(saved)) == ["run-0", "run-1"] and len({run for _, run in saved}) == 2
    files = {path.name for path in Path(trainer.args.output_dir).rglob("*")}
    assert files == {"search_results.json", "_in_use"}
    trainer.train()  # in a folder of which no trial is the owner
    assert read_record(Path(trainer.args.output_dir)).id not in {run for _, run in saved}


def test_model_init_gets_the_trial(make_searcher, make_model):
    sizes = []

    def model_init(trial):
        model = make_model(embedding_dim=None if trial is None else trial.suggest_int("embedding_dim", 4, 4))
        sizes.append(model.config.embedding_dim)
        return model

    make_searcher(model_init=model_init, max_steps=1).hyperparameter_search(rates, n_trials=1)
    assert sizes == [None, 4, 4, None]


@pytest.mark.parametrize("name", METHODS)
def test_the_values_of_each_methods_space_are_accepted_and_differ(make_args, name):
    args = make_args(METHODS[name].args_class, modality_learning_rates={"text": 1e-3})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = []
    for _ in range(20):
        values = args.hp_space(study.ask())
        changed = dataclasses.replace(args, **values)
        assert {name: getattr(changed, name) for name in values} == values
        assert 1e-3 <= changed.learning_rate <= 1e-1
        assert changed.modality_learning_rates["text"] == pytest.approx(changed.learning_rate / 10)
        seen.append(values)
    budget = {"num_train_epochs", "max_steps", "per_device_train_batch_size", "seed"}
    assert not budget & seen[0].keys()
    own = {"pmr": {"pmr_alpha", "pmr_mu", "pmr_weights"}, "agm": {"agm_alpha"}, "ogm": {"ogm_alpha"}}
    own |= {"opm": {"opm_base"}, "valuation": {"valuation_rate"}, "relearning": {"relearning_strength"}}
    own |= {"dgl": {"dgl_alpha"}, "mla": {"mla_alpha"}, "reconboost": {"reconboost_lambda"}}
    assert seen[0].keys() == {"learning_rate", "modality_learning_rates"} | own.get(name, set())
    assert all(len({str(values[key]) for values in seen}) > 1 for key in seen[0])


def test_the_objective_and_its_direction(make_args):
    metrics = {"eval_loss": 2.0, "eval_accuracy": 0.5}

    def known(direction=None, compute=None, **kwargs):
        found = objective_of(make_args(**kwargs), compute, direction)
        return found.name, found.direction, found.compute(metrics)

    assert known() == known("minimize") == ("eval_loss", "minimize", 2.0)
    assert known(metric_for_best_model="accuracy") == ("eval_accuracy", "maximize", 0.5)
    assert known(metric_for_best_model="eval_accuracy", greater_is_better=False)[1] == "minimize"
    assert known("maximize", lambda metrics: metrics["eval_accuracy"])[1:] == ("maximize", 0.5)
    with pytest.raises(ValueError, match="Expected a `direction` with your own `compute_objective`, got none"):
        known(compute=lambda metrics: metrics["eval_accuracy"])
    with pytest.raises(ValueError, match="Expected to minimize the default objective eval_loss, got direction='maximi"):
        known("maximize")
    with pytest.raises(ValueError, match="Expected `direction` to be 'minimize' or 'maximize', got 'max'"):
        known("max")
    with pytest.raises(ValueError, match="Expected the evaluation to have eval_f1, the objective"):
        known(metric_for_best_model="f1")


def test_a_search_that_cannot_work_is_refused(make_searcher, make_trainer, monkeypatch):
    trainer = make_trainer()
    for use in (trainer.hyperparameter_search, lambda: trainer.use_arguments(trainer.args)):
        with pytest.raises(ValueError, match="Expected `model_init`, to train a new model"):
            use()
    trainer = make_searcher()
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "eval_dataset", None)
        with pytest.raises(ValueError, match="Expected an `eval_dataset` to compare the trials on"):
            trainer.hyperparameter_search()
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "eval_dataset", {"first": trainer.eval_dataset, "last": trainer.eval_dataset})
        with pytest.raises(
            ValueError, match=r"Expected an objective with the evaluation sets \['first', 'last'\], got"
        ):
            trainer.hyperparameter_search()
        found = trainer.hyperparameter_search(rates, lambda metrics: metrics["eval_last_loss"], 1, "minimize")
        assert found.objective > 0
    with pytest.raises(ValueError, match="Expected `n_trials` of at least 1, got 0"):
        trainer.hyperparameter_search(n_trials=0)
    with pytest.raises(ValueError, match="Expected `backend='optuna'`, got 'ray'"):
        trainer.hyperparameter_search(backend="ray")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "optuna", None)
        with pytest.raises(ImportError, match=r"Expected `optuna` for a search; install it: pip install pmr_hf\[sea"):
            trainer.hyperparameter_search()
    monkeypatch.setattr(type(trainer.args), "world_size", 2)
    with pytest.raises(ValueError, match="Expected one process to search, got 2"):
        trainer.hyperparameter_search()
