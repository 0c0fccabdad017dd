"""
What `examples/run_pmr.py` prints while it trains: a header, a bar of the steps and a line for each epoch. The table at
the end is in `results_table.py`.
"""

import logging
import sys
from collections.abc import Sequence
from typing import Any

from datasets import DatasetDict
from huggingface_hub.utils import logging as hub_logging
from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging as transformers_logging

from ..equations import ratio_of_two
from ..methods.gradient_scaling import GradientScalingTrainingArguments
from ..model.modeling import MultimodalModel
from ..model.targets import MODALITY_METRIC, MULTI_LABEL, REGRESSION, SINGLE_LABEL
from ..training.arguments import PrototypeTrainingArguments
from .parse_arguments import length_of_training
from .script_arguments import ScriptArguments


Entry = dict[str, Any]
LAST_IS_BEST = "the last epoch is the best one so far: a larger --num_train_epochs may give a better model"
# What a model predicts: one of them, and several
TARGETS = {
    SINGLE_LABEL: ("class", "classes"),
    MULTI_LABEL: ("label", "labels"),
    REGRESSION: ("number to predict", "numbers to predict"),
}


def set_verbosity(verbose: bool) -> None:
    """
    Show all that the libraries say, or only the warnings of pmr_hf: transformers warns of its own internals, which a
    user of a script cannot change.
    """
    if verbose:
        logging.basicConfig(level=logging.INFO)
        return
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    transformers_logging.set_verbosity_error()
    hub_logging.disable_propagation()  # it has a handler of its own, and would print each line twice


def hide_still_bars(args: TrainingArguments) -> None:
    """Hide all bars of a trainer where there is no terminal: in a log file, each of their steps would be printed."""
    args.disable_tqdm |= not sys.stderr.isatty()


def remove_output(trainer: Trainer) -> None:
    """Remove the bars and the dicts that `Trainer` prints, and all bars where there is no terminal."""
    hide_still_bars(trainer.args)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)


class EpochLines(TrainerCallback):
    """
    Prints a line for each epoch, with the mean training loss of its steps, the validation metric of all modalities and
    of each alone, and the ratio of their training scores: for two modalities rho (Eq. 8), for more the highest over the
    lowest. Each epoch is logged at its end. On a terminal, a bar shows the steps, and goes away at the end. Says at the
    end if the last epoch is the kept one, since validation may still rise.

    Args:
        title (`str`): what is trained, such as the method.
        modalities (`Sequence[str]`): the names of the modalities, in the order of fusion.
        problem_type (`str`): one of [`~pmr_hf.model.targets.PROBLEM_TYPES`].
    """

    def __init__(self, title: str, modalities: Sequence[str], problem_type: str = SINGLE_LABEL):
        self.title, self.modalities, self.problem_type = title, modalities, problem_type
        self._bar: tqdm | None = None
        self._first_step = 0  # of the epoch
        self._is_printed = False  # whether the epoch has its line

    def on_train_begin(self, args, state, control, **kwargs):
        self._first_step = state.global_step  # a resumed run has printed the epochs before
        if not state.is_world_process_zero:
            return
        self._bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc=self.title,
            unit="step",
            leave=False,
            delay=0,
            dynamic_ncols=True,
            disable=args.disable_tqdm,
        )
        metric = MODALITY_METRIC[self.problem_type].replace("_", " ")
        alone = "" if self.problem_type == REGRESSION else " of all modalities and of each alone"
        self._write(f"\n{self.title}: loss in training, {metric} on validation{alone}")
        self._write(row_of_epoch("epoch", dict(zip(self._columns, self._columns, strict=True))))

    def on_epoch_begin(self, args, state, control, **kwargs):
        self._print(state)  # unless there was an evaluation at the end of the epoch before
        self._first_step, self._is_printed = state.global_step, False

    def on_step_end(self, args, state, control, **kwargs):
        if self._bar is not None:
            self._bar.update()

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_log |= args.logging_strategy != IntervalStrategy.NO

    def on_evaluate(self, args, state, control, **kwargs):
        if self._bar is not None and float(state.epoch or 0).is_integer():
            self._print(state)

    def on_train_end(self, args, state, control, **kwargs):
        self._print(state)
        if self._bar is not None:
            if args.load_best_model_at_end and state.best_global_step == state.global_step:
                self._write(LAST_IS_BEST)
            self._bar.close()
            self._bar = None

    @property
    def _columns(self) -> list[str]:
        if self.problem_type == REGRESSION:
            return ["loss", "fused"]
        return ["loss", "fused", *self.modalities, *(["ratio"] if len(self.modalities) > 1 else [])]

    def _write(self, line: str) -> None:
        tqdm.write(line)
        sys.stdout.flush()

    def _print(self, state) -> None:
        if self._bar is None or self._is_printed or state.global_step == self._first_step:
            return
        self._is_printed = True
        entries = [entry for entry in state.log_history if entry["step"] > self._first_step]
        values = values_of_epoch(entries, self._first_step, self.modalities, MODALITY_METRIC[self.problem_type])
        cells = {name: f"{values[name]:.3f}" if name in values else "-" for name in self._columns}
        self._write(row_of_epoch(f"{state.epoch:.3g}/{state.num_train_epochs}", cells))


