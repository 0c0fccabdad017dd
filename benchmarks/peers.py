"""
Compare pmr_hf with AutoGluon's multimodal predictor on one table with the same encoders.

    python benchmarks/prepare_openclipart.py clip_art --image_size 96
    python -m venv autogluon && autogluon/bin/pip install autogluon.multimodal==1.6.3
    python benchmarks/peers.py clip_art --peer_python autogluon/bin/python

Each run is a process of its own with one thread and no data workers, and the two tools run in turn. The script measures
both in the same way, from outside: the end of each optimizer step by a hook of torch, and the memory of all processes
of a run once a second. It appends a line for each run to `results.jsonl` in --output_dir and skips the runs that
have one. Without AutoGluon, pmr_hf runs alone.
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil  # installed with accelerate
from peers_clock import user_lines


HERE = Path(__file__).resolve().parent
OURS, PEER = "pmr_hf", "AutoGluon"
SCRIPTS = {OURS: HERE / "peers_pmr_hf.py", PEER: HERE / "peers_autogluon.py"}
COLUMNS = {  # title of a column: the measure, and how many digits it has
    "test accuracy": ("accuracy", 3),
    "samples/s": ("samples_per_second", 1),
    "samples per CPU second": ("samples_per_cpu_second", 1),
    "with validation": ("samples_per_cpu_second_overall", 1),
    "first step, s": ("seconds_to_first_step", 0),
    "memory, MiB": ("peak_memory_mib", 0),
    "lines": ("lines", 0),
}

Run = dict[str, Any]


def has_autogluon(python: str) -> bool:
    """Whether a Python can import AutoGluon's multimodal predictor. It prints why not."""
    command = [python, "-c", "import autogluon.multimodal"]
    try:
        result = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        why = str(error)
    else:
        if result.returncode == 0:
            return True
        why = result.stderr.strip().splitlines()[-1]
    print(f"pmr_hf runs alone, since {python} cannot import autogluon.multimodal: {why}", flush=True)
    return False


def order_of_runs(seeds: list[int], tools: list[str]) -> list[tuple[int, str]]:
    """The runs in turn: the tool that begins changes from seed to seed."""
    return [(seed, tool) for i, seed in enumerate(seeds) for tool in (tools if i % 2 == 0 else tools[::-1])]


