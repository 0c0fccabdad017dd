"""
Read damaged media files: `fuzz_media.py FOLDER FIRST COUNT`, with whole files in FOLDER. Prints a line of JSON before
each file, with its number and name, and one after it: also the seconds, the memory in MiB that the process took at most
since its start, and the raw error, if there is one.
"""

import json
import resource
import sys
import time
import warnings
from pathlib import Path

import av
import numpy as np

from pmr_hf.model.media import UnreadableError, read_audio, read_frames, read_image


def damage(data, generator):
    """Change bytes, cut, repeat or empty a part, or write a large number."""
    damaged = bytearray(data + (generator.bytes(3000) if len(data) < 2500 else b""))
    for _ in range(generator.integers(1, 4)):
        size = len(damaged)
        # Half of the changes are in the first bytes, which state sizes.
        place = int(generator.integers(size) if generator.random() < 0.5 else generator.integers(min(size, 200)))
        length = int(generator.integers(1, 64))
        kind = generator.integers(6)
        if kind == 0:
            for at in generator.integers(size, size=length):
                damaged[at] = generator.integers(256)
        elif kind == 1:
            del damaged[max(place, 8) :]
        elif kind == 2:
            damaged[place : place + length] = bytes(length)
        elif kind == 3:
            damaged[place:place] = damaged[place : place + length]
        elif kind == 4:
            damaged[place : place + 4] = generator.choice(
                [b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\xff\xff", b"\0" * 4]
            )
        else:
            damaged[place] = generator.integers(256)
        if not damaged:
            break
    return bytes(damaged)


READERS = {
    "picture": [read_image],
    "sound": [lambda data: read_audio(data, 16000)],
    "video": [lambda data: read_frames(data, 4), lambda data: read_audio(data, 16000)],
}


def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(folder, first, count):
    warnings.simplefilter("ignore")
    av.logging.set_level(None)
    files = sorted(folder.iterdir())
    before = memory()
    for number in range(first, first + count):
        file = files[number % len(files)]
        damaged = damage(file.read_bytes(), np.random.default_rng(number))
        print(json.dumps([number, file.name]), flush=True)
        start, raw = time.monotonic(), None
        for read in READERS[file.name.split()[0]]:
            try:
                read(damaged)
            except UnreadableError:
                pass
            except Exception as error:
                raw = repr(error)
        print(json.dumps([number, file.name, time.monotonic() - start, memory() - before, raw]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
