"""The output folder of a run: its default name, and what an earlier run has left there."""

import json
import re
import shutil
from pathlib import Path

from ..training.arguments import PrototypeTrainingArguments
from ..training.multimodal_trainer import WEIGHT_FILES
from .script_arguments import ScriptArguments


RESULTS = re.compile(r"(all|train|eval|test)_results\.json")
WEIGHTS = re.compile(rf"{WEIGHT_FILES}|adapter_model\.safetensors")
STATE = re.compile(r"(config|adapter_config|processor_config|trainer_state|_run)\.json")
CHECKPOINT = re.compile(r"checkpoint-\d+")


def default_folder(script_args: ScriptArguments, seed: int) -> str:
    """
    The default output folder, such as `outputs/digits-concat-pmr`. A table is called by its folder and its name. A seed
    other than the default is named.
    """
    name = script_args.data_name.replace("/", "-")
    if script_args.train_file and Path(script_args.train_file).exists():
        name = f"{Path(script_args.train_file).absolute().parent.name}-{name}"
    parts = [name, script_args.fusion, script_args.method, *(script_args.modalities or [])]
    default_seed = PrototypeTrainingArguments.__dataclass_fields__["seed"].default
    return f"outputs/{'-'.join(parts)}{'' if seed == default_seed else f'-seed{seed}'}"


def take_folder(script_args: ScriptArguments, training_args: PrototypeTrainingArguments) -> None:
    """
    Make sure that a run which begins finds no model or results of another. With `--overwrite_output_dir`, they are
    removed, with its checkpoints and processors. A model card stays, with the text that a user has added.

    Raises:
        ValueError: if the folder has some, and the run neither resumes nor overwrites.
    """
    folder = Path(training_args.output_dir)
    if training_args.resume_from_checkpoint or not folder.is_dir():
        return
    if script_args.overwrite_output_dir:
        if training_args.process_index == 0:
            _clear(folder)
        return
    found = sorted(path.name for path in folder.iterdir() if RESULTS.fullmatch(path.name) or _is_weights(path))
    if found:
        raise ValueError(
            f"Expected an output folder without the model of another run, got {folder} with {', '.join(found)}; give "
            "another --output_dir, --overwrite_output_dir to replace it, or --resume_from_checkpoint True to continue "
            "it."
        )


def _is_weights(path: Path) -> bool:
    return WEIGHTS.fullmatch(path.name) is not None


def _clear(folder: Path) -> None:
    """Remove what a run has written, but for its model card."""
    config = folder / "processor_config.json"
    processors = json.loads(config.read_bytes())["modalities"] if config.is_file() else {}
    for path in folder.iterdir():
        if path.is_dir() and (CHECKPOINT.fullmatch(path.name) or path.name in processors):
            shutil.rmtree(path)
        elif path.is_file() and (RESULTS.fullmatch(path.name) or STATE.fullmatch(path.name) or _is_weights(path)):
            path.unlink()
