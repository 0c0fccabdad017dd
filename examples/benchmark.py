"""
Compare PMR with the methods beside it, under one protocol: every method, fusion head and seed that you name.

    python examples/benchmark.py --methods joint pmr unimodal --seeds 0 1 2              # digits of scikit-learn
    python examples/benchmark.py --dataset cg_mnist --data_dir mnist --methods joint pmr \\
        --fusions concat sum film gated --learning_rates 3e-2 1e-1 3e-1 --output_dir outputs/cg_mnist
    python examples/benchmark.py --methods joint pmr --vary pmr_alpha 0.5 1 2 4          # an ablation

Each run is one of `examples/run_pmr.py`. Every argument that is not listed by --help goes there, to the methods that
know it. The learning rate of each method is the one of the grid with the best validation accuracy on the first seed;
the best epoch is chosen on validation; the test is touched once, by the runs at the chosen rate. A run that is finished
is not run again, and one that was stopped goes on where it was: start the same command again.

In the folder of the output: `results.jsonl`, a line for each run that is reported, with those of earlier commands,
`results.md`, the table, and plots.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import psutil  # of accelerate
from benchmark_measure import measure
from benchmark_report import write_report, write_whole
from run_pmr import METHODS as TRAINERS
from run_pmr import ScriptArguments, load_data, parse_arguments

from pmr_hf import MultimodalModel, MultimodalProcessor


# Each method by the arguments of run_pmr.py; `unimodal` is a run for each modality alone.
METHODS = {
    "unimodal": ["--method", "joint"],
    "joint": ["--method", "joint"],
    "dropout": ["--method", "joint", "--modality_dropout", "0.3"],
    "pmr": ["--method", "pmr"],
    "pmr_without_per": ["--method", "pmr", "--pmr_mu", "0"],
    "pmr_hard": ["--method", "pmr", "--pmr_weights", "hard"],
    "pmr_dropout": ["--method", "pmr", "--modality_dropout", "0.3"],  # ours
    "acc": ["--method", "acc"],
    "ogm": ["--method", "ogm"],
    "ogm_ge": ["--method", "ogm", "--ogm_noise", "True"],
    "agm": ["--method", "agm"],
    "gblend": ["--method", "gblend"],
    "mmpareto": ["--method", "mmpareto"],
}
# What decides about runs, and where it is set
DECIDED = {
    "method": "by --methods",
    "fusion": "by --fusions",
    "seed": "by --seeds",
    "modalities": "by --methods unimodal",
    "do_predict": "by the protocol",
    "resume_from_checkpoint": "by the protocol",
}
Options = list[list[str]]  # an argument and its values each


class Cell(NamedTuple):
    """One run: a method on a fusion head, with a learning rate and a seed."""

    method: str
    fusion: str
    rate: str | None = None  # as it was given; that of run_pmr.py if `None`
    seed: int = 0
    modality: str | None = None  # of `unimodal`
    setting: tuple[str, str] | None = None  # an argument that is varied, and its value

    @property
    def name(self) -> str:
        rate = None if self.rate is None else f"lr{self.rate}"
        setting = None if self.setting is None else "=".join(self.setting)
        parts = (self.fusion, self.method, self.modality, setting, rate, f"seed{self.seed}")
        return "-".join(part for part in parts if part is not None)

    @property
    def group(self) -> dict[str, str | None]:
        """What it has in common with the same at other rates and seeds."""
        method = self.method if self.modality is None else f"{self.method}: {self.modality}"
        return {
            "method": method,
            "setting": None if self.setting is None else "=".join(self.setting),
            "fusion": self.fusion,
        }

    def arguments(self, shared: Options) -> list[str]:
        """Those of run_pmr.py."""
        arguments = flat(known_to(self.method, shared))
        arguments += ["--fusion", self.fusion, "--seed", str(self.seed), *METHODS[self.method]]
        arguments += [] if self.modality is None else ["--modalities", self.modality]
        arguments += [] if self.setting is None else [f"--{self.setting[0]}", self.setting[1]]
        return arguments + ([] if self.rate is None else ["--learning_rate", self.rate])


class RunError(Exception):
    """What keeps a run from its result."""


class Runs(NamedTuple):
    """Where the runs of a command are, and what they share."""

    folder: Path
    shared: Options
    rates: list[str | None]
    seeds: list[int]
    only_report: bool


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--methods", nargs="+", default=["joint", "pmr"], choices=list(METHODS))
    parser.add_argument("--fusions", nargs="+", default=["concat"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--learning_rates", nargs="+", help="the grid, the same for all; by default run_pmr.py's rate")
    parser.add_argument("--vary", nargs="+", metavar=("ARGUMENT", "VALUE"), help="an argument of run_pmr.py and values")
    parser.add_argument("--output_dir", type=Path, help="by default outputs/benchmark and the name of the data")
    parser.add_argument("--only_report", action="store_true", help="run nothing, write table and plots anew")
    args, others = parser.parse_known_args()
    for name in ("methods", "fusions", "seeds", "learning_rates", "vary"):
        setattr(args, name, list(dict.fromkeys(getattr(args, name) or [])))
    shared = options_of(others)
    mistake = mistake_in(args, shared)
    if mistake is not None:
        parser.error(mistake)
    script_args = parsed(Cell(args.methods[0], args.fusions[0]), shared)
    groups = groups_of(args, list(script_args.columns))
    rates = args.learning_rates or [None]
    for group in groups:  # a mistake in any of them shows before the first is run
        for rate in rates:
            parsed(group._replace(rate=rate), shared)
    folder = args.output_dir or Path("outputs") / f"benchmark-{script_args.data_name.replace('/', '-')}"
    runs = Runs(folder, shared, rates, args.seeds, args.only_report)

    try:
        reported(runs)  # what cannot stand beside it shows before the first run, too
    except RunError as error:
        sys.exit(str(error))
    failures, finished = [], False
    for group in groups:
        try:
            for result in results_of(group, runs):
                write_report(folder, with_result(result, reported(runs)))
                finished = True
        except RunError as error:
            failures.append(str(error))
    if failures:
        sys.exit("\n".join(failures))
    if not finished:
        sys.exit(f"Expected finished runs in {folder}, found none.")


# ---- What to run ----


def groups_of(args: argparse.Namespace, modalities: list[str]) -> list[Cell]:
    """The cells of the command, but for learning rates and seeds, those of one method after the other."""
    groups = []
    for method in args.methods:
        settings = [(args.vary[0], value) for value in args.vary[1:]]
        if not known_to(method, [[f"--{name}"] for name, _ in settings]):
            settings = [None]
        if method == "unimodal":  # no fusion
            heads = [("concat", name) for name in modalities]
        else:
            heads = [(fusion, None) for fusion in args.fusions]
        groups += [Cell(method, head, modality=name, setting=setting) for head, name in heads for setting in settings]
    return groups


def options_of(arguments: list[str]) -> Options:
    options: Options = []
    for part in arguments:
        if part.startswith("--") or not options:
            options.append([part])
        else:
            options[-1].append(part)
    return options


def flat(options: Options) -> list[str]:
    return [part for option in options for part in option]


def name_of(option: list[str]) -> str:
    return option[0].removeprefix("--").partition("=")[0].replace("-", "_")


def known_to(method: str, options: Options) -> Options:
    """Those that run_pmr.py has for a method."""
    trainer = TRAINERS[METHODS[method][1]]
    names = {field.name for arguments in (ScriptArguments, trainer.args_class) for field in fields(arguments)}
    return [option for option in options if {name_of(option), name_of(option).removeprefix("no_")} & names]


def mistake_in(args: argparse.Namespace, shared: Options) -> str | None:
    """A sentence if an argument is not known, or set in two places."""
    if len(args.vary) == 1:
        return f"Expected an argument and at least one value in --vary, got {args.vary}."
    decided = DECIDED | {"learning_rate": "by --learning_rates"} if args.learning_rates else DECIDED
    decided |= {name_of(option): f"by {method}" for method in args.methods for option in options_of(METHODS[method])}
    varied = [[f"--{name}"] for name in args.vary[:1]]
    for option in [*shared, *varied]:
        if name_of(option) in decided:
            return f"Expected no {option[0]} here: it is set {decided[name_of(option)]}."
        if not any(known_to(method, [option]) for method in args.methods):
            return f"Expected arguments of run_pmr.py that {' or '.join(args.methods)} knows, got {option[0]}."
    if varied and name_of(varied[0]) in map(name_of, shared):
        return f"Expected {varied[0][0]} in --vary alone."
    return None


def parsed(cell: Cell, shared: Options) -> ScriptArguments:
    return parse_arguments([*cell.arguments(shared), "--output_dir", "unused"])[0]


# ---- Running it ----


def results_of(group: Cell, runs: Runs) -> Iterator[dict[str, Any]]:
    """The result of each seed, at the rate with the best validation accuracy on the first one; runs what is missing."""
    first = group._replace(seed=runs.seeds[0])
    found = {rate: trained(first._replace(rate=rate), runs) for rate in runs.rates}
    grid = {rate: train.get("eval_accuracy") for rate, train in found.items() if train}  # none where it diverged
    rates = [rate for rate, accuracy in grid.items() if accuracy is not None]
    if rates:
        best = first._replace(rate=max(rates, key=grid.__getitem__))  # the first of equals
        missing = beyond_grid(best.rate, runs.rates)
        if missing is not None:
            print(f"{best.name}: the best rate is at the end of the grid; add a {missing} one.", flush=True)
        diverged = []
        for seed in runs.seeds:
            cell = best._replace(seed=seed)
            train = trained(cell, runs)
            if train and "diverged" in train:
                diverged.append(f"Expected {cell.name} to train, but it diverged: {train['diverged']}")
                continue
            result = measured(cell, runs, train)
            if result is not None:
                yield result | {"grid": {} if best.rate is None else grid}
        if diverged:
            raise RunError("\n".join(diverged))
    elif not runs.only_report:
        name = first._replace(rate=runs.rates[0]).name
        raise RunError(f"Expected {name} to train at one of the rates, but it diverged with each.")


def beyond_grid(rate: str | None, rates: list[str | None]) -> str | None:
    """Where a better rate may be, if this one is at an end of the grid: "lower" or "higher"."""
    grid = sorted(float(other) for other in rates if other is not None)
    ends = {grid[0]: "lower", grid[-1]: "higher"} if len(grid) > 1 else {}
    return None if rate is None else ends.get(float(rate))


def reported(runs: Runs) -> list[dict[str, Any]]:
    """What was reported in this folder before, by runs with the arguments of this command but for those of a method."""
    file = runs.folder / "results.jsonl"
    results = [json.loads(line) for line in file.open(encoding="utf-8")] if file.is_file() else []
    for result in results:
        before, now = (known_to("joint", options) for options in (options_of(result["arguments"]), runs.shared))
        require_same(runs.folder / result["name"], flat(before), flat(now))
    return results


def with_result(result: dict[str, Any], others: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A result after those of before; of its own method, setting and head, other seeds at the same rate are kept."""
    kept = []
    for other in others:
        same = all(other[key] == result[key] for key in ("method", "setting", "fusion"))
        is_seed = other["learning_rate"] == result["learning_rate"] and other["seed"] != result["seed"]
        if not same or is_seed:
            kept.append(other)
    return [*kept, result]


