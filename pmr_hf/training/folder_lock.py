"""A lock that one process holds while it writes to a folder or a file."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from .whole_files import write_json


TRAINING_LOCK = "_in_use"  # in the output folder of a run; names that begin with _ are not pushed to the Hub
# The data workers of a killed process can hold its lock until they notice that it is gone, after 5 seconds.
WAIT_SECONDS = 6.0


class InUseError(RuntimeError):
    """Raised when another process holds a lock."""


@contextmanager
def held(lock: Path, what: str, instead: str) -> Iterator[None]:
    """
    Hold a lock. The system releases it when the process ends, also when it is killed. A process can hold a lock several
    times; a second thread cannot.

    Args:
        lock (`Path`): the file of the lock. It stays when the lock is released. Beside it, a JSON file says who holds
            the lock.
        what (`str`): what is locked, for the message.
        instead (`str`): what to do in place of waiting, for the message.

    Raises:
        InUseError: if another process holds the lock. The message says which.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    file_lock = FileLock(lock, timeout=WAIT_SECONDS, is_singleton=True)
    holder = lock.with_name(f"{lock.name}.json")
    try:
        file_lock.acquire()
    except Timeout:
        raise InUseError(
            f"Expected no other process to write to {what}, but {_holder(holder)} does; wait until it has ended, stop "
            f"it, or {instead}."
        ) from None
    is_first = file_lock.lock_counter == 1
    try:
        if is_first:
            now = datetime.now().astimezone().isoformat(timespec="seconds")
            write_json(holder, {"process": os.getpid(), "host": socket.gethostname(), "since": now})
        yield
    finally:
        if is_first:
            holder.unlink(missing_ok=True)
        file_lock.release()


def _holder(file: Path) -> str:
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        return f"process {known['process']} on {known['host']}, since {known['since']},"
    except (FileNotFoundError, ValueError):  # the other process has only just taken the lock
        return "another process"
