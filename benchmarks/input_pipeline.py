"""
Measure whether training waits for its data: the speed of training steps, relative to batches that are in memory.

    python benchmarks/input_pipeline.py                                 # colored-and-gray digits, the paper's encoders
    python benchmarks/input_pipeline.py --clip_art DIR                  # image + text, see prepare_openclipart.py
    python benchmarks/input_pipeline.py --speech DIR                    # speech + image, see prepare_spoken_digits.py
    python benchmarks/input_pipeline.py --limits                        # what the limits of reading cost

Three feeds train one model in turn, each for `--batches` batches in each of `--rounds` rounds:

* batches that are in memory,
* features cached by `MultimodalCollator.cache`, which the training process reads itself,
* files that `--workers` workers read and extract on the fly.

The script prints the ratio of the time in memory to the time of the feed: its median over the rounds, and its range.

With `--limits`, files of common sizes are read with `MediaLimits()`, and in turn without any limit and with all formats
of FFmpeg allowed.
"""

import argparse
import io
import itertools
import statistics
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import av
import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch.utils.data import DataLoader, RandomSampler
from transformers import ViTImageProcessor

from pmr_hf import (
    CGMNISTConfig,
    MultimodalCollator,
    MultimodalModel,
    MultimodalProcessor,
    SpectrogramFeatureExtractor,
)
from pmr_hf.data.cg_mnist import cg_mnist, read_sklearn_digits
from pmr_hf.data.tables import load_table
from pmr_hf.model.media import read_audio, read_frames, read_image
from pmr_hf.model.media_limits import DEFAULT_LIMITS, MediaLimits


def digits() -> tuple[Dataset, MultimodalCollator, MultimodalModel]:
    """28 x 28 pictures, as in MNIST."""
    scans = {
        name: (images.repeat(4, 1).repeat(4, 2)[:, 2:-2, 2:-2], y)
        for name, (images, y) in read_sklearn_digits().items()
    }
    processors = {
        name: ViTImageProcessor(do_resize=False, image_mean=[0.13] * channels, image_std=[0.31] * channels)
        for name, channels in (("gray", 1), ("colored", 3))
    }
    backbones = {"gray": CGMNISTConfig(num_channels=1), "colored": CGMNISTConfig(num_channels=3)}
    collator = MultimodalCollator(MultimodalProcessor(processors), {"gray": "gray", "colored": "colored"})
    return cg_mnist(scans)["train"], collator, MultimodalModel.from_backbones(backbones, num_labels=10)


def clip_art(folder: str) -> tuple[Dataset, MultimodalCollator, MultimodalModel]:
    """Pictures of 256 pixels and titles, with EfficientNet-lite0 and MiniLM."""
    encoders = {"image": f"{folder}/encoders/efficientnet_lite0", "title": f"{folder}/encoders/minilm"}
    columns = {"image": "image", "title": "title"}
    dataset = load_table(columns, label="category", dataset_name=folder, files_in=["image"])["train"]
    collator = MultimodalCollator(MultimodalProcessor.from_backbones(encoders), columns, label="category")
    return dataset, collator, MultimodalModel.from_backbones(encoders, num_labels=9)


def speech(folder: str) -> tuple[Dataset, MultimodalCollator, MultimodalModel]:
    """Spectrograms of one second of sound at 16 kHz, and 32 x 32 pictures."""
    columns = {"speech": "speech", "image": "image"}
    dataset = load_table(columns, label="digit", dataset_name=folder, files_in=["speech", "image"])["train"]
    image = ViTImageProcessor(do_resize=False, image_mean=[0.13], image_std=[0.31])
    processor = MultimodalProcessor({"speech": SpectrogramFeatureExtractor(seconds=1.0), "image": image})
    backbones = {name: CGMNISTConfig(num_channels=1) for name in columns}
    collator = MultimodalCollator(processor, columns, label="digit")
    return dataset, collator, MultimodalModel.from_backbones(backbones, num_labels=10)


def train(
    model: MultimodalModel, optimizer: torch.optim.Optimizer, batches: Iterator[dict[str, Any]], count: int
) -> float:
    """Seconds for `count` training steps."""
    start = time.perf_counter()
    for batch in itertools.islice(batches, count):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - start


# ---- The cost of the limits ----


