"""Find the checkpoint that a killed run resumes from: the newest one that was written completely."""

import json
import os
import re
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.utils import logging


logger = logging.get_logger(__name__)

STATE = "trainer_state.json"
# The file or folder of the weights, by kind of run: plain, sharded into several files, PEFT, FSDP, DeepSpeed
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "adapter_model.safetensors",
    "pytorch_model_fsdp_0",
    "pytorch_model_fsdp.bin",
    "latest",
)
OPTIMIZER = ("optimizer.pt", "optimizer_0", "optimizer.bin", "latest")
SCHEDULER = ("scheduler.pt", "latest")


def newest_complete_checkpoint(output_dir: str | os.PathLike, processes: int = 1) -> str | None:
    """
    Find the newest checkpoint that has every file needed to resume, with all files readable.

    A run that is killed while it writes a checkpoint leaves an incomplete one. Plain `Trainer` fails on it, or resumes
    without the missing files.

    Args:
        output_dir (`str`): the folder that contains the `checkpoint-*` folders.
        processes (`int`, *optional*, defaults to 1): number of training processes. Each process saves its random states
            in a file.

    Returns:
        `str | None`: the path of the checkpoint, or `None` if the folder has no checkpoint that was written completely.

    Raises:
        ValueError: if a checkpoint was written completely, but the run cannot resume from it, because another number of
            processes saved it, it was saved with `save_only_model`, or files were deleted from it.
    """
    checkpoint, finished = search_checkpoints(output_dir, processes)
    if checkpoint is None and finished:
        found = ", ".join(f"{name} ({'; '.join(problems)})" for name, problems in finished.items())
        raise ValueError(
            f"Expected a complete checkpoint of {processes} process(es) in {output_dir}, got {found}; launch as many "
            "processes as before, or give the path of a checkpoint to resume from it without the missing files."
        )
    return checkpoint


def search_checkpoints(output_dir: str | os.PathLike, processes: int) -> tuple[str | None, dict[str, list[str]]]:
    """
    Find the newest complete checkpoint.

    Returns:
        `tuple[str | None, dict[str, list[str]]]`: the path of the checkpoint, or `None` if there is none; and the
        problems of each newer checkpoint that was written completely, by the name of its folder.
    """
    steps = {}
    if os.path.isdir(output_dir):
        for folder in Path(output_dir).iterdir():
            if match := re.fullmatch(r"checkpoint-(\d+)", folder.name):
                steps[int(match[1])] = folder
    finished: dict[str, list[str]] = {}
    for _, folder in sorted(steps.items(), reverse=True):
        problems = checkpoint_problems(folder, processes)
        if not problems:
            return str(folder), finished
        logger.warning(f"Not resuming from {folder}: {'; '.join(problems)}.")
        if not any(problem.endswith(STATE) for problem in problems):  # `Trainer` writes this file last
            finished[folder.name] = problems
    return None, finished


def checkpoint_problems(folder: str | os.PathLike, processes: int = 1) -> list[str]:
    """List what a checkpoint lacks to resume from it, as short phrases. The list is empty for a complete checkpoint."""
    folder = Path(folder)
    random_states = ["rng_state.pth"] if processes <= 1 else [f"rng_state_{i}.pth" for i in range(processes)]
    problems = [
        f"there is no {group[0]}"
        for group in [WEIGHTS, OPTIMIZER, SCHEDULER, *((name,) for name in random_states), (STATE,)]
        if not any((folder / name).exists() for name in group)
    ]
    others = {path.name for path in folder.glob("rng_state*.pth")} - set(random_states)
    if others:
        problems.append(f"another number of processes has written {', '.join(sorted(others))}")
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        if not _is_readable(file):
            problems.append(f"cannot read {file.relative_to(folder)}")
        elif file.name.endswith(".index.json"):
            shards = set(json.loads(file.read_bytes())["weight_map"].values())
            problems += [f"there is no {name}" for name in sorted(shards) if not (file.parent / name).exists()]
    return problems


def _is_readable(file: Path) -> bool:
    """Whether a file is complete, as far as its format tells. These formats store their length or end with an index."""
    try:
        if file.suffix == ".json":
            json.loads(file.read_bytes())
        elif file.suffix == ".safetensors":
            with safe_open(file, framework="pt"):
                pass
        elif file.suffix in (".pt", ".pth", ".bin"):
            with zipfile.ZipFile(file):
                pass
        else:
            file.open("rb").close()
    except (OSError, ValueError, SafetensorError, zipfile.BadZipFile):
        return False
    return True
