"""
Read media files of an attacker in a process with a limit of memory, and print what happens: for each attack its name,
the seconds that it took, the memory in MiB that it took at most, and the error. `attack_media.py
FOLDER`, an empty folder.
"""

import io
import json
import resource
import struct
import sys
import time
import zlib
from fractions import Fraction
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import av
import numpy as np
from PIL import Image
from transformers import ViTImageProcessor

from helpers.local_server import serving
from pmr_hf import MediaLimits, MultimodalProcessor
from pmr_hf.model.media import read_audio, read_frames, read_image


MEMORY = 8 * 2**30


def picture(width, height, kind, **options):
    data = io.BytesIO()
    Image.new("1", (width, height)).convert(options.pop("mode", "1")).save(data, kind, **options)
    return data.getvalue()


def png_header(width, height):
    """A PNG that claims a size and holds nothing."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def png_text():
    """A PNG whose comment is 1 MB of zeros in a file, and 1 GB once it is decompressed."""
    small = picture(8, 8, "png")
    packer, zeros = zlib.compressobj(9), bytes(2**20)
    packed = b"".join(packer.compress(zeros) for _ in range(1024)) + packer.flush()
    content = b"zTXt" + b"comment\0\0" + packed
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    return small[:33] + chunk + small[33:]


def silence(path, codec, seconds, rate, layout="mono"):
    """A file of silence, which a lossless codec keeps in a few kB."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        channels = stream.codec_context.layout.nb_channels
        block = av.AudioFrame.from_ndarray(np.zeros((1, 4096 * channels), np.int16), format="s16", layout=layout)
        block.sample_rate = rate
        for i in range(seconds * rate // 4096):
            block.pts = i * 4096
            container.mux(stream.encode(block))
        container.mux(stream.encode())
    return path


def wav_header(seconds, rate, channels=1):
    """A wav file of silence at a rate, of which a header needs no more bytes than its samples."""
    samples = bytes(2 * seconds * rate * channels)
    form = struct.pack("<HHIIHH", 1, channels, rate, 2 * rate * channels, 2 * channels, 16)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + len(samples))
        + b"WAVEfmt \x10\0\0\0"
        + form
        + b"data"
        + struct.pack("<I", len(samples))
        + samples
    )


def video(path, width, height, count):
    """A video of black frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        frame = av.VideoFrame(width, height, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        for frame.pts in range(count):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


class Endless(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        if self.path == "/false":
            self.send_header("Content-Length", str(10**15))
        self.end_headers()
        try:
            while True:
                self.wfile.write(bytes(2**20))
        except OSError:
            pass

    def log_message(self, *args):
        pass


def pictures():
    return MultimodalProcessor({"image": ViTImageProcessor()})


# By name: what makes the value, which does not count, and what reads it
ATTACKS = {
    "png of 100 megapixels": (lambda folder: picture(10_001, 10_001, "png"), read_image),
    "eight pictures": (lambda folder: [picture(10_001, 10_001, "png")] * 8, lambda value: pictures()(image=value)),
    "a list of pictures": (lambda folder: [png_header(10_001, 10_001)] * 8, lambda value: pictures()(image=[value])),
    "gif": (lambda folder: picture(10_001, 10_001, "gif", mode="L"), read_image),
    "tiff": (lambda folder: picture(10_001, 10_001, "tiff", compression="group4"), read_image),
    "progressive jpeg": (lambda folder: picture(10_001, 10_001, "jpeg", mode="L", progressive=True), read_image),
    "png without pixels": (lambda folder: png_header(2**31 - 1, 2**31 - 1), read_image),
    "png of a long comment": (lambda folder: png_text(), read_image),
    "a narrow picture": (lambda folder: picture(60_000_000, 1, "tiff"), lambda value: pictures()(image=[value])),
    "long flac": (
        lambda folder: silence(folder / "a.flac", "flac", 3700, 8000),
        lambda value: read_audio(value, 16000),
    ),
    "wav at 1 Hz": (lambda folder: wav_header(10**5, 1), lambda value: read_audio(value, 16000)),
    "samples at 1 Hz": (
        lambda folder: {"array": np.zeros(10**6, np.float32), "sampling_rate": 1},
        lambda value: read_audio(value, 16000),
    ),
    "wide video": (lambda folder: video(folder / "a.avi", 8000, 8000, 2), lambda value: read_frames(value, 4)),
    "large frames": (lambda folder: video(folder / "b.avi", 4096, 4096, 40), lambda value: read_frames(value, 40)),
    "an endless address": (lambda folder: "/endless", None),
    "a false length": (lambda folder: "/false", None),
}


def attack(value, read, address):
    if read is None:
        limits = MediaLimits(allow_urls=True, hosts=("127.0.0.1",))
        return read_image(address + value, limits)
    return read(value)


def memory(field):
    """The memory of this process in MiB: VmRSS now, VmHWM at most since it was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def main(folder):
    read_audio({"array": np.zeros(8000, np.float32), "sampling_rate": 8000}, 16000)  # what is imported when it is used
    pictures()(image=[Image.new("RGB", (8, 8))])
    values = {name: make(folder) for name, (make, _) in ATTACKS.items()}
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with serving(Endless) as address:
        for name, (_, read) in ATTACKS.items():
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
            before, start, error = memory("VmRSS"), time.monotonic(), None
            try:
                attack(values[name], read, address)
            except Exception as found:
                error = f"{type(found).__name__}: {found}"
            print(json.dumps([name, time.monotonic() - start, memory("VmHWM") - before, error]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
