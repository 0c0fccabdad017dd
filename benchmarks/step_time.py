"""
Measure what PMR, and each other method, costs compared with plain `Trainer`: time of steps and epochs, memory, how the
terms scale, and what the memory format of pictures changes.

    python benchmarks/step_time.py                       # all parts, more than an hour on 2 cores
    python benchmarks/step_time.py steps layout          # some of those that --help names

The model has the paper's CG-MNIST encoders. A batch is 64 samples of 28 x 28 pixels, in memory. What is compared runs
in turn in one process, and in several such processes: each has its own memory layout, which changes the time of a step
by more than PMR does. The script prints the median and the quartiles of the paired ratios, and the same for a second
plain trainer as a control. Memory is the peak of a separate process.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    ConvNextConfig,
    PreTrainedConfig,
    PrinterCallback,
    ResNetConfig,
    TimmWrapperConfig,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    set_seed,
)

from pmr_hf import (
    METHODS,
    CGMNISTConfig,
    GradientBlendingTrainer,
    MultimodalModel,
    PMRTrainer,
    PMRTrainingArguments,
    Prototypes,
    RelearningTrainer,
    UnimodalHeadsTrainer,
)
from pmr_hf.command_line.defaults import RECIPES
from pmr_hf.data.new_encoders import RESNET18
from pmr_hf.equations import prototypical_cross_entropy, prototypical_entropy


BATCH = 64
KINDS = ("plain", "control", "subset", "online")
# What a method of `METHODS` needs, if its defaults do not train here
ARGUMENTS = {name: {"modulation": "update"} for name in ("acc", "agm", "ogm")}
# The methods with modality dropout, under the names that `examples/benchmark.py` gives them
WITH_DROPOUT = {"dropout": "joint", "recipe": "pmr"}
RECIPE = RECIPES["recommended"]
ARGUMENTS["recipe"] = {name: RECIPE[name] for name in ("pmr_weights", "pmr_alpha", "pmr_mu")}
BLEND_WEIGHTS = {"gray": 0.3, "colored": 0.3, "fused": 0.4}
# The encoders of the part `layout`, with the channels and the width of their square pictures
PICTURES: dict[str, tuple[PreTrainedConfig, int, int]] = {
    "CG-MNIST, gray": (CGMNISTConfig(num_channels=1), 1, 28),
    "CG-MNIST, colored": (CGMNISTConfig(num_channels=3), 3, 28),
    "ResNet18": (ResNetConfig(**RESNET18), 3, 96),
    "EfficientNet-lite0": (TimmWrapperConfig(architecture="efficientnet_lite0"), 3, 96),
    "MobileNetV2": (TimmWrapperConfig(architecture="mobilenetv2_100"), 3, 96),
    "ConvNeXt, half of tiny": (ConvNextConfig(hidden_sizes=[48, 96, 192, 384], depths=[2, 2, 6, 2]), 3, 96),
    "ViT-tiny, half its layers": (
        ViTConfig(hidden_size=192, intermediate_size=768, num_hidden_layers=6, num_attention_heads=3, image_size=96),
        3,
        96,
    ),
}


class Digits(torch.utils.data.Dataset):
    """Random pictures, gray and colored, of random classes."""

    def __init__(self, size: int):
        generator = torch.Generator().manual_seed(0)
        self.gray = torch.randn(size, 1, 28, 28, generator=generator)
        self.colored = torch.randn(size, 3, 28, 28, generator=generator)
        self.labels = torch.randint(10, (size,), generator=generator)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> int:
        return i

    def collate(self, rows: list[int]) -> dict[str, Any]:
        pictures = {name: {"pixel_values": getattr(self, name)[rows]} for name in ("gray", "colored")}
        return {**pictures, "labels": self.labels[rows]}


class EpochTimes(TrainerCallback):
    """Seconds of each epoch with the refresh: this callback runs before that of the prototypes."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        self.start = time.perf_counter()

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self.start)


