"""
Train PMR, or a method that it is compared with, on any dataset of several modalities.

    python examples/run_pmr.py                                # digits of scikit-learn, beside joint training
    python examples/run_pmr.py --dataset cg_mnist --data_dir mnist            # raw MNIST files
    python examples/run_pmr.py --dataset crema_d --data_dir CREMA-D           # or ave: the raw downloads
    python examples/run_pmr.py --train_file posts.csv --label_column topic    # your own data
    python examples/run_pmr.py --dataset_name user/posts --label_column topic \\
        --columns image=picture text=title \\
        --backbones image=google/vit-base-patch16-224 text=bert-base-uncased             # with encoders that you choose
    python examples/run_pmr.py --search 20                    # the best of 20 trials, by validation

For your own data, the script prints what it takes each column for, and why. `--columns` and `--backbones` replace a
part of that. If both name the same modalities, the model has no others.

On several GPUs, start it with `accelerate launch` in place of `python`, see docs/how_to/several_processes.md.
`--verbose` prints all that transformers and datasets say.

The script also takes every argument of the method's trainer. For PMR, these are the arguments of
`PMRTrainingArguments`, which include all of `TrainingArguments`.
"""

import logging
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path


if __name__ == "__main__":
    # Before torch is imported, which takes seconds: a mistake shows, and tqdm finds which bars to hide.
    package = find_spec("pmr_hf")
    if package is None:
        sys.exit("Expected the package pmr_hf, found none; install it first, by `pip install -e .` in its folder.")
    early = Path(package.submodule_search_locations[0]) / "command_line" / "early_check.py"
    run_path(str(early))["begin"](sys.argv[1:], Path(__file__))

import psutil  # installed with accelerate
import torch
from transformers import set_seed

from pmr_hf import (
    METHODS,
    MultimodalModel,
    PrototypeTrainer,
    PrototypeTrainingArguments,
    UnimodalHeadsTrainer,
    evaluate_report,
)
from pmr_hf.command_line.build import build_model
from pmr_hf.command_line.compare_with import joint_arguments
from pmr_hf.command_line.console import EpochLines, header, remove_output, set_verbosity
from pmr_hf.command_line.infer_modalities import inferred_columns
from pmr_hf.command_line.output_folder import take_folder
from pmr_hf.command_line.parse_arguments import leave_out_modalities, lower_pretrained_rates, parse_arguments
from pmr_hf.command_line.prepare import Prepared, prepare
from pmr_hf.command_line.results_table import CONSTANT, Row, kept_epoch, legend, method_rows, print_table
from pmr_hf.command_line.run_script import run_script
from pmr_hf.command_line.script_arguments import ScriptArguments
from pmr_hf.data.saved_examples import save_examples
from pmr_hf.model.targets import MODALITY_METRIC
from pmr_hf.training.arguments import BEST_ANSWER
from pmr_hf.training.constant_answer import constant_answer
from pmr_hf.training.search import best_of_results, require_optuna, shown


logger = logging.getLogger(__name__)


def main() -> None:
    script_args, training_args = parse_arguments()
    runs = [(script_args, training_args)]
    if script_args.compare_with == "joint":
        resume = training_args.resume_from_checkpoint is not None
        runs.insert(0, parse_arguments(joint_arguments(sys.argv[1:], training_args.output_dir, resume)))
    if script_args.search is not None:
        require_optuna()
    inferred = inferred_columns(script_args)
    if inferred is not None:
        if training_args.process_index == 0:
            print(f"{inferred.without(script_args.columns)}\n", flush=True)
        for args, _ in runs:
            args.complete(inferred)
    for args, others in runs:
        take_folder(others, args.overwrite_output_dir)
    rows: list[Row] = []
    for args, others in runs:
        rows += train_and_test(args, others, [each.method for each, _ in runs] if not rows else [])
    if training_args.process_index == 0:
        print_table(f"{script_args.data_name}, {script_args.fusion}", rows)
        print(f"{legend(script_args.problem_type, len(script_args.columns))}saved to {training_args.output_dir}")


