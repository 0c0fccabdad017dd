"""The scripts in `examples/` and `benchmarks/`: the folders, to run them, and modules, to call their functions."""

import importlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path


EXAMPLES = Path(__file__).parents[2] / "examples"
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["pmr_hf", "pmr_hf.command_line.prepare", "matplotlib.pyplot", "sklearn.linear_model"])


def run_example(name, *arguments, cwd=None):
    """
    Run a script of `examples/` in a process of its own, as `subprocess.run` does. The process is a fork of one that has
    imported what the scripts import, which takes most of the time of a short script.
    """
    return run_in_fork(EXAMPLES / name, *arguments, cwd=cwd)


def run_in_fork(script, *arguments, cwd=None):
    """Like `run_example`, of any script."""
    command = [str(script), *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        out, err = (Path(folder) / part for part in ("out", "err"))
        process = SERVER.Process(target=_run, args=(command, str(cwd or os.getcwd()), dict(os.environ), out, err))
        process.start()
        process.join()
        return subprocess.CompletedProcess(command, process.exitcode, out.read_text("utf-8"), err.read_text("utf-8"))


def _run(command, cwd, environment, out, err):
    for path, number in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv, sys.path[0] = command, str(Path(command[0]).parent)
    runpy.run_path(command[0], run_name="__main__")


def load_example(name, folder=EXAMPLES):
    """Import a script as a module; it can import those beside it, as it can when it is run."""
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


def load_benchmark(name):
    return load_example(name, BENCHMARKS)
