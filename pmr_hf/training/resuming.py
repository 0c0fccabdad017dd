"""
How a run begins: its record, and the checkpoint that it resumes from. The main process decides for all of a launch.

`checkpoints.py` checks that the files of a checkpoint are there and undamaged, `run_identity.py` that it is of this
kind of run.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from .checkpoints import (
    STATE,
    UNREADABLE,
    checkpoint_problems,
    newest_complete_checkpoint,
    weights_that_do_not_fit,
)
from .run_identity import RunRecord, check_same_run, read_record, record_of_checkpoint


Decision = TypeVar("Decision")
# What a checkpoint that the user names may lack. The run then differs from one that was never stopped.
MAY_LACK = ("there is no optimizer.pt", "there is no scheduler.pt", "there is no rng_state", "another number of")


def decided_by_main(accelerator: Accelerator, decide: Callable[[], Decision]) -> Decision:
    """
    Call a function in the main process alone. Its result is returned, or its error is raised, in every process. All
    processes must call this function.
    """
    outcome: list = [None, None]
    if accelerator.is_main_process:
        try:
            outcome = [decide(), None]
        except Exception as error:  # raised below in all processes, since the others would wait for ever
            outcome = [None, error]
    if accelerator.num_processes > 1:
        broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def begin_run(
    output_dir: str | os.PathLike, resume: str | bool | None, processes: int, run: RunRecord, model: nn.Module
) -> tuple[str | None, RunRecord, list[str]]:
    """
    Choose the checkpoint to resume from, and write to the output folder which run trains there now.

    Args:
        output_dir (`str`): the output folder. It must be locked.
        resume (`str | bool`, *optional*): the path of a checkpoint, or `True` for the newest one of the folder's run.
        processes (`int`): the number of training processes.
        run (`RunRecord`): the run that begins.
        model (`torch.nn.Module`): the model, not yet wrapped.

    Returns:
        `tuple[str | None, RunRecord, list[str]]`: the checkpoint, or `None`; the record of the run, which is `run` with
        the id of the run that it resumes, or with that run among its ancestors; and what to warn of.

    Raises:
        ValueError: for a checkpoint that is damaged or belongs to another kind of run.
    """
    folder = Path(output_dir)
    owner = read_record(folder)
    checkpoint, warnings = None, []
    if resume is True:
        checkpoint = newest_complete_checkpoint(folder, processes)
        if checkpoint is None:
            warnings.append(f"There is no complete checkpoint of this run in {folder}: training from the beginning.")
    elif resume:
        checkpoint = str(resume)
        warnings += check_named(checkpoint, processes)
    if checkpoint is not None:
        before = record_of_checkpoint(Path(checkpoint))
        warnings += check_same_run(checkpoint, before, run)
        check_weights(checkpoint, model)
        if resume is True and owner is not None and owner.id == before.id:
            run.id, run.ancestors, run.began = owner.id, owner.ancestors, owner.began
        else:
            step = json.loads(Path(checkpoint, STATE).read_bytes())["global_step"]
            run.ancestors = [*before.ancestors, [before.id, step]]
    run.write(folder)
    return checkpoint, run, warnings


def check_named(checkpoint: str, processes: int) -> list[str]:
    """Raise `ValueError` if a run cannot resume from a checkpoint that the user names. Returns what to warn of."""
    if not os.path.isdir(checkpoint):
        raise ValueError(f"Expected the folder of a checkpoint to resume from, found none at {checkpoint}; correct it.")
    problems = checkpoint_problems(checkpoint, processes)
    broken = [problem for problem in problems if not problem.startswith(MAY_LACK)]
    if broken:
        raise ValueError(
            f"Expected an undamaged checkpoint, got {checkpoint} ({'; '.join(broken)}); name an earlier one, or use "
            "`resume_from_checkpoint=True`, which takes the newest undamaged one of the output folder."
        )
    return [f"Resuming from {checkpoint}, which is not complete: {problems}."] if problems else []


def check_weights(checkpoint: str, model: nn.Module) -> None:
    """Raise `ValueError` if parameters of a checkpoint have other shapes than the model's."""
    found = weights_that_do_not_fit(checkpoint, model)
    if found:
        raise ValueError(
            f"Expected a checkpoint of this model, got {checkpoint}, where {len(found)} parameters have other shapes "
            f"(first {found[0]}); resume with the model that was saved, or train in another `output_dir`."
        )


@contextmanager
def loading_explained(checkpoint: str | None, has_begun: Callable[[], bool]) -> Iterator[None]:
    """Raise `ValueError` that names the checkpoint for an error that ends a resumed run before its first step."""
    try:
        yield
    except UNREADABLE as error:
        if checkpoint is None or has_begun():
            raise
        first = (str(error).strip().splitlines() or ["no message"])[0]
        raise ValueError(
            f"Expected to resume from {checkpoint}, but that failed before the first step ({type(error).__name__}: "
            f"{first}); if its files are of another run, name another checkpoint, or leave out "
            "`resume_from_checkpoint` to train from the beginning."
        ) from error
