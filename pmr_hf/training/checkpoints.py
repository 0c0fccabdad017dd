"""Find the checkpoint that a killed run resumes from: the newest of its own that is complete and undamaged."""

import json
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import TrainerState
from transformers.trainer_pt_utils import safe_globals
from transformers.utils import logging

from .checksums import damage_of, read_checksums
from .run_identity import RunRecord, read_record


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
# What the dict in a file of torch must have. A file of another run or program may lack it.
KEYS = {"optimizer": {"state", "param_groups"}, "scheduler": {"last_epoch"}, "rng_state": {"python", "numpy", "cpu"}}
CONFIGS = ("config.json", "adapter_config.json")
UNREADABLE = (
    *(OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError),
    *(SafetensorError, zipfile.BadZipFile, pickle.UnpicklingError),
)


def newest_complete_checkpoint(output_dir: str | os.PathLike, processes: int = 1) -> str | None:
    """
    Find the newest checkpoint of the run in a folder. It must have every file needed to resume, undamaged.

    A run that is killed while it writes a checkpoint leaves an incomplete one. Plain `Trainer` fails on it, or resumes
    without the missing files. If the folder records its run, the checkpoints of other runs are left out. Without a
    record, as in a folder of an older version of this library, all checkpoints count.

    Args:
        output_dir (`str`): the folder that contains the `checkpoint-*` folders.
        processes (`int`, *optional*, defaults to 1): number of training processes. Each process saves its random states
            in a file.

    Returns:
        `str | None`: the path of the checkpoint, or `None` if the folder has no checkpoint that was written completely.

    Raises:
        ValueError: if a checkpoint was written completely, but the run cannot resume from it, because another number of
            processes saved it, it was saved with `save_only_model`, or files were deleted or damaged.
    """
    checkpoint, finished = search_checkpoints(output_dir, processes)
    if checkpoint is None and finished:
        found = ", ".join(f"{name} ({'; '.join(problems)})" for name, problems in finished.items())
        raise ValueError(
            f"Expected a complete checkpoint of {processes} process(es) in {output_dir}, got {found}; launch as many "
            "processes as before, give the path of a checkpoint to resume from it without the missing files, or "
            "leave out `resume_from_checkpoint` to train from the beginning."
        )
    return checkpoint


def search_checkpoints(output_dir: str | os.PathLike, processes: int) -> tuple[str | None, dict[str, list[str]]]:
    """
    Find the newest complete checkpoint of the run that the folder belongs to.

    Returns:
        `tuple[str | None, dict[str, list[str]]]`: the path of the checkpoint, or `None` if there is none; and the
        problems of each newer checkpoint that was written completely, by the name of its folder.
    """
    owner = read_record(Path(output_dir))
    finished: dict[str, list[str]] = {}
    for step, folder in checkpoints_in(output_dir):
        if not is_own(folder, step, owner):
            logger.warning(f"Not resuming from {folder}, which another run wrote; give its path to resume from it.")
            continue
        problems = checkpoint_problems(folder, processes)
        if not problems:
            return str(folder), finished
        logger.warning(f"Not resuming from {folder}: {'; '.join(problems)}.")
        if not any(problem.endswith(STATE) for problem in problems):  # `Trainer` writes this file last
            finished[folder.name] = problems
    return None, finished


