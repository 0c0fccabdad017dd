"""The cells that `examples/benchmark.py` runs. Each has the arguments of one run of `examples/run_pmr.py`."""

import argparse
from collections.abc import Container, Mapping
from typing import NamedTuple

from ..methods import METHODS
from ..methods.method_checks import reason_against
from ..model.fusion import FUSIONS, Fusion
from .split_command import Options, flat, known_to, name_of, options_of


Pair = tuple[str, str]  # a method of the benchmark and a fusion head

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


def groups_of(args: argparse.Namespace, modalities: list[str], untrainable: Container[Pair] = ()) -> list[Cell]:
    """
    The cells of all methods, fusion heads and settings, method by method, without learning rate and seed. Those of the
    pairs `untrainable` are left out.
    """
    groups = []
    for method in args.methods:
        settings: list[tuple[str, str] | None] = [(args.vary[0], value) for value in args.vary[1:]]
        if not options_for(method, [[f"--{name}"] for name in args.vary[:1]]):
            settings = [None]
        names = modalities if method == "unimodal" else [None]
        for head in heads_of(method, args.fusions):
            if (method, head) not in untrainable:
                groups += [Cell(method, head, modality=name, setting=setting) for name in names for setting in settings]
    return groups


def heads_of(method: str, fusions: list[str]) -> list[str]:
    """The fusion heads that a method runs with: the given ones, or the only one that it trains or needs."""
    if method == "unimodal":  # one modality needs no fusion
        return ["concat"]
    own = METHODS[BENCHMARK_METHODS[method][1]].own_fusion
    return fusions if own is None else [own]


def options_for(method: str, shared: Options) -> Options:
    """Keep the options that run_pmr.py has for a method of the benchmark."""
    return known_to(BENCHMARK_METHODS[method][1], shared)


def mistake_in(args: argparse.Namespace, shared: Options) -> str | None:
    """A message if an argument is unknown or set in two places, else `None`."""
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
    return None


def untrainable_pairs(
    methods: list[str], fusions: list[str], problem_type: str, widths: Mapping[str, int | None]
) -> dict[Pair, str]:
    """
    The methods and fusion heads that cannot train together on the data, each pair with the reason. `widths` are those
    of the encoders' embeddings, by modality, as far as they are known.
    """
    known = {modality: width for modality, width in widths.items() if width is not None}
    found = {}
    for method in methods:
        for name in heads_of(method, fusions):
            head = FUSIONS.get(name, Fusion)  # run_pmr.py refuses an unknown one
            reason = reason_against(METHODS[BENCHMARK_METHODS[method][1]], problem_type, head)
            if reason is None and head.needs_one_width and len(set(known.values())) > 1:
                reason = f"its fusion head needs embeddings of one width, got {known}, which --embedding_dim changes"
            if reason is not None:
                found[method, name] = reason
    return found


def needs_widths(args: argparse.Namespace) -> bool:
    """Whether [`untrainable_pairs`] needs the widths of the encoders: a fusion head takes one, and none is varied."""
    heads = [FUSIONS.get(name, Fusion) for method in args.methods for name in heads_of(method, args.fusions)]
    return any(head.needs_one_width for head in heads) and not {"embedding_dim", "backbones"} & set(args.vary[:1])


def able_methods(methods: list[str], fusions: list[str], untrainable: Container[Pair]) -> list[str]:
    """The methods that can train with at least one of their fusion heads."""
    return [
        method for method in methods if any((method, head) not in untrainable for head in heads_of(method, fusions))
    ]


def listed(untrainable: Mapping[Pair, str], fusions: list[str]) -> str:
    """
    The pairs with their reasons, those of one reason together, such as "pmr, acc (a regression has no class
    prototypes); reconboost with film (...)".
    """
    by_reason: dict[str, list[str]] = {}
    for (method, head), reason in untrainable.items():
        able = able_methods([method], fusions, untrainable)
        by_reason.setdefault(reason, []).append(f"{method} with {head}" if able else method)
    return "; ".join(f"{', '.join(dict.fromkeys(names))} ({reason})" for reason, names in by_reason.items())


def refusal(untrainable: Mapping[Pair, str], fusions: list[str]) -> str:
    """The message that refuses methods which a command names."""
    return (
        f"Expected --methods that can train these data, got {listed(untrainable, fusions)}; leave them out, or give "
        "--methods all, which takes the others."
    )