def measures(rows: int, batch: int, started: float, wall: list[float], cpu: list[float]) -> Run:
    """
    The speed of a run.

    Args:
        rows (`int`): number of training rows.
        batch (`int`): samples of a step; the last step of an epoch has the rest of the rows.
        started (`float`): when the process started, in seconds since 1970.
        wall (`list[float]`): the end of each optimizer step, in seconds since 1970.
        cpu (`list[float]`): the same, in seconds that the process has spent on the CPU.

    Raises:
        ValueError: if there are fewer than two steps.
    """
    if len(wall) < 2:
        raise ValueError(f"Expected two steps or more to measure, got {len(wall)}; take more rows or a smaller batch.")
    steps_of_epoch = -(-rows // batch)
    sizes = [batch if i % steps_of_epoch else rows - batch * (steps_of_epoch - 1) for i in range(1, len(wall) + 1)]

    def middle(times: list[float]) -> float:
        return statistics.median(after - before for before, after in itertools.pairwise(times))

    return {
        "samples_per_second": batch / middle(wall),
        "samples_per_cpu_second": batch / middle(cpu),
        "samples_per_cpu_second_overall": sum(sizes[1:]) / (cpu[-1] - cpu[0]),
        "seconds_to_first_step": wall[0] - started,
        "steps": len(wall),
    }


def memory(process: psutil.Process) -> int:
    """Bytes that a process and its children hold now, with each shared page divided among those that share it."""
    held = 0
    for part in [process, *process.children(recursive=True)]:
        try:
            held += part.memory_full_info().pss
        except psutil.NoSuchProcess:  # it has just ended
            continue
    return held


def run_tool(tool: str, python: str, settings: Run, log: Path) -> Run:
    """
    One run in a process of its own.

    Raises:
        RuntimeError: if it fails.
    """
    folder, peak = Path(settings["folder"]), 0
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [python, str(SCRIPTS[tool]), json.dumps(settings)]
    started = time.time()
    with log.open("w", encoding="utf-8") as output:
        process = psutil.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        while process.poll() is None:
            peak = max(peak, memory(process))
            time.sleep(1)
    if process.returncode != 0:
        raise RuntimeError(f"Expected the run of {tool} to end well, got exit code {process.returncode}; see {log}.")
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    rows = len(Path(settings["table"], "train.jsonl").read_text(encoding="utf-8").splitlines())
    shutil.rmtree(folder)  # the model
    return {
        "tool": tool,
        **{name: settings[name] for name in ("seed", "epochs", "batch")},
        "rows": rows,
        "accuracy": facts["accuracy"],
        **measures(rows, settings["batch"], started, facts["wall"], facts["cpu"]),
        "peak_memory_mib": peak / 2**20,
        "seconds": time.time() - started,
        "lines": user_lines(SCRIPTS[tool]),
        "versions": facts["versions"],
    }


def finished_runs(file: Path) -> list[Run]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def table(runs: list[Run]) -> str:
    """A Markdown table: mean and standard deviation over the seeds of each tool, and the ratio of the means."""
    by_tool = {tool: [run for run in runs if run["tool"] == tool] for tool in SCRIPTS}
    by_tool = {tool: of_tool for tool, of_tool in by_tool.items() if of_tool}
    lines = [f"| mean of the seeds | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for tool, of_tool in by_tool.items():
        cells = []
        for measure, digits in COLUMNS.values():
            values = [run[measure] for run in of_tool]
            spread = f" ± {statistics.stdev(values):.{digits}f}" if len(set(values)) > 1 else ""
            cells.append(f"{statistics.mean(values):.{digits}f}{spread}")
        lines.append(f"| {tool} | {' | '.join(cells)} |")
    if len(by_tool) == 2:
        ours, theirs = (
            [statistics.mean(run[measure] for run in by_tool[tool]) for measure, _ in COLUMNS.values()]
            for tool in (OURS, PEER)
        )
        ratios = [f"{a / b:.2f}" for a, b in zip(ours, theirs, strict=True)]
        lines.append(f"| {OURS} / {PEER} | {' | '.join(ratios)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="folder that prepare_openclipart.py wrote")
    parser.add_argument("--peer_python", required=True, help="the Python of the environment that has AutoGluon")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32, help="samples of a step")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/peers"))
    args = parser.parse_args()
    pythons = {OURS: sys.executable}
    if has_autogluon(args.peer_python):
        pythons[PEER] = args.peer_python
    args.output_dir.mkdir(parents=True, exist_ok=True)
    results = args.output_dir / "results.jsonl"
    common = {"epochs": args.epochs, "batch": args.batch}
    for seed, tool in order_of_runs(args.seeds, list(pythons)):
        wanted = {"tool": tool, "seed": seed} | common
        if any(all(run[name] == value for name, value in wanted.items()) for run in finished_runs(results)):
            continue
        folder = args.output_dir.resolve() / f"{tool}-{seed}"
        settings = {"table": str(args.table.resolve()), "seed": seed, "folder": str(folder)} | common
        run = run_tool(tool, pythons[tool], settings, args.output_dir / f"{tool}-{seed}.log")
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(run) + "\n")
        print(f"{tool}, seed {seed}: {run['accuracy']:.3f}, {run['seconds']:.0f} s", flush=True)
    kept = [run for run in finished_runs(results) if {name: run[name] for name in common} == common]
    print(f"\n{table([run for run in kept if run['seed'] in args.seeds and run['tool'] in pythons])}")


if __name__ == "__main__":
    main()
