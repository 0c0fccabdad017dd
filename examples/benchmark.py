"""
Compare PMR with other methods under one protocol, for every method, fusion head and seed that you name.

    python examples/benchmark.py --methods joint pmr unimodal --seeds 0 1 2              # digits of scikit-learn
    python examples/benchmark.py --dataset cg_mnist --data_dir mnist --methods joint pmr \\
        --fusions concat sum film gated --learning_rates 3e-2 1e-1 3e-1 --output_dir outputs/cg_mnist
    python examples/benchmark.py --methods joint pmr --vary pmr_alpha 0.5 1 2 4          # an ablation

Each run is a run of `examples/run_pmr.py`. An argument that --help does not list goes to the runs of every method that
has it. For each method, the learning rate is chosen from the grid by validation accuracy on the first seed. The best
epoch is chosen by validation accuracy. With --problem_type, both are chosen by micro F1 or, in a regression, the loss.
Only the runs at the chosen rate are tested, once. A finished run is not repeated, and the same command resumes a run
that was stopped.

The script prints its tables at the end. It writes to the output folder: `results.jsonl` with a line for each reported
run, including the runs of earlier commands, the tables as `results.md`, and plots.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import Any, NamedTuple


if __name__ == "__main__":
    # Before torch is imported, which takes seconds: a mistake shows, and tqdm finds which bars to hide.
    package = find_spec("pmr_hf")
    if package is None:
        sys.exit("Expected the package pmr_hf, found none; install it first, by `pip install -e .` in its folder.")
    early = Path(package.submodule_search_locations[0]) / "command_line" / "early_check.py"
    run_path(str(early))["begin"](sys.argv[1:], Path(__file__))

import psutil  # installed with accelerate

from pmr_hf import MultimodalModel, MultimodalProcessor
from pmr_hf.command_line.benchmark_cells import (
    BENCHMARK_METHODS,
    Cell,
    able_methods,
    groups_of,
    listed,
    mistake_in,
    needs_widths,
    options_for,
    refusal,
    untrainable_pairs,
)
from pmr_hf.command_line.build import build_collator, encoder_widths
from pmr_hf.command_line.defaults import SELECTED_BY
from pmr_hf.command_line.infer_modalities import inferred_columns
from pmr_hf.command_line.parse_arguments import lengthen_training, parse_arguments
from pmr_hf.command_line.run_script import run_script
from pmr_hf.command_line.script_arguments import ScriptArguments
from pmr_hf.command_line.split_command import Options, flat, options_of
from pmr_hf.command_line.splits import load_splits
from pmr_hf.inference.modality_report import modality_report
from pmr_hf.model.targets import REGRESSION, SINGLE_LABEL
from pmr_hf.reporting.benchmark_plots import plot_curves, plot_varied
from pmr_hf.reporting.benchmark_table import table_of
from pmr_hf.training.whole_files import write_json, write_whole


class RunError(Exception):
    """Raised when a run has no result. The message says why."""


class Runs(NamedTuple):
    """The settings that all runs of a command share."""

    folder: Path
    shared: Options
    rates: list[str | None]
    seeds: list[int]
    only_report: bool
    problem_type: str

    @property
    def selected_by(self) -> str:
        """The key of the validation metric that selects the learning rate and the epoch."""
        return f"eval_{SELECTED_BY[self.problem_type]}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["joint", "pmr"],
        choices=["all", *BENCHMARK_METHODS],
        help="methods to compare; 'all' stands for all that can be trained on the data, as far as the arguments and "
        "the configs of the encoders tell (that of a timm encoder does not state its width, which mla needs)",
    )
    parser.add_argument("--fusions", nargs="+", default=["concat"], help="fusion heads; by default concat")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds of the runs; by default 0 1 2")
    parser.add_argument(
        "--learning_rates", nargs="+", help="grid of rates for all methods; by default only the rate of run_pmr.py"
    )
    parser.add_argument(
        "--vary", nargs="+", metavar=("ARGUMENT", "VALUE"), help="an argument of run_pmr.py and the values to try"
    )
    parser.add_argument("--output_dir", type=Path, help="by default outputs/benchmark-<name of the data>")
    parser.add_argument("--only_report", action="store_true", help="run nothing, only rewrite the tables and the plots")
    args, others = parser.parse_known_args()
    for name in ("methods", "fusions", "seeds", "learning_rates", "vary"):
        setattr(args, name, list(dict.fromkeys(getattr(args, name) or [])))
    shared = options_of(others)
    script_args = parsed(Cell("joint", "concat"), shared)
    named = [method for method in args.methods if method != "all"]
    args.methods = named if "all" not in args.methods else list(BENCHMARK_METHODS)
    widths = encoder_widths(script_args) if needs_widths(args) and not args.only_report else {}
    untrainable = untrainable_pairs(args.methods, args.fusions, script_args.problem_type, widths)
    refused = {pair: reason for pair, reason in untrainable.items() if pair[0] in named}
    if refused:
        parser.error(refusal(refused, args.fusions))
    args.methods = able_methods(args.methods, args.fusions, untrainable)
    mistake = mistake_in(args, shared)
    if mistake is not None:
        parser.error(mistake)
    if untrainable:
        print(f"left out: {listed(untrainable, args.fusions)}", flush=True)
    groups = groups_of(args, list(script_args.columns), untrainable)
    rates = args.learning_rates or [None]
    for group in groups:  # a mistake in any of them must show before the first run
        for rate in rates:
            parsed(group._replace(rate=rate), shared)
    folder = args.output_dir or Path("outputs") / f"benchmark-{script_args.data_name.replace('/', '-')}"
    runs = Runs(folder, shared, rates, args.seeds, args.only_report, script_args.problem_type)

    try:
        reported(runs)  # results of other arguments must show before the first run, too
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
    if finished:
        print(f"\n{(folder / 'results.md').read_text(encoding='utf-8')}\nwritten to {folder}")
    if failures:
        sys.exit("\n".join(failures))
    if not finished:
        sys.exit(f"Expected finished runs in {folder}, found none.")


def parsed(cell: Cell, shared: Options) -> ScriptArguments:
    """Parse the arguments of a cell, to check them before it runs."""
    script_args, _ = parse_arguments([*cell.arguments(shared), "--output_dir", "unused"])
    inferred = inferred_columns(script_args)
    if inferred is not None:
        script_args.complete(inferred)
    return script_args


# ---- Running the cells ----


def results_of(group: Cell, runs: Runs) -> Iterator[dict[str, Any]]:
    """
    Run the missing cells of a group, and yield the result of each seed at the best learning rate: the one with the best
    validation accuracy on the first seed, or micro F1, or loss, by the problem type.

    Raises:
        RunError: if training fails, or diverges at a seed.
    """
    first = group._replace(seed=runs.seeds[0])
    found = {rate: trained(first._replace(rate=rate), runs) for rate in runs.rates}
    # `None` where training diverged
    grid = {rate: train.get(runs.selected_by) for rate, train in found.items() if train}
    rates = [rate for rate, metric in grid.items() if metric is not None]
    if rates:
        best_of = min if runs.problem_type == REGRESSION else max
        best = first._replace(rate=best_of(rates, key=grid.__getitem__))  # the first of equally good rates
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
        raise RunError(f"Expected {name} to train at one of the rates, but it diverged at each; lower them.")


def beyond_grid(rate: str | None, rates: list[str | None]) -> str | None:
    """Where a better rate may lie: "lower" or "higher" if `rate` is at that end of the grid, else `None`."""
    grid = sorted(float(other) for other in rates if other is not None)
    ends = {grid[0]: "lower", grid[-1]: "higher"} if len(grid) > 1 else {}
    return None if rate is None else ends.get(float(rate))


def reported(runs: Runs) -> list[dict[str, Any]]:
    """
    Read the results that are already in the folder.

    Raises:
        RunError: if their runs had other arguments than this command. Arguments of single methods may differ.
    """
    file = runs.folder / "results.jsonl"
    results = [json.loads(line) for line in file.open(encoding="utf-8")] if file.is_file() else []
    for result in results:
        before, now = (options_for("joint", options) for options in (options_of(result["arguments"]), runs.shared))
        require_same(runs.folder / result["name"], flat(before), flat(now))
    return results


def with_result(result: dict[str, Any], others: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Add a new result to the earlier ones. Of the earlier results with the same method, setting and fusion head, only
    those with another seed at the same learning rate are kept.
    """
    kept = []
    for other in others:
        same = all(other[key] == result[key] for key in ("method", "setting", "fusion"))
        is_seed = other["learning_rate"] == result["learning_rate"] and other["seed"] != result["seed"]
        if not same or is_seed:
            kept.append(other)
    return [*kept, result]