def trained(cell: Cell, runs: Runs) -> dict[str, Any] | None:
    """What training and validation of a cell gave, `None` if it is not to be run; `diverged` says that a loss did."""
    out, arguments = runs.folder / cell.name, cell.arguments(runs.shared)
    known, file = out / "arguments.json", out / "trained.json"
    if known.is_file():
        require_same(out, json.loads(known.read_text(encoding="utf-8")), arguments)
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    if runs.only_report:
        return None
    require_free(out)
    again = known.is_file()
    out.mkdir(parents=True, exist_ok=True)
    write_json(known, arguments)
    print(f"{cell.name}: training, see {out / 'log.txt'}", flush=True)
    code, error = launch(out, arguments)
    if code == 0:
        found = json.loads((out / "all_results.json").read_text(encoding="utf-8"))
        found["train_resumed"] |= int(again)
    elif error.startswith("FloatingPointError"):
        found = {"diverged": error}
    else:
        raise RunError(f"Expected {cell.name} to train, but it ended with code {code} ({error}); see its log.txt.")
    write_json(file, found)
    return found


def launch(out: Path, arguments: list[str]) -> tuple[int, str]:
    """Train in a folder until it ends: the code, and the last error of its log."""
    script = Path(__file__).parent / "run_pmr.py"
    command = [sys.executable, "-m", "accelerate.commands.launch", str(script), *arguments, "--output_dir", str(out)]
    command += ["--do_predict", "False", "--resume_from_checkpoint", "True", "--disable_tqdm", "True"]
    with (out / "log.txt").open("a+", encoding="utf-8") as log:
        begin = log.seek(0, os.SEEK_END)
        with subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as process:
            write_json(out / "process.json", [process.pid, psutil.Process(process.pid).create_time()])
        log.seek(begin)
        errors = re.findall(r"^(?:\[rank\d+\]: )?(\w+(?:Error|Exception): .*)", log.read(), re.MULTILINE)
    return process.returncode, errors[-1] if errors else "no error in its log"