def train_and_test(
    script_args: ScriptArguments, training_args: PrototypeTrainingArguments, methods: list[str]
) -> list[Row]:
    """
    Train and save a model. Returns its rows of the printed table. For the first run, `methods` names the methods of all
    runs; it prints the header and returns the row of the constant answer too.
    """
    leave_out_modalities(script_args, training_args)
    lower_pretrained_rates(script_args, training_args)
    set_verbosity(script_args.verbose and training_args.should_log)
    set_seed(training_args.seed)
    if len(script_args.columns) == 1:
        logger.warning(f"One modality, {next(iter(script_args.columns))!r}: there is nothing to rebalance.")

    data = prepare(script_args, training_args)
    trainer = make_trainer(script_args, training_args, data)
    if methods and training_args.process_index == 0:
        print(header(script_args, training_args, trainer.unwrapped_model, data.dataset, methods), flush=True)
    if script_args.search is not None:
        print(f"{script_args.method}, {use_best_arguments(trainer, script_args.search)}")
    seconds = train(trainer, script_args)
    split, metrics = evaluate(trainer, data)
    save(trainer, script_args, data, split)
    if "wandb" in training_args.report_to:
        import wandb

        wandb.finish()  # otherwise the next run would continue this one

    constant = constant_answer(trainer.data_collator, data.dataset["train"], data.dataset[split])
    cells = {f"{split} {MODALITY_METRIC[script_args.problem_type]}": f"{constant:.3f}"}
    modalities = list(script_args.columns)
    return [(CONSTANT[script_args.problem_type], cells)] * bool(methods) + method_rows(
        script_args.method,
        split,
        metrics,
        modalities,
        script_args.problem_type,
        kept_epoch(trainer.state, training_args, modalities),
        seconds,
        trainer.unwrapped_model.config.answer if training_args.answer == BEST_ANSWER else None,
    )


def make_trainer(
    script_args: ScriptArguments, training_args: PrototypeTrainingArguments, data: Prepared
) -> PrototypeTrainer:
    """The trainer of the method, with a new model. Without --verbose, it prints a line for each epoch."""
    trainer_class = METHODS[script_args.method]
    own_heads = issubclass(trainer_class, UnimodalHeadsTrainer)

    def new_model() -> MultimodalModel:
        return build_model(script_args, data.backbones, data.classes, own_heads)

    # With `model_init`, the trainer would draw other weights, which the runs in docs/results.md do not have.
    model = {"model": new_model()} if script_args.search is None else {"model_init": new_model}
    trainer = trainer_class(
        **model,
        args=training_args,
        train_dataset=data.dataset["train"],
        eval_dataset=data.dataset["validation"],
        prototype_dataset=data.dataset.get("prototypes"),
        processing_class=data.processor,
        data_collator=data.collator,
    )
    if not script_args.verbose:
        remove_output(trainer)
    return trainer


def train(trainer: PrototypeTrainer, script_args: ScriptArguments) -> float:
    """Train, or continue from a checkpoint. Returns the seconds that `Trainer` counts."""
    if not script_args.verbose:
        trainer.add_callback(EpochLines(script_args.method, list(script_args.columns), script_args.problem_type))
    checkpoint = trainer.args.resume_from_checkpoint
    start = time.perf_counter()
    metrics = trainer.train(resume_from_checkpoint=True if checkpoint == "True" else checkpoint).metrics
    metrics["train_seconds"] = time.perf_counter() - start  # includes a method's work before the first step
    metrics["train_peak_memory_mib"] = peak_memory()
    metrics["train_resumed"] = int(trainer.resumed_from is not None)  # if so, the time covers only the last part
    trainer.save_metrics("train", metrics)
    return metrics["train_runtime"]


def evaluate(trainer: PrototypeTrainer, data: Prepared) -> tuple[str, dict[str, float]]:
    """Evaluate on validation, and on the test if there is one. Returns the name and the metrics of the last."""
    split, metrics = "validation", trainer.evaluate()
    trainer.save_metrics("eval", metrics)
    if "test" in data.dataset and trainer.args.do_predict:
        split, metrics = "test", trainer.evaluate(data.dataset["test"], metric_key_prefix="test")
        trainer.save_metrics("test", metrics)
    return split, metrics


def save(trainer: PrototypeTrainer, script_args: ScriptArguments, data: Prepared, split: str) -> None:
    """Save the model, its card with a report on a split, and examples of validation. Push them if asked to."""
    args = trainer.args
    trainer.save_model()
    trainer.save_state()
    if len(data.examples) and trainer.is_world_process_zero():
        save_examples(args.output_dir, data.examples, data.collator)
    about = {"dataset": script_args.data_name, "license": script_args.license}
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if args.do_predict and trainer.is_world_process_zero() and not sharded:
        about["report"] = evaluate_report(trainer, data.dataset[split])
        about["report"].save(args.output_dir)
    trainer.create_model_card(**about)
    if args.push_to_hub:
        trainer.push_to_hub(**about)


def use_best_arguments(trainer: PrototypeTrainer, n_trials: int) -> str:
    """
    Give a trainer the arguments of the best trial. A run that resumes does not repeat a search that has ended. Returns
    the line to print.
    """
    args, folder = trainer.args, Path(trainer.args.output_dir)
    best = best_of_results(folder, n_trials) if args.resume_from_checkpoint else None
    if best is None:
        best = trainer.hyperparameter_search(n_trials=n_trials)
    trainer.use_arguments(replace(args, **best.hyperparameters))
    metric = args.metric_for_best_model or "loss"
    return f"best of {n_trials} trials, validation {metric} {best.objective:.4g}: {shown(best.hyperparameters)}"


def peak_memory() -> float:
    """The peak memory of this process so far, in MiB: GPU memory if there is a GPU, else main memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 2**20
    import resource  # not available on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    run_script(main)
