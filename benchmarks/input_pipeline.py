"""
Measure whether training waits for its data: the speed of training steps, relative to batches that are in memory.

    python benchmarks/input_pipeline.py                                 # colored-and-gray digits, the paper's encoders
    python benchmarks/input_pipeline.py --clip_art DIR                  # image + text, see prepare_openclipart.py
    python benchmarks/input_pipeline.py --speech DIR                    # speech + image, see prepare_spoken_digits.py

Three feeds train one model in turn, each for `--batches` batches in each of `--rounds` rounds:

* batches that are in memory,
* features cached by `MultimodalCollator.cache`, which the training process reads itself,
* files that `--workers` workers read and extract on the fly.

The script prints the ratio of the time in memory to the time of the feed: its median over the rounds, and its range.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip_art", help="folder of prepare_openclipart.py")
    parser.add_argument("--speech", help="folder of prepare_spoken_digits.py")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--batches", type=int, default=20, help="batches of each feed in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
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