def trained(cell: Cell, runs: Runs) -> dict[str, Any] | None:
    """
    The training and validation metrics of a cell. A cell without metrics is run, or gives `None` with --only_report. If
    a loss diverged, the only key is `diverged`, with the error.
    """
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
    """Train in a separate process. Returns its exit code and the last error in its log."""
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
    """Raise `RunError` if a run still trains in the folder, since it outlives a killed command that started it."""
    file = out / "process.json"
    if file.is_file():
        pid, started = json.loads(file.read_text(encoding="utf-8"))
        if psutil.pid_exists(pid) and psutil.Process(pid).create_time() == started:
            raise RunError(f"Expected no run in {out}, but process {pid} still trains there; wait for it or stop it.")


def require_same(out: Path, before: list[str], now: list[str]) -> None:
    """Raise `RunError` if a run had other arguments before than now. The order does not matter."""
    ours, theirs = ([" ".join(option) for option in options_of(each)] for each in (now, before))
    if sorted(ours) != sorted(theirs):
        more = ", ".join(option for option in theirs if option not in ours) or "none"
        less = ", ".join(option for option in ours if option not in theirs) or "none"
        raise RunError(
            f"Expected the run in {out} to have the arguments of this command, but it has {more} in place of {less}; "
            "give another --output_dir."
        )


