"""Sizes and checksums of the files of a checkpoint, which show that a file was damaged or exchanged later."""

import json
import zlib
from pathlib import Path

from .whole_files import write_json


CHECKSUMS = "checksums.json"
# The files that hold tensors. JSON files can be read and mended by hand.
BINARY = (".safetensors", ".pt", ".pth", ".bin", ".distcp")


def write_checksums(checkpoint: Path) -> None:
    """Write `checksums.json`: the size in bytes and the CRC-32 of each binary file that resuming reads, by its path."""
    files = [path for path in sorted(checkpoint.rglob("*")) if path.suffix in BINARY and path.is_file()]
    found = {
        path.relative_to(checkpoint).as_posix(): [path.stat().st_size, crc32_of(path)]
        for path in files
        if path.name != "training_args.bin"
    }
    write_json(checkpoint / CHECKSUMS, found)


def read_checksums(checkpoint: Path) -> dict[str, list[int]]:
    """The content of `checksums.json`, or an empty dict for a checkpoint without a readable one."""
    file = checkpoint / CHECKSUMS
    try:
        found = json.loads(file.read_bytes()) if file.is_file() else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def damage_of(file: Path, expected: list[int]) -> str | None:
    """What is wrong with a file that had this size and CRC-32, or `None` if it still has both."""
    size = file.stat().st_size
    if size != expected[0]:
        return f"{file.name} has {size} bytes in place of {expected[0]}"
    if crc32_of(file) != expected[1]:
        return f"{file.name} was damaged or exchanged after it was written"
    return None


def crc32_of(file: Path) -> int:
    """The CRC-32 of a file's content."""
    value = 0
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            value = zlib.crc32(block, value)
    return value
