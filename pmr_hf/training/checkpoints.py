"""Which checkpoint a killed run goes on from, and what to do where it could not be written."""

import json
import os
import re
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.utils import logging


logger = logging.get_logger(__name__)

STATE = "trainer_state.json"
# What each kind of run writes: plain, sharded into several files, PEFT, FSDP, DeepSpeed
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
    The checkpoint of the highest step that has every file that resuming needs, all of them readable.

    A run that is killed while it writes a checkpoint leaves a part of it; `Trainer` itself would stop there, or go on
    without what is missing.

    Args:
        output_dir (`str`): the folder of the `checkpoint-*` folders.
        processes (`int`, *optional*, defaults to 1): number of training processes, each with a file of random states.

    Returns:
        `str | None`: its path; `None` if there is no checkpoint, or only parts that were never finished.

    Raises:
        ValueError: if no checkpoint is complete, though the writing of one was finished: it was saved by another number
            of processes or with `save_only_model`, or has lost files since.
    """
    checkpoint, finished = _search(output_dir, processes)
    if checkpoint is None and finished:
        found = ", ".join(f"{name} ({'; '.join(problems)})" for name, problems in finished.items())
        raise ValueError(
            f"Expected a complete checkpoint of {processes} process(es) in {output_dir}, got {found}; launch as many "
            "processes as before, or give the path of the one to resume from without what is missing."
        )
    return checkpoint


def _search(output_dir: str | os.PathLike, processes: int) -> tuple[str | None, dict[str, list[str]]]:
    """The newest complete checkpoint, and what is wrong with the newer ones whose writing was finished."""
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
        if not any(problem.endswith(STATE) for problem in problems):  # it is written last
            finished[folder.name] = problems
    return None, finished


def checkpoint_problems(folder: str | os.PathLike, processes: int = 1) -> list[str]:
    """What a checkpoint lacks for resuming, as short phrases; none if it is complete."""
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
    """Whether a file is whole, as far as its format tells: each of these ends with, or begins with, its own length."""
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


def check_writable(folder: str | os.PathLike) -> None:
    """Raise `OSError` unless the folder, or the first above it that is there, can be written to."""
    path = Path(folder).absolute()
    while not os.path.exists(path) and path != path.parent:
        path = path.parent
    if not os.path.isdir(path) or not os.access(path, os.W_OK | os.X_OK):
        found = "cannot be written to" if os.path.isdir(path) else "is no folder"
        raise OSError(
            f"Expected to save in {folder}, but {path} {found}; choose another `output_dir`, or change its permissions."
        )


@contextmanager
def failures_explained(output_dir: str | os.PathLike, processes: int = 1) -> Iterator[None]:
    """Add what happened and how to go on to the errors of a full or read-only disk and of a worker that died."""
    try:
        yield
    except (OSError, EOFError, RuntimeError, SafetensorError) as first:
        error = first
        if isinstance(error, (ConnectionError, EOFError)):
            try:
                time.sleep(1)  # a worker has died; torch raises what it knows of it a moment later
            except RuntimeError as later:
                error = later
        reason = _reason(error, str(output_dir))
        if reason is None:
            raise
        checkpoint, _ = _search(output_dir, processes)
        go_on = "there is no checkpoint yet" if checkpoint is None else f"the last complete checkpoint is {checkpoint}"
        raise RuntimeError(f"{reason}, then resume with `resume_from_checkpoint=True`: {go_on}.") from error


def _reason(error: BaseException | None, output_dir: str) -> str | None:
    while error is not None:
        text = str(error)
        if "No space left on device" in text and ("/torch_" in text or "shared memory" in text):
            return (
                f"Expected shared memory for the workers that load data, but it is full ({text}); give it more (in "
                "Docker, --shm-size), or lower `dataloader_num_workers`"
            )
        # The second is all that torch says of a file that it could not write to its end.
        if "No space left on device" in text or "unexpected pos" in text:
            return "Expected to save, but the disk is full; free some space"
        denied = "Read-only file system" in text or "Permission denied" in text
        if denied and os.path.basename(os.path.abspath(output_dir)) in text:
            return f"Expected to save, but the folder cannot be written to any more ({text}); make it writable"
        if "DataLoader worker" in text and ("exited unexpectedly" in text or "killed by signal" in text):
            return (
                f"Expected the workers that load data to run, but one has died, often for want of memory ({text}); "
                "lower `dataloader_num_workers` or the batch size"
            )
        error = error.__cause__ or error.__context__
    return None