def measured(cell: Cell, runs: Runs, train: dict[str, Any] | None) -> dict[str, Any] | None:
    """
    The full result of a cell. A cell without a result is measured, or gives `None` with --only_report. Only this
    function reads the test split.
    """
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
    inferred = inferred_columns(script_args)
    if inferred is not None:
        script_args.complete(inferred)
    splits = load_splits(script_args, processor, cell.seed)
    lengthen_training(script_args, training_args, len(splits["train"]))
    history = json.loads((out / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    result = {
        "name": cell.name,
        "data": script_args.data_name,
        **cell.group,
        "seed": cell.seed,
        "learning_rate": training_args.learning_rate,
        "epochs": training_args.num_train_epochs,
        "arguments": flat(options_for(cell.method, runs.shared)),
        "train_samples": len(splits["train"]),
        "train_seconds": train["train_seconds"] if train["train_resumed"] == 0 else None,
        "peak_memory_mib": train["train_peak_memory_mib"],
        runs.selected_by: train[runs.selected_by],
        "rho": next((entry["rho"] for entry in reversed(history) if "rho" in entry), None),
    }
    if runs.problem_type != SINGLE_LABEL:
        result["problem_type"] = runs.problem_type
    collator = build_collator(script_args, processor)
    result |= modality_report(model, collator, splits, training_args.per_device_eval_batch_size, cell.seed)
    write_json(file, result)
    return result


# ---- Writing ----


def write_report(folder: Path, results: list[dict[str, Any]]) -> None:
    """
    Write `results.jsonl`, `results.md`, `curves-<fusion>.png` for each fusion head, and `<argument>-<fusion>.png` for
    each argument that was varied.
    """
    lines = [json.dumps(result, ensure_ascii=False) + "\n" for result in results]
    write_whole(folder / "results.jsonl", "".join(lines))
    (folder / "results.md").write_text(table_of(results), encoding="utf-8")
    fused = [result for result in results if not result["method"].startswith("unimodal")]
    for fusion in sorted({result["fusion"] for result in fused} or {"concat"}):
        plot_curves(folder, fusion, results)
        settings = [
            result["setting"] for result in fused if result["fusion"] == fusion and result["setting"] is not None
        ]
        for argument in sorted({setting.partition("=")[0] for setting in settings}):
            plot_varied(folder, fusion, argument, results)


if __name__ == "__main__":
    run_script(main, "Stopped. The same command continues with the run that was stopped.")
