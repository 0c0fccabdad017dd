"""Errors that explain why a run cannot save, or why a data worker died."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from .checkpoints import search_checkpoints


def check_writable(folder: str | os.PathLike) -> None:
    """Raise `OSError` unless the folder, or its nearest existing parent, can be written to."""
    path = Path(folder).absolute()
    while not os.path.exists(path) and path != path.parent:
        path = path.parent
    if not os.path.isdir(path) or not os.access(path, os.W_OK | os.X_OK):
        found = "cannot be written to" if os.path.isdir(path) else "is not a folder"
        raise OSError(
            f"Expected to save in {folder}, but {path} {found}; choose another `output_dir`, or change its permissions."
        )


# What a full disk, a full quota and a limit of the size of files say. The last two are all that torch says.
FULL = ("No space left on device", "Disk quota exceeded", "File too large", "unexpected pos", "iostream error")


@contextmanager
def failures_explained(
    output_dir: str | os.PathLike, processes: int = 1, again: str = "resume with `resume_from_checkpoint=True`"
) -> Iterator[None]:
    """
    Raise `RuntimeError` with the cause and the way to go on, for a full or read-only disk, full shared memory, or a
    dead data worker. Other errors pass through unchanged. `again` says how to go on.
    """
    try:
        yield
    except (OSError, EOFError, RuntimeError, SafetensorError) as first:
        error = first
        if isinstance(error, (ConnectionError, EOFError)):
            try:
                time.sleep(5)  # a worker has died, and torch raises the reason a moment later, which ends this wait
            except RuntimeError as later:
                error = later
        reason = _reason(error, str(output_dir))
        if reason is None:
            raise
        checkpoint, _ = search_checkpoints(output_dir, processes)
        go_on = "there is no checkpoint yet" if checkpoint is None else f"the last complete checkpoint is {checkpoint}"
        raise RuntimeError(f"{reason}, then {again}: {go_on}.") from error


def _reason(error: BaseException | None, output_dir: str) -> str | None:
    while error is not None:
        text = str(error)
        if "No space left on device" in text and ("/torch_" in text or "shared memory" in text):
            return (
                f"Expected shared memory for the data workers, but it is full ({text}); enlarge it (in Docker with "
                "--shm-size), or lower `dataloader_num_workers`"
            )
        if any(message in text for message in FULL):
            return "Expected to save, but the disk is full; free some space"
        denied = "Read-only file system" in text or "Permission denied" in text
        if denied and os.path.basename(os.path.abspath(output_dir)) in text:
            return f"Expected to save, but the folder can no longer be written to ({text}); make it writable"
        if "DataLoader worker" in text and ("exited unexpectedly" in text or "killed by signal" in text):
            return (
                f"Expected the data workers to run, but one has died, often because memory ran out ({text}); "
                "lower `dataloader_num_workers` or the batch size"
            )
        error = error.__cause__ or error.__context__
    return None