def require_free(out: Path) -> None:
    """A run goes on where the command that started it is killed alone."""
    file = out / "process.json"
    if file.is_file():
        pid, started = json.loads(file.read_text(encoding="utf-8"))
        if psutil.pid_exists(pid) and psutil.Process(pid).create_time() == started:
            raise RunError(f"Expected no run in {out}, but process {pid} still trains there; wait for it or stop it.")


def require_same(out: Path, before: list[str], now: list[str]) -> None:
    ours, theirs = ([" ".join(option) for option in options_of(each)] for each in (now, before))
    if sorted(ours) != sorted(theirs):
        more = ", ".join(option for option in theirs if option not in ours) or "none"
        less = ", ".join(option for option in ours if option not in theirs) or "none"
        raise RunError(
            f"Expected the run in {out} to have the arguments of this command, but it has {more} in place of {less}; "
            "give another --output_dir."
        )


def measured(cell: Cell, runs: Runs, train: dict[str, Any] | None) -> dict[str, Any] | None:
    """All that is reported of a trained cell, `None` if it is not; its test split is read here, once."""
    out = runs.folder / cell.name
    file = out / "result.json"
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    if runs.only_report or train is None:
        return None
    print(f"{cell.name}: measuring", flush=True)
    script_args, training_args = parse_arguments([*cell.arguments(runs.shared), "--output_dir", str(out)])
    model = MultimodalModel.from_pretrained(out).to(training_args.device).eval()
    processor = MultimodalProcessor.from_pretrained(out)
    data = load_data(script_args, processor, cell.seed)
    history = json.loads((out / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    result = {
        "name": cell.name,
        "data": script_args.data_name,
        **cell.group,
        "seed": cell.seed,
        "learning_rate": training_args.learning_rate,
        "epochs": training_args.num_train_epochs,
        "arguments": flat(known_to(cell.method, runs.shared)),
        "train_samples": len(data["train"]),
        "train_seconds": train["train_seconds"] if train["train_resumed"] == 0 else None,
        "peak_memory_mib": train["train_peak_memory_mib"],
        "eval_accuracy": train["eval_accuracy"],
        "rho": next((entry["rho"] for entry in reversed(history) if "rho" in entry), None),
    }
    result |= measure(model, processor, data, script_args, training_args.per_device_eval_batch_size, cell.seed)
    write_json(file, result)
    return result


def write_json(file: Path, content: Any) -> None:
    write_whole(file, json.dumps(content, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