class StepTimes(TrainerCallback):
    """Seconds from the beginning of each step to that of the next, in the last training."""

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.begins: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.begins.append(time.perf_counter())

    def median(self) -> float:
        return statistics.median(after - before for before, after in pairwise(self.begins))


def make_trainer(kind: str, data: Digits, epochs: int = 1, **changes: Any) -> Trainer:
    """
    A trainer of one of the `KINDS`, of a method of `METHODS`, or of one of those `WITH_DROPOUT`, without its printed
    logs. `changes` are other arguments of the trainer.
    """
    set_seed(0)
    method = METHODS.get(WITH_DROPOUT.get(kind, kind))
    model = MultimodalModel.from_backbones(
        {"gray": CGMNISTConfig(num_channels=1), "colored": CGMNISTConfig(num_channels=3)},
        num_labels=10,
        fusion=(method and method.own_fusion) or "concat",
        unimodal_heads=method is not None and issubclass(method, UnimodalHeadsTrainer),
        modality_dropout=RECIPE["modality_dropout"] if kind in WITH_DROPOUT else 0.0,
    )
    settings: dict[str, Any] = {
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": epochs,
        "optim": "sgd",
        "optim_args": "momentum=0.9,weight_decay=1e-4",
        "learning_rate": 1e-3,
        "logging_steps": 20,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "use_cpu": True,
        **ARGUMENTS.get(kind, {}),
        **changes,
    }
    folder, shared = tempfile.gettempdir(), {"model": model, "train_dataset": data, "data_collator": data.collate}
    if kind in ("plain", "control"):
        trainer = Trainer(args=TrainingArguments(folder, **settings), **shared)
    elif method is not None:
        if method in (GradientBlendingTrainer, RelearningTrainer):
            shared["eval_dataset"] = data
        trainer = method(args=method.args_class(folder, **settings), **shared)
    else:
        trainer = PMRTrainer(args=PMRTrainingArguments(folder, prototype_source=kind, **settings), **shared)
    trainer.remove_callback(PrinterCallback)
    return trainer


def paired(title: str, times: dict[str, list[float]], base: str = "plain") -> None:
    others = {kind: values for kind, values in times.items() if kind != base}
    ratios = {kind: [a / b for a, b in zip(values, times[base], strict=True)] for kind, values in others.items()}
    print_ratios(title, ratios, base)
    print(f"\n{base}: {1000 * statistics.median(times[base]):.1f} ms")


def print_ratios(title: str, ratios: dict[str, list[float]], base: str) -> None:
    print(f"\n| {title} | median ratio to {base} | quartiles |\n|---|---|---|")
    for kind, values in ratios.items():
        low, middle, high = statistics.quantiles(values, n=4)
        print(f"| {kind} | {middle:.3f} | {low:.3f} .. {high:.3f} |")


def child(*arguments: object) -> Any:
    """Run this script in a separate process, and read the JSON that it prints."""
    command = [sys.executable, __file__, *map(str, arguments)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])