class NoLimits(MediaLimits):
    """Checks nothing."""

    def check(self, *args) -> None: ...

    def check_picture(self, *args) -> None: ...


def files() -> dict[str, tuple[Callable[[bytes, MediaLimits], Any], bytes]]:
    """A JPEG of 640 x 480, a wav file of 5 s, and an mp4 video of 2 s and 320 x 240: how it is read, and its bytes."""
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    jpeg, wav, mp4 = io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.fromarray(noise).resize((640, 480)).save(jpeg, "jpeg")
    with wave.open(wav, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(44100)
        file.writeframes(generator.normal(0, 3000, 5 * 44100).astype(np.int16).tobytes())
    with av.open(mp4, "w", format="mp4") as file:
        track = file.add_stream("libx264", rate=25)
        track.width, track.height, track.pix_fmt = 320, 240, "yuv420p"
        for i in range(50):
            picture = np.array(Image.fromarray(np.roll(noise, i, 1)).resize((320, 240)))
            file.mux(track.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(track.encode())
    return {
        "picture": (read_image, jpeg.getvalue()),
        "sound": (lambda data, limits: read_audio(data, 16000, limits), wav.getvalue()),
        "video": (lambda data, limits: read_frames(data, 8, limits), mp4.getvalue()),
    }


def cost_of_limits(rounds: int, reads: int = 20) -> None:
    """Print the time of reading within the limits, in relation to reading without, for each kind of file."""
    for name, (read, data) in files().items():
        ratios = []
        for _ in range(rounds):
            seconds = {True: 0.0, False: 0.0}
            for limited in [True, False] * reads:
                with ExitStack() as patches:
                    if not limited:
                        for module in ("sound", "video"):
                            patches.enter_context(patch(f"pmr_hf.model.{module}.open_container", av.open))
                    start = time.perf_counter()
                    read(data, DEFAULT_LIMITS if limited else NoLimits())
                    seconds[limited] += time.perf_counter() - start
            ratios.append(seconds[True] / seconds[False])
        ratios.sort()
        print(f"{name:<10} {statistics.median(ratios):.3f} of the time without ({ratios[0]:.3f} to {ratios[-1]:.3f})")


# ---- The speed of training ----


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip_art", help="folder of prepare_openclipart.py")
    parser.add_argument("--speech", help="folder of prepare_spoken_digits.py")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--batches", type=int, default=20, help="batches of each feed in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limits", action="store_true", help="only measure what the limits of reading cost")
    args = parser.parse_args()
    if args.limits:
        cost_of_limits(args.rounds)
        return
    torch.manual_seed(0)
    if args.clip_art is not None:
        dataset, collator, model = clip_art(args.clip_art)
    elif args.speech is not None:
        dataset, collator, model = speech(args.speech)
    else:
        dataset, collator, model = digits()
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-3)

    def endless(rows: Dataset, workers: int) -> Iterator[dict[str, Any]]:
        sampler = RandomSampler(rows, replacement=True, num_samples=10**9)
        return iter(DataLoader(rows, args.batch_size, sampler=sampler, collate_fn=collator, num_workers=workers))

    cached = collator.cache(dataset)
    memory = list(itertools.islice(endless(cached, 0), args.batches))
    feeds = {
        "in memory": None,
        "in memory again": None,
        "cached": endless(cached, 0),
        "on the fly": endless(dataset, args.workers),
    }
    seconds: dict[str, list[float]] = {name: [] for name in feeds}
    for round_ in range(args.rounds + 1):
        for name, feed in feeds.items():
            # While other feeds train, the workers fill their queue of two batches each. These steps are not timed.
            if name == "on the fly":
                train(model, optimizer, feed, 2 * args.workers)
            elapsed = train(model, optimizer, itertools.cycle(memory) if feed is None else feed, args.batches)
            if round_:  # the first round is a warm-up
                seconds[name].append(elapsed)
    rate = args.batches * args.batch_size / statistics.median(seconds["in memory"])
    print(f"in memory: {rate:.0f} samples/s")
    for name in list(feeds)[1:]:
        ratios = sorted(a / b for a, b in zip(seconds["in memory"], seconds[name], strict=True))
        print(f"{name:<16} {statistics.median(ratios):.3f} of it ({ratios[0]:.3f} to {ratios[-1]:.3f})")


if __name__ == "__main__":
    main()
