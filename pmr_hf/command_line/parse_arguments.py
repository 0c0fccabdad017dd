"""Parse a command line into the arguments of the script and the training arguments of the method."""

import math
import sys
from pathlib import Path

import torch
from transformers import HfArgumentParser
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from ..data.new_encoders import NEW_ENCODERS
from ..data.paper_sets import PAPER_ALPHA, PAPER_DEFAULTS, PAPER_INITIALIZATION, PAPER_SETS
from ..methods import METHODS
from ..model.targets import MODALITY_METRIC, MULTI_LABEL, REGRESSION
from ..training.arguments import BEST_ANSWER, PrototypeTrainingArguments
from .defaults import DIGIT_EXAMPLES, LEAST_STEPS, MOST_EPOCHS, OWN_DATA_DEFAULTS, RECIPES, SELECTED_BY
from .output_folder import default_folder, seed_of
from .script_arguments import ScriptArguments
from .split_command import name_of, options_of


logger = logging.get_logger(__name__)

# For every script: the best epoch is chosen on validation, and a stopped run can resume.
DEFAULTS = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "load_best_model_at_end": True,
    "logging_steps": 20,
    "dataloader_pin_memory": torch.cuda.is_available(),
    "report_to": "none",
}


def parse_arguments(arguments: list[str] | None = None) -> tuple[ScriptArguments, PrototypeTrainingArguments]:
    """
    Parse the arguments of a command, by default `sys.argv`. The method determines which training arguments there are,
    and the data determines their defaults.

    Raises:
        ValueError: for an unknown argument, or a value outside its range.
        SystemExit: raised by argparse for a value of another type, and after --help.
    """
    usage = "%(prog)s [--argument value ...]; --help lists the arguments"
    script_parser = HfArgumentParser(ScriptArguments, add_help=False, usage=usage)
    script_args, _ = script_parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
    parser = HfArgumentParser((ScriptArguments, METHODS[script_args.method].args_class), usage=usage)
    parser.set_defaults(
        output_dir=default_folder(script_args, seed_of(arguments)),
        do_predict=True,  # evaluate on the test split once, at the end
        **DEFAULTS,
    )
    if script_args.own_data:
        parser.set_defaults(**OWN_DATA_DEFAULTS)
    else:
        paper_set = PAPER_SETS[script_args.dataset]
        parser.set_defaults(
            **PAPER_DEFAULTS,
            learning_rate=paper_set.rate,
            num_train_epochs=paper_set.epochs,
            max_grad_norm=paper_set.max_grad_norm,
        )
        if not script_args.varies:
            parser.set_defaults(preprocess=paper_set.preprocess)
        if any(backbone in NEW_ENCODERS for backbone in script_args.backbones.values()):
            parser.set_defaults(initialization=PAPER_INITIALIZATION)
        if script_args.dataset == "digits":
            parser.set_defaults(save_examples=DIGIT_EXAMPLES)
        if script_args.method == "pmr":
            parser.set_defaults(pmr_alpha=PAPER_ALPHA)
            parser.set_defaults(compare_with="joint" if script_args.dataset == "digits" else "none")
    if script_args.method == "pmr":
        parser.set_defaults(**RECIPES[script_args.recipe])
        if script_args.problem_type == MULTI_LABEL:  # embeddings collapse under rare labels without it
            parser.set_defaults(balance_labels=True)
    parser.set_defaults(metric_for_best_model=SELECTED_BY[script_args.problem_type])
    if script_args.problem_type == REGRESSION:
        parser.set_defaults(greater_is_better=False)
    *parsed, unknown = parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
    if unknown:
        raise ValueError(f"Expected the arguments that --help lists, got {unknown} too; correct or remove them.")
    script_args, training_args = parsed
    script_args.default_length = script_args.own_data and not gives_length(arguments)
    script_args.default_logging = not gives(arguments, "logging_steps", "logging_strategy")
    training_args.run_name = training_args.run_name or Path(training_args.output_dir).name  # in trackers
    metric = MODALITY_METRIC[script_args.problem_type]
    if training_args.answer == BEST_ANSWER and training_args.metric_for_best_model == metric:
        training_args.metric_for_best_model = f"best_answer_{metric}"
    return script_args, training_args


def gives(arguments: list[str] | None, *names: str) -> bool:
    """Whether a command gives one of these arguments. An option may be shortened, as argparse allows."""
    given = [name_of(option) for option in options_of(sys.argv[1:] if arguments is None else arguments)]
    return any(name and full.startswith(name) for name in given for full in names)


def gives_length(arguments: list[str] | None) -> bool:
    """Whether a command says how long to train."""
    return gives(arguments, "num_train_epochs", "max_steps")


def length_of_training(training_args: PrototypeTrainingArguments, rows: int) -> tuple[float, int, int]:
    """The epochs, the steps and the rows of a step, over all processes. `rows` is the number of training rows."""
    batch = training_args.train_batch_size * training_args.world_size * training_args.gradient_accumulation_steps
    in_epoch = max(rows // batch, 1) if training_args.dataloader_drop_last else math.ceil(rows / batch)
    if training_args.max_steps > 0:
        return training_args.max_steps / in_epoch, training_args.max_steps, batch
    return training_args.num_train_epochs, math.ceil(training_args.num_train_epochs * in_epoch), batch


def lengthen_training(script_args: ScriptArguments, training_args: PrototypeTrainingArguments, rows: int) -> None:
    """
    On a small table of a user's own, train for as many epochs as make 500 steps, up to 40, unless the command says how
    long to train. `rows` is the number of training rows.
    """
    if not script_args.default_length:
        return
    steps = math.ceil(rows / length_of_training(training_args, rows)[2])  # of one epoch
    epochs = min(math.ceil(LEAST_STEPS / steps), MOST_EPOCHS)
    if epochs > training_args.num_train_epochs:
        logger.warning(
            f"{rows} training rows make {steps} steps in an epoch: training takes {epochs} epochs, {epochs * steps} "
            "steps. --num_train_epochs or --max_steps sets another length."
        )
        training_args.num_train_epochs = epochs


def log_short_epochs(script_args: ScriptArguments, training_args: PrototypeTrainingArguments, rows: int) -> None:
    """
    Log an epoch of at most 40 steps once, at its end, unless the command says when to log. `rows` is the number of
    training rows.
    """
    steps = math.ceil(rows / length_of_training(training_args, rows)[2])
    if script_args.default_logging and steps <= 2 * DEFAULTS["logging_steps"]:
        training_args.logging_strategy = IntervalStrategy.EPOCH


def leave_out_modalities(script_args: ScriptArguments, training_args: PrototypeTrainingArguments) -> None:
    """Drop the training arguments of modalities that --modalities leaves out."""
    frozen, rates = training_args.freeze or [], training_args.modality_learning_rates or {}
    training_args.freeze = [name for name in frozen if name not in script_args.left_out] or None
    training_args.modality_learning_rates = {
        name: rate for name, rate in rates.items() if name not in script_args.left_out
    } or None


def lower_pretrained_rates(script_args: ScriptArguments, training_args: PrototypeTrainingArguments) -> None:
    """
    On a user's own data, give each pretrained encoder a tenth of the learning rate, unless the command sets its rate or
    freezes it.
    """
    if script_args.own_data:
        frozen = training_args.freeze or ()
        rates = {
            name: training_args.learning_rate / 10
            for name, backbone in script_args.backbones.items()
            if backbone not in NEW_ENCODERS and name not in frozen
        }
        training_args.modality_learning_rates = rates | (training_args.modality_learning_rates or {})