def in_processes(part: str, rounds: int, processes: int) -> dict[str, list[float]]:
    """Times of a part of `TIMES`, from several processes, one after the other."""
    times: dict[str, list[float]] = {}
    for _ in range(processes):
        for kind, values in child("--times", part, "--rounds", max(2, rounds // processes)).items():
            times.setdefault(kind, []).extend(values)
    return times


def in_turn(
    runs: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each run in each round, by a clock. The order is reversed in every other round."""
    times: dict[str, list[float]] = {kind: [] for kind in runs}
    for i in range(rounds):
        for kind in list(runs) if i % 2 else list(runs)[::-1]:
            start = clock()
            runs[kind]()
            times[kind].append(clock() - start)
    return times


def trained(kind: str, data: Digits) -> Trainer:
    """A trainer after its first epoch, ready for single steps."""
    trainer = make_trainer(kind, data)
    trainer.train()
    trainer.model.train()
    trainer._training_model = trainer.model  # set as during training, which unwraps the model once
    return trainer


def ready(kind: str, data: Digits) -> Callable[[], None]:
    """A function that makes one training step, of a trainer after its first epoch."""
    trainer = trained(kind, data)

    def step() -> None:
        batch = data.collate(list(range(BATCH)))
        trainer.training_step(trainer.model, batch)
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    return step


def steps(rounds: int, processes: int) -> None:
    paired(f"one step of {BATCH}", in_processes("step", rounds, processes))


def step_times(rounds: int) -> dict[str, list[float]]:
    data = Digits(5 * BATCH)
    return in_turn({kind: ready(kind, data) for kind in KINDS}, rounds)


def epochs(rounds: int, processes: int) -> None:
    paired("an epoch of 40 steps, refresh included", in_processes("epoch", rounds, processes))


def epoch_times(rounds: int) -> dict[str, list[float]]:
    data = Digits(40 * BATCH)
    clocks = {kind: EpochTimes() for kind in KINDS}
    runs = {}
    for kind, clock in clocks.items():
        trainer = make_trainer(kind, data)
        trainer.callback_handler.callbacks.insert(0, clock)
        runs[kind] = trainer.train
    in_turn(runs, rounds + 1)
    return {kind: clock.seconds[1:] for kind, clock in clocks.items()}


def methods(rounds: int, processes: int) -> None:
    """A step in the loop of `Trainer`, by each method. Beside each method, plain `Trainer` trains in turn."""
    print_ratios(f"one step of {BATCH}, in the training loop", in_processes("method", rounds, processes), "plain")


def method_ratios(rounds: int) -> dict[str, list[float]]:
    data = Digits(6 * BATCH)
    kinds = ("plain", "control", *METHODS)
    given = {"gblend": {"blend_weights": BLEND_WEIGHTS}}
    trainers = {kind: make_trainer(kind, data, **given.get(kind, {})) for kind in kinds}
    clocks = {kind: StepTimes() for kind in kinds}

    def step(kind: str) -> float:
        trainers[kind].train()
        return clocks[kind].median()

    for kind, trainer in trainers.items():
        trainer.add_callback(clocks[kind])
        trainer.train()
    return ratios_in_turn(step, kinds, rounds)


def trainings(rounds: int, processes: int) -> None:
    """A whole training of four epochs of ten steps, by each method. Beside each method, joint training runs in turn."""
    print_ratios("a training of 40 steps", in_processes("training", rounds, processes), "joint")


def training_ratios(rounds: int) -> dict[str, list[float]]:
    data = Digits(10 * BATCH)
    kinds = ("joint", "joint, again", *(kind for kind in (*METHODS, *WITH_DROPOUT) if kind != "joint"))
    trainers = {kind: make_trainer("joint" if kind == "joint, again" else kind, data, epochs=4) for kind in kinds}

    def training(kind: str) -> float:
        start = time.perf_counter()
        trainers[kind].train()
        return time.perf_counter() - start

    return ratios_in_turn(training, kinds, rounds)


def ratios_in_turn(seconds: Callable[[str], float], kinds: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """
    The ratios of the seconds of each kind to those of the first kind, which runs again beside each of the others. The
    order of the two is reversed in every other round.
    """
    base, *others = kinds
    ratios: dict[str, list[float]] = {kind: [] for kind in others}
    for i in range(rounds):
        for kind, values in ratios.items():
            times = {each: seconds(each) for each in ((base, kind) if i % 2 else (kind, base))}
            values.append(times[kind] / times[base])
    return ratios


def loop_step(data: Digits, head_scores: bool) -> Callable[[], None]:
    """
    A step with the loops of public code (main_Prototype_grad.py of Modal-Imbalance-PMR). It computes distances sample
    by sample and class by class, taking the difference twice, and scores sample by sample, with a softmax for each.
    With `head_scores`, it also computes the scores from the slices of the fusion head.
    """
    trainer = trained("subset", data)
    model = trainer.model

    def logits(embeddings: torch.Tensor, prototypes: torch.Tensor) -> torch.Tensor:
        distances = torch.zeros(len(embeddings), len(prototypes))
        for i in range(len(embeddings)):
            for k in range(len(prototypes)):
                distances[i, k] = torch.dot(embeddings[i] - prototypes[k], embeddings[i] - prototypes[k]).sqrt()
        return -distances

    def score(value: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return sum(value.softmax(1)[i][labels[i]] for i in range(BATCH))

    def step() -> None:
        batch = data.collate(list(range(BATCH)))
        output, labels = model(**batch), batch["labels"]
        values = [logits(output.embeddings[name], model.prototypes.mean(name)) for name in ("gray", "colored")]
        pce = [prototypical_cross_entropy(value.log_softmax(1), labels).mean() for value in values]
        gray, colored = (score(value, labels) for value in values)
        if head_scores:
            for value in model.modality_logits(output.embeddings).values():
                score(value, labels)
        beta, gamma = int(gray < colored), int(gray > colored)
        (output.loss + beta * pce[0] + gamma * pce[1]).backward()  # both loops have a gradient; one of them is zero
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    return step


def loop(rounds: int, processes: int) -> None:
    paired(f"one step of {BATCH}", in_processes("loop", rounds, processes), "ours")


def loop_times(rounds: int) -> dict[str, list[float]]:
    data = Digits(5 * BATCH)
    runs = {
        "ours": ready("subset", data),
        "loops": loop_step(data, head_scores=False),
        "loops, and scores of the head": loop_step(data, head_scores=True),
    }
    return in_turn(runs, rounds)


def memory(rounds: int, processes: int) -> None:
    """Peak memory of processes that each train two epochs."""
    peaks: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(processes):
        for kind in KINDS:
            peaks[kind].append(child("--peak", kind))
    print("\n| peak memory of a process | MiB | ratio to plain |\n|---|---|---|")
    for kind, values in peaks.items():
        middle = statistics.median(values)
        print(f"| {kind} | {middle / 2**10:.0f} | {middle / statistics.median(peaks['plain']):.3f} |")


def peak(kind: str) -> int:
    make_trainer(kind, Digits(20 * BATCH), epochs=2).train()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def growth(rounds: int, processes: int) -> None:
    """The terms, forward and backward, compared with the product (B, D) x (D, K) of each modality and its gradient."""
    print("\n| K | M | D | terms, ms | products, ms | ratio | operations, ratio |\n|---|---|---|---|---|---|---|")
    base = {"K": 10, "M": 2, "D": 128}
    larger = [
        {},
        *({"K": k} for k in (100, 1000, 10_000)),
        *({"M": m} for m in (4, 8)),
        *({"D": d} for d in (512, 2048)),
    ]
    for change in [*larger, {"K": 10_000, "M": 8, "D": 2048}]:
        k, m, d = (base | change).values()
        names = [f"m{i}" for i in range(m)]
        prototypes = Prototypes(dict.fromkeys(names, d), k)
        means = {name: torch.randn(k, d) for name in names}
        prototypes.momentum_update({name: (mean, torch.ones(k)) for name, mean in means.items()}, 0.0)
        embeddings = {name: torch.randn(BATCH, d, requires_grad=True) for name in names}
        labels = torch.randint(k, (BATCH,))

        def terms(prototypes=prototypes, embeddings=embeddings, labels=labels) -> None:
            values = [logits.log_softmax(1) for logits in prototypes(embeddings).values()]
            loss = sum((prototypical_cross_entropy(v, labels) - prototypical_entropy(v)).mean() for v in values)
            loss.backward()

        def products(embeddings=embeddings, means=means) -> None:
            sum((embeddings[name] @ means[name].T).sum() for name in means).backward()

        counts = []
        for work in (terms, products):
            with FlopCounterMode(display=False) as counter:
                work()
            counts.append(counter.get_total_flops())
        times = in_turn({"terms": terms, "products": products}, rounds)
        ours, least = (statistics.median(values) * 1000 for values in times.values())
        flops = f"{counts[0] / counts[1]:.2f}"
        print(f"| {k} | {m} | {d} | {ours:.2f} | {least:.2f} | {ours / least:.1f} | {flops} |")


def profile(rounds: int, processes: int) -> None:
    """How the time of a PMR step is divided among its parts."""
    data = Digits(5 * BATCH)
    trainer = trained("online", data)
    model, prototypes = trainer.model, trainer.prototypes
    batch = data.collate(list(range(BATCH)))
    labels = batch["labels"]
    output = model(**batch)
    detached = {name: value.detach().requires_grad_() for name, value in output.embeddings.items()}

    zero = torch.tensor(0.0)

    def added_loss() -> torch.Tensor:
        return trainer.method_loss(zero, trainer.prototype_terms(detached, labels), output, labels)

    parts = {
        "whole step": lambda: trainer.training_step(model, batch),
        "encoders, fusion and cross entropy, forward": lambda: model(**batch),
        "distances": lambda: prototypes(detached),
        "all terms, with their logs": added_loss,
        "gradient of the terms": lambda: torch.autograd.grad(added_loss(), list(detached.values())),
        "online sums": lambda: prototypes.class_sums(output.embeddings, labels, None, sums),
    }
    sums = prototypes.zero_sums()
    times = {name: statistics.median(values) for name, values in in_turn(parts, rounds).items()}
    print("\n| part of a step | ms | share |\n|---|---|---|")
    for name, seconds in times.items():
        print(f"| {name} | {1000 * seconds:.2f} | {100 * seconds / times['whole step']:.1f} % |")


def layout(rounds: int, processes: int) -> None:
    """
    A training step of each encoder with its pictures in the channels-last format, and in the default one. On a CPU it
    is the CPU time, which other work on the machine hardly changes; use one thread, since threads that wait count too.
    """
    device, clock = ("cuda", time.perf_counter) if torch.cuda.is_available() else ("cpu", time.process_time)
    print(f"\n| a step of 32, {device} | pixels | median ratio to the default | quartiles | default, ms | chosen |")
    print("|---|---|---|---|---|---|")
    for name, (config, channels, pixels) in PICTURES.items():
        set_seed(0)
        model = MultimodalModel.from_backbones({"image": config}, num_labels=10).train().to(device)
        batch = {"image": {"pixel_values": torch.randn(32, channels, pixels, pixels, device=device)}}
        batch["labels"] = torch.randint(10, (32,), device=device)
        chosen = "channels last" if model.reads_channels_last("image") else "default"
        optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
        runs = {
            "last": partial(layout_step, model, optimizer, batch, True),
            "default": partial(layout_step, model, optimizer, batch, False),
        }
        in_turn(runs, 1)
        times = in_turn(runs, max(4, rounds // 4), clock)
        ratios = [last / default for last, default in zip(*times.values(), strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        default = 1000 * statistics.median(times["default"])
        print(f"| {name} | {pixels} | {middle:.3f} | {low:.3f} .. {high:.3f} | {default:.0f} | {chosen} |", flush=True)


def layout_step(
    model: MultimodalModel, optimizer: torch.optim.Optimizer, batch: dict[str, Any], channels_last: bool
) -> None:
    model.channels_last = channels_last
    model(**batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if model.device.type == "cuda":
        torch.cuda.synchronize()


PARTS = {part.__name__: part for part in (steps, epochs, methods, trainings, memory, loop, growth, profile, layout)}
TIMES = {
    "step": step_times,
    "epoch": epoch_times,
    "method": method_ratios,
    "training": training_ratios,
    "loop": loop_times,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="what to measure; by default all parts")
    parser.add_argument("--rounds", type=int, default=60, help="rounds of each comparison")
    parser.add_argument("--processes", type=int, default=6, help="processes that share the rounds")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--times", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak or args.times:  # in a process of `child`
        print(json.dumps(peak(args.peak) if args.peak else TIMES[args.times](args.rounds)))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in args.parts or PARTS:
        PARTS[name](args.rounds, args.processes)


if __name__ == "__main__":
    main()
