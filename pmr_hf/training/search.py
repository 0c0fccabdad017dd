"""The search for hyperparameters. Each trial is a run of its own, whose arguments are checked like those of any run."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from transformers.trainer_utils import BestRun
from transformers.utils import logging

from .arguments import MultimodalTrainingArguments
from .whole_files import write_json


if TYPE_CHECKING:
    from .multimodal_trainer import MultimodalTrainer

logger = logging.get_logger(__name__)

SEARCH_RESULTS = "search_results.json"
TRIALS = "_search"  # names that begin with _ are not pushed to the Hub
DIRECTIONS = ("minimize", "maximize")


@dataclass(frozen=True)
class Objective:
    """
    What a search optimizes.

    Attributes:
        name (`str`): its name in the results.
        direction (`str`): `"minimize"` or `"maximize"`.
        compute (`Callable`): maps the metrics of an evaluation to a number.
    """

    name: str
    direction: str
    compute: Callable[[dict[str, float]], float]


def objective_of(
    args: MultimodalTrainingArguments,
    compute: Callable[[dict[str, float]], float] | None,
    direction: str | None,
) -> Objective:
    """
    The user's objective, or by default the metric for the best model with its direction, else the evaluation loss.

    Raises:
        ValueError: for a `compute` without a direction, or a direction against that of the default objective.
    """
    if direction is not None and direction not in DIRECTIONS:
        raise ValueError(f"Expected `direction` to be 'minimize' or 'maximize', got {direction!r}; correct it.")
    if compute is not None:
        if direction is None:
            raise ValueError(
                "Expected a `direction` with your own `compute_objective`, got none; pass 'maximize' for an accuracy, "
                "'minimize' for a loss."
            )
        return Objective("compute_objective", direction, compute)
    metric = args.metric_for_best_model or "loss"
    name = metric if metric.startswith("eval_") else f"eval_{metric}"
    known = DIRECTIONS[bool(args.greater_is_better)]
    if direction not in (None, known):
        raise ValueError(
            f"Expected to {known} the default objective {name}, got direction={direction!r}; leave it out, or choose "
            "the objective with `metric_for_best_model` or `compute_objective`."
        )

    def value_of(metrics: dict[str, float]) -> float:
        if name not in metrics:
            raise ValueError(
                f"Expected the evaluation to have {name}, the objective of the search, got {sorted(metrics)}; set "
                "`metric_for_best_model` to one of them."
            )
        return metrics[name]

    return Objective(name, known, value_of)


def arguments_of_trial(
    args: MultimodalTrainingArguments, values: dict[str, Any], folder: Path
) -> MultimodalTrainingArguments:
    """
    A copy of the arguments with the values of a trial, checked like any arguments. It trains in `folder`.

    Raises:
        ValueError: for a name that is no argument, or a value outside its range.
    """
    if not isinstance(values, dict):
        raise ValueError(f"Expected `hp_space` to return a dict of arguments, got {values!r}; correct it.")
    unknown = sorted(values.keys() - {each.name for each in fields(args) if each.init})
    if unknown:
        raise ValueError(
            f"Expected `hp_space` to name arguments of {type(args).__name__}, got {unknown}; correct them, or let "
            "`model_init(trial)` suggest what belongs to the model."
        )
    return replace(args, **(values | {"output_dir": str(folder)}))


def require_optuna() -> ModuleType:
    """Import optuna. Raises `ImportError` with the way to install it."""
    try:
        import optuna
    except ImportError as error:
        raise ImportError("Expected `optuna` for a search; install it: pip install pmr_hf[search].") from error
    return optuna


def check_model_init(trainer: "MultimodalTrainer") -> None:
    """Raise `ValueError` for a trainer that cannot make new models."""
    if trainer.model_init is None:
        raise ValueError(
            "Expected `model_init`, to train a new model with other arguments, got a `model`; pass a function that "
            "returns the model."
        )


def check_can_search(trainer: "MultimodalTrainer", n_trials: int, compute: Callable[..., float] | None) -> None:
    """
    Raise `ValueError` for a trainer of several processes or without validation, for less than one trial, or for several
    evaluation sets without an objective.
    """
    if n_trials < 1:
        raise ValueError(f"Expected `n_trials` of at least 1, got {n_trials}; correct it.")
    if trainer.args.world_size > 1:
        raise ValueError(
            f"Expected one process to search, got {trainer.args.world_size}, which would have to agree on each trial; "
            "search in one process, and train with the best values in several."
        )
    if trainer.eval_dataset is None:
        raise ValueError("Expected an `eval_dataset` to compare the trials on, got None; pass validation rows.")
    if isinstance(trainer.eval_dataset, dict) and compute is None and trainer.args.metric_for_best_model is None:
        raise ValueError(
            f"Expected an objective with the evaluation sets {list(trainer.eval_dataset)}, got none; set "
            f"`metric_for_best_model`, such as '{next(iter(trainer.eval_dataset))}_loss', or `compute_objective`."
        )


def search(
    trainer: "MultimodalTrainer",
    space: Callable[[Any], dict[str, Any]],
    objective: Objective,
    n_trials: int,
    sampler: Any,
) -> BestRun:
    """
    Train and evaluate a model for each trial; see [`MultimodalTrainer.hyperparameter_search`]. Afterwards the trainer
    has its own arguments again, and a new model.
    """
    optuna = require_optuna()
    args, folder = trainer.args, Path(trainer.args.output_dir)
    sampler = optuna.samplers.TPESampler(seed=args.seed) if sampler is None else sampler
    study = optuna.create_study(direction=objective.direction, sampler=sampler)
    trials: list[dict[str, Any]] = []

    def run(trial: Any) -> float:
        values = space(trial)
        own = folder / TRIALS / f"run-{trial.number}"
        trainer.use_arguments(arguments_of_trial(args, values, own), trial)
        value = train_and_evaluate(trainer, objective, trial)
        shutil.rmtree(own)
        known = None if math.isnan(value) else value
        trials.append({"arguments": json.loads(json.dumps(values, default=str)), "objective": known})
        write_results(folder, objective, trials, None)
        return value

    shutil.rmtree(folder / TRIALS, ignore_errors=True)  # of a search that was killed
    try:
        study.optimize(run, n_trials)  # logs a line for each trial
    finally:
        shutil.rmtree(folder / TRIALS, ignore_errors=True)
        trainer.use_arguments(args)
    if all(each["objective"] is None for each in trials):
        raise FloatingPointError(
            f"Expected a trial whose loss stays finite, got none of {len(trials)}; lower the learning rates."
        )
    best = study.best_trial.number
    write_results(folder, objective, trials, best)
    return BestRun(str(best), trials[best]["objective"], trials[best]["arguments"])


def train_and_evaluate(trainer: "MultimodalTrainer", objective: Objective, trial: Any) -> float:
    """The objective of the model that the training of a trial leaves, or nan, which optuna counts as a failure."""
    try:
        trainer.train(trial=trial)
    except FloatingPointError as error:  # of too high a learning rate, which the search may try
        logger.warning(f"A trial has failed: {error}")
        return math.nan
    value = float(objective.compute(trainer.evaluate()))
    return value if math.isfinite(value) else math.nan


def write_results(folder: Path, objective: Objective, trials: list[dict[str, Any]], best: int | None) -> None:
    """Write `search_results.json`: the objective, the trials so far, and the number of the best, once it is known."""
    content = {"objective": objective.name, "direction": objective.direction, "best": best, "trials": trials}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SEARCH_RESULTS, content)


def best_of_results(folder: Path, n_trials: int) -> BestRun | None:
    """The best trial of a search in a folder, or `None` if no search of so many trials has ended there."""
    file = folder / SEARCH_RESULTS
    found = json.loads(file.read_bytes()) if file.is_file() else {"best": None}
    if found["best"] is None or len(found["trials"]) != n_trials:
        return None
    best = found["trials"][found["best"]]
    return BestRun(str(found["best"]), best["objective"], best["arguments"])


def shown(values: dict[str, Any]) -> str:
    """Values in one line, such as "learning_rate 0.003, pmr_weights hard"."""
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )
