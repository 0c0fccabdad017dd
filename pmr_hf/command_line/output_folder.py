"""The output folder of a run: its default name, and what an earlier run has left there."""

import argparse
import json
import re
import shutil
from pathlib import Path

from transformers import TrainingArguments

from ..data.saved_examples import FOLDER
from ..training.arguments import PrototypeTrainingArguments
from ..training.saving_trainer import WEIGHT_FILES
from ..training.search import TRIALS
from .script_arguments import ScriptArguments


RESULTS = re.compile(r"(all|train|eval|test|search)_results\.json")
WEIGHTS = re.compile(rf"{WEIGHT_FILES}|adapter_model\.safetensors")
STATE = re.compile(r"(config|adapter_config|processor_config|trainer_state|_run)\.json")
CHECKPOINT = re.compile(r"checkpoint-\d+")
DEFAULT_SEED = PrototypeTrainingArguments.__dataclass_fields__["seed"].default


def default_folder(script_args: ScriptArguments, seed: int, work: str | None = None) -> str:
    """
    The default output folder, such as `outputs/digits-concat-pmr`; `work` stands in place of the method. A table is
    called by its folder and its name. A seed other than the default is named.
    """
    name = script_args.data_name.replace("/", "-")
    if script_args.train_file and Path(script_args.train_file).exists():
        name = f"{Path(script_args.train_file).absolute().parent.name}-{name}"
    return folder_of([name, script_args.fusion, work or script_args.method, *(script_args.modalities or [])], seed)


def folder_of(parts: list[str], seed: int) -> str:
    """The output folder of a run with these parts in its name, such as `outputs/digits-concat-pmr-seed3`."""
    return f"outputs/{'-'.join(parts)}{'' if seed == DEFAULT_SEED else f'-seed{seed}'}"


def seed_of(arguments: list[str] | None) -> int:
    """The seed of a command, by default of `sys.argv`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    return parser.parse_known_args(arguments)[0].seed


def take_folder(training_args: TrainingArguments, overwrite: bool = False) -> None:
    """
    Make sure that a run which begins finds no model, checkpoints or results of another. With `overwrite`, they are
    removed, with its processors and examples. A model card stays, with the text that a user has added.

    Raises:
        ValueError: if the folder has some, and the run neither resumes nor overwrites.
    """
    folder = Path(training_args.output_dir)
    if training_args.resume_from_checkpoint or not folder.is_dir():
        return
    if overwrite:
        if training_args.process_index == 0:
            _clear(folder)
        return
    found = sorted(path.name for path in folder.iterdir() if _is_of_run(path))
    if found:
        raise ValueError(
            f"Expected an output folder without the model or checkpoints of another run, got {folder} with "
            f"{', '.join(found)}; give another --output_dir, --overwrite_output_dir to replace it, or "
            "--resume_from_checkpoint True to continue it."
        )


def _is_of_run(path: Path) -> bool:
    return RESULTS.fullmatch(path.name) is not None or _is_weights(path) or _is_checkpoint(path)


def _is_checkpoint(path: Path) -> bool:
    return CHECKPOINT.fullmatch(path.name) is not None and path.is_dir()


def _is_weights(path: Path) -> bool:
    return WEIGHTS.fullmatch(path.name) is not None


def _clear(folder: Path) -> None:
    """Remove what a run has written, but for its model card."""
    config = folder / "processor_config.json"
    processors = json.loads(config.read_bytes())["modalities"] if config.is_file() else {}
    for path in folder.iterdir():
        if _is_checkpoint(path) or (path.is_dir() and path.name in (*processors, TRIALS, FOLDER)):
            shutil.rmtree(path)
        elif path.is_file() and (RESULTS.fullmatch(path.name) or STATE.fullmatch(path.name) or _is_weights(path)):
            path.unlink()