def row_of_epoch(epoch: str, cells: dict[str, str]) -> str:
    """A line of the epochs. `cells` maps the name of each column to what stands in it."""
    return f"{epoch:>9}" + "".join(f"  {cell:>{max(len(name), 7)}}" for name, cell in cells.items())


def values_of_epoch(entries: Sequence[Entry], first: int, modalities: Sequence[str], metric: str) -> dict[str, float]:
    """
    The values of an epoch that has begun after step `first`, from the entries of its log: `loss`, `fused`, each
    modality, and `ratio`. What is not logged is left out. Training values are the means over the steps.
    """
    sums: dict[str, float] = {}
    last = first
    scores = [f"{name}_score" for name in modalities]
    for entry in entries:
        if "loss" in entry:
            for key in {"loss", *scores} & entry.keys():
                sums[key] = sums.get(key, 0.0) + entry[key] * (entry["step"] - last)
            last = entry["step"]
    values = {"loss": sums["loss"] / (last - first)} if "loss" in sums else {}
    keys = {"fused": f"eval_{metric}"} | {name: f"eval_{name}_prototype_{metric}" for name in modalities}
    for entry in entries:
        values |= {name: entry[key] for name, key in keys.items() if key in entry}
        if f"eval_best_answer_{metric}" in entry:  # that of the head is in `eval_{metric}`
            values["fused"] = entry[f"eval_best_answer_{metric}"]
    known = [sums[score] for score in scores if sums.get(score, 0.0) > 0]
    if len(known) == 2 == len(scores):
        values["ratio"] = ratio_of_two(*known)
    elif len(known) > 1:
        values["ratio"] = max(known) / min(known)
    return values


def header(
    script_args: ScriptArguments,
    training_args: PrototypeTrainingArguments,
    model: MultimodalModel,
    dataset: DatasetDict,
    methods: Sequence[str],
) -> str:
    """What will be trained: the data, each modality with its encoder, the methods, the steps and the device."""
    number = model.config.num_labels
    targets = TARGETS[script_args.problem_type][number > 1]
    rows = ", ".join(f"{len(split):,} {name}" for name, split in dataset.items())
    lines = {"data": f"{script_args.data_name}, {number} {targets}; rows: {rows}"}
    for name, backbone in script_args.backbones.items():
        parameters = list(model.backbones[name].parameters())
        trained = sum(part.numel() for part in parameters if part.requires_grad)
        lines[name] = f"{backbone}, {in_words(sum(part.numel() for part in parameters))} parameters"
        lines[name] += (
            "" if all(part.requires_grad for part in parameters) else f", {in_words(trained)} of them trained"
        )
    epochs, steps, batch = length_of_training(training_args, len(dataset["train"]))
    scaled = isinstance(training_args, GradientScalingTrainingArguments)
    how = f", which scales each {training_args.modulation}" if scaled else ""
    lines["training"] = f"{' and then '.join(methods)}{how}, with the fusion head {script_args.fusion}"
    lines["length"] = f"{epochs:.4g} {'epoch' if epochs == 1 else 'epochs'}, {steps:,} steps of {batch} rows"
    processes = "" if training_args.world_size == 1 else f", {training_args.world_size} processes"
    lines["device"] = f"{training_args.device}{processes}"
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines.items())


def in_words(number: int) -> str:
    """A number of parameters, such as 532, 21 thousand or 86 million."""
    for unit, name in ((10**9, "billion"), (10**6, "million"), (10**3, "thousand")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return str(number)
