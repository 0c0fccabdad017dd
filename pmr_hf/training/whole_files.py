"""Write files all or nothing, so that a full disk or a kill never leaves half of one in place of a whole one."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_whole(file: Path, text: str) -> None:
    """Write the whole text or nothing. An earlier file stays as it is until the new one is complete."""
    part = file.with_name(f"{file.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        put(part, file)
    finally:
        part.unlink(missing_ok=True)


def write_json(file: Path, content: Any) -> None:
    """Write a value as JSON, all of it or nothing."""
    write_whole(file, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


@contextmanager
def saved_whole(folder: Path, stale: str) -> Iterator[Path]:
    """
    Yield an empty folder to save into, and put its files into `folder` once the block has ended without an error.

    Args:
        folder (`Path`): gets the files. Its other files stay, except those below.
        stale (`str`): a regular expression. If files with such names are saved, the others with such names are deleted
            from `folder`, like the shards of a larger model.
    """
    part = folder / "_saving"
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed while it saved
    part.mkdir(parents=True)
    try:
        yield part
        saved = [path.relative_to(part) for path in sorted(part.rglob("*")) if path.is_file()]
        for name in saved:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            put(part / name, folder / name)
        new = {name.name for name in saved if re.fullmatch(stale, str(name))}
        for path in list(folder.iterdir()) if new else ():
            if re.fullmatch(stale, path.name) and path.name not in new:
                path.unlink()
    finally:
        shutil.rmtree(part, ignore_errors=True)


def put(part: Path, file: Path) -> None:
    """Put a complete file in the place of another. A link stays a link, and what it points to is written."""
    if file.is_symlink():
        shutil.copyfile(part, file)
    else:
        part.replace(file)
