"""The cells that `examples/benchmark.py` runs. Each has the arguments of one run of `examples/run_pmr.py`."""

import argparse
from typing import NamedTuple

from ..methods import METHODS
from ..model.targets import REGRESSION
from .split_command import Options, flat, known_to, name_of, options_of


# The arguments of run_pmr.py that select each method of the benchmark
BENCHMARK_METHODS = {
    "unimodal": ["--method", "joint"],  # one run for each modality alone
    "joint": ["--method", "joint"],
    "dropout": ["--method", "joint", "--modality_dropout", "0.3"],
    "recipe": ["--method", "pmr", "--recipe", "recommended"],  # ours
    "pmr": ["--method", "pmr", "--recipe", "paper"],
    "pmr_without_per": ["--method", "pmr", "--recipe", "paper", "--pmr_mu", "0"],
    "pmr_hard": ["--method", "pmr", "--recipe", "paper", "--pmr_weights", "hard"],
    "pmr_dropout": ["--method", "pmr", "--recipe", "paper", "--modality_dropout", "0.3"],  # not in the paper
    "acc": ["--method", "acc"],
    "ogm": ["--method", "ogm"],
    "ogm_ge": ["--method", "ogm", "--ogm_noise", "True"],
    "agm": ["--method", "agm"],
    "opm": ["--method", "opm"],
    "dgl": ["--method", "dgl"],
    "valuation": ["--method", "valuation"],
    "reconboost": ["--method", "reconboost"],
    "uniform": ["--method", "uniform"],
    "gblend": ["--method", "gblend"],
    "mmpareto": ["--method", "mmpareto"],
    "mla": ["--method", "mla"],  # with its own fusion head
    "relearning": ["--method", "relearning"],
    "late_fusion": ["--method", "late_fusion"],  # has a fusion head of its own
}
# The arguments of run_pmr.py that the benchmark sets, and where they are set
DECIDED = {
    "method": "by --methods",
    "fusion": "by --fusions",
    "seed": "by --seeds",
    "modalities": "by --methods unimodal",
    "compare_with": "by --methods",
    "do_predict": "by the protocol",
    "resume_from_checkpoint": "by the protocol",
}


class Cell(NamedTuple):
    """One run: a method with a fusion head, a learning rate and a seed."""

    method: str
    fusion: str
    rate: str | None = None  # as on the command line; `None` for the default of run_pmr.py
    seed: int = 0
    modality: str | None = None  # only for the method `unimodal`
    setting: tuple[str, str] | None = None  # the varied argument and its value

    @property
    def name(self) -> str:
        """The name of the run's folder, such as concat-pmr-lr3e-2-seed0."""
        rate = None if self.rate is None else f"lr{self.rate}"
        setting = None if self.setting is None else "=".join(self.setting)
        parts = (self.fusion, self.method, self.modality, setting, rate, f"seed{self.seed}")
        return "-".join(part for part in parts if part is not None)

    @property
    def group(self) -> dict[str, str | None]:
        """The method, setting and fusion head. Cells that differ only in learning rate and seed share them."""
        method = self.method if self.modality is None else f"{self.method}: {self.modality}"
        return {
            "method": method,
            "setting": None if self.setting is None else "=".join(self.setting),
            "fusion": self.fusion,
        }

    def arguments(self, shared: Options) -> list[str]:
        """The command line of run_pmr.py for this cell. `shared` are the arguments of all runs of the benchmark."""
        arguments = flat(options_for(self.method, shared))
        arguments += ["--fusion", self.fusion, "--seed", str(self.seed), *BENCHMARK_METHODS[self.method]]
        arguments += ["--compare_with", "none"]
        arguments += [] if self.modality is None else ["--modalities", self.modality]
        arguments += [] if self.setting is None else [f"--{self.setting[0]}", self.setting[1]]
        return arguments + ([] if self.rate is None else ["--learning_rate", self.rate])


def groups_of(args: argparse.Namespace, modalities: list[str]) -> list[Cell]:
    """The cells of all methods, fusion heads and settings, method by method, without learning rate and seed."""
    groups = []
    for method in args.methods:
        settings: list[tuple[str, str] | None] = [(args.vary[0], value) for value in args.vary[1:]]
        if not options_for(method, [[f"--{name}"] for name in args.vary[:1]]):
            settings = [None]
        if method == "unimodal":  # one modality needs no fusion
            heads = [("concat", name) for name in modalities]
        else:
            heads = [(fusion, None) for fusion in heads_of(method, args.fusions)]
        groups += [Cell(method, head, modality=name, setting=setting) for head, name in heads for setting in settings]
    return groups


def heads_of(method: str, fusions: list[str]) -> list[str]:
    """The fusion heads that a method runs with: the given ones, or the only one that it trains."""
    own = METHODS[BENCHMARK_METHODS[method][1]].own_fusion
    return fusions if own is None else [own]


def options_for(method: str, shared: Options) -> Options:
    """Keep the options that run_pmr.py has for a method of the benchmark."""
    return known_to(BENCHMARK_METHODS[method][1], shared)


def mistake_in(args: argparse.Namespace, shared: Options) -> str | None:
    """A message if an argument is unknown or set in two places, or if a method needs classes, else `None`."""
    if len(args.vary) == 1:
        return f"Expected an argument and at least one value in --vary, got {args.vary}; add values."
    decided = DECIDED | {"learning_rate": "by --learning_rates"} if args.learning_rates else DECIDED
    decided |= {
        name_of(option): f"by {method}" for method in args.methods for option in options_of(BENCHMARK_METHODS[method])
    }
    varied = [[f"--{name}"] for name in args.vary[:1]]
    for option in [*shared, *varied]:
        if name_of(option) in decided:
            return f"Expected no {option[0]} here: it is set {decided[name_of(option)]}."
        if not any(options_for(method, [option]) for method in args.methods):
            return (
                f"Expected arguments of run_pmr.py that {' or '.join(args.methods)} takes, got {option[0]}; correct it."
            )
    if varied and name_of(varied[0]) in map(name_of, shared):
        return f"Expected {varied[0][0]} only in --vary, got it twice; remove one."
    return lack_of_classes(args.methods, shared)


def able_methods(shared: Options) -> list[str]:
    """The methods of the benchmark that can train on the data: in a regression, those that need no classes."""
    given = [option for option in shared if name_of(option) == "problem_type"]
    if not given or not given[-1][-1].endswith(REGRESSION):
        return list(BENCHMARK_METHODS)
    return [name for name, arguments in BENCHMARK_METHODS.items() if not METHODS[arguments[1]].needs_classes]


def lack_of_classes(methods: list[str], shared: Options) -> str | None:
    """A message if the problem is a regression and a method needs classes, else `None`."""
    able = able_methods(shared)
    unable = [name for name in methods if name not in able]
    if not unable:
        return None
    return (
        f"Expected --methods among {', '.join(able)} with --problem_type {REGRESSION}, got {', '.join(unable)} too; "
        "leave out what needs class prototypes."
    )