def checkpoints_in(output_dir: str | os.PathLike) -> list[tuple[int, Path]]:
    """The step and the folder of each checkpoint in a folder, the newest first."""
    if not os.path.isdir(output_dir):
        return []
    matches = [(re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in Path(output_dir).iterdir()]
    return sorted(((int(match[1]), path) for match, path in matches if match), reverse=True)


def is_own(checkpoint: Path, step: int, owner: RunRecord | None) -> bool:
    """Whether a checkpoint was written by the run that owns its folder. Without a known owner, all are."""
    if owner is None:
        return True
    record = read_record(checkpoint)
    return owner.owns(RunRecord({}, {}, id=None) if record is None else record, step)


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
    sums = read_checksums(folder)
    counted = {*WEIGHTS, *OPTIMIZER, *SCHEDULER, *random_states, *others}
    problems += [
        f"there is no {name}"
        for name in sums
        if name not in counted and not name.startswith("rng_state") and not (folder / name).exists()
    ]
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        try:
            if name in sums:
                problem = damage_of(file, sums[name])
            else:
                problem = problem_of(file) if is_needed(name, bool(sums)) else None
        except UNREADABLE:
            problem = f"cannot read {name}"
        problems += [] if problem is None else [problem]
    return problems


def is_needed(name: str, has_sums: bool) -> bool:
    """
    Whether resuming reads the file at the path `name` within a checkpoint. A method may add files of tensors. In a
    checkpoint with checksums, only those that are listed there count.
    """
    top = name.partition("/")[0]
    if top in {*WEIGHTS, *OPTIMIZER, *SCHEDULER, *CONFIGS, STATE, "scaler.pt"} or top.startswith("rng_state"):
        return True
    return not has_sums and (name.endswith(".safetensors") or ("/" in name and not name.endswith(".json")))


def problem_of(file: Path) -> str | None:
    """
    What is wrong with a file, as far as its format tells, or `None`.

    Raises:
        Exception: one of `UNREADABLE`, if the file cannot be read.
    """
    if file.name == STATE:
        return state_problem(file)
    if file.name.endswith(".index.json"):
        index = json.loads(file.read_bytes())
        shards = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()) or not shards:
            return f"{file.name} names no weights"
        lost = sorted(name for name in set(shards.values()) if not (file.parent / name).exists())
        return f"there is no {', '.join(lost)}" if lost else None
    if file.name in CONFIGS:
        return None if isinstance(json.loads(file.read_bytes()), dict) else f"{file.name} holds no settings"
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt"):
            return None
    if file.suffix in (".pt", ".pth", ".bin"):
        return archive_problem(file)
    file.open("rb").close()
    return None


def state_problem(file: Path) -> str | None:
    """What is wrong with a `trainer_state.json`, or `None`."""
    content = json.loads(file.read_bytes())
    try:
        state = TrainerState(**content)
    except TypeError:  # not a dict, or of other keys
        return f"{file.name} holds no state of a training run"
    is_state = (
        {"global_step", "epoch", "log_history"} <= content.keys()
        and isinstance(state.global_step, int)
        and isinstance(state.epoch, (int, float))
        and isinstance(state.log_history, list)
    )
    if not is_state:
        return f"{file.name} holds no state of a training run"
    step = re.fullmatch(r"checkpoint-(\d+)", file.parent.name)
    if step and int(step[1]) != state.global_step:
        return f"{file.name} is of step {state.global_step}"
    return None


def archive_problem(file: Path) -> str | None:
    """What is wrong with a file of torch, or `None`. It reads the whole file, so checksums are better."""
    with zipfile.ZipFile(file) as archive:
        if archive.testzip() is not None:
            return f"{file.name} was damaged after it was written"
    keys = next((keys for name, keys in KEYS.items() if re.fullmatch(rf"{name}(_\d+)?\.(pt|pth)", file.name)), set())
    if keys:
        with safe_globals():
            found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        if not isinstance(found, dict) or not keys <= found.keys():
            return f"{file.name} is not of a training run"
    return None


def weights_that_do_not_fit(checkpoint: str | os.PathLike, model: nn.Module) -> list[str]:
    """The parameters whose saved shape differs from the model's, each as "name: shape there, shape here"."""
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    found: list[str] = []
    for file in sorted(Path(checkpoint).glob("model*.safetensors")):
        with safe_open(file, framework="pt") as saved:
            for name in saved.keys():  # noqa: SIM118 - not a dict
                shape = list(saved.get_slice(name).get_shape())
                if shapes.get(name, shape) != shape:
                    found.append(f"{name}: {shape} there, {shapes[name]} here")
    return found


def foreign_optimizer_state(optimizer: torch.optim.Optimizer) -> str | None:
    """Say what does not fit if the state that an optimizer has loaded is of another optimizer or model, else `None`."""
    for group in optimizer.param_groups:
        lacking = sorted(optimizer.defaults.keys() - group.keys())
        if lacking:
            return f"it has no {', '.join(lacking)}, so another optimizer has written it"
        for parameter in group["params"]:
            state: dict[str, Any] = optimizer.state.get(parameter, {})
            for name in ("exp_avg", "momentum_buffer"):
                value = state.get(name)
                if torch.is_tensor(value) and value.shape != parameter.shape:
                    return f"{name} has the shape {list(value.shape)} for a parameter of {list(parameter.shape)}"
    return None
