"""The scripts in `examples/` and `benchmarks/`: the folders, to run them, and modules, to call their functions."""

import importlib
import sys
from functools import cache
from pathlib import Path

from helpers.preloaded import Preloaded


EXAMPLES = Path(__file__).parents[2] / "examples"
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@cache
def preloaded():
    """A process that has imported what the scripts import. It starts when a test first needs it."""
    return Preloaded("pmr_hf", "pmr_hf.command_line.prepare", "matplotlib.pyplot", "sklearn.linear_model")


def run_example(name, *arguments, cwd=None):
    """
    Run a script of `examples/` in a process of its own, as `subprocess.run` does. The process is a fork of one that has
    imported what the scripts import, which takes most of the time of a short script.
    """
    return run_in_fork(EXAMPLES / name, *arguments, cwd=cwd)


def run_in_fork(script, *arguments, cwd=None):
    """Like `run_example`, of any script."""
    return preloaded().run([script, *arguments], cwd)


def load_example(name, folder=EXAMPLES):
    """Import a script as a module; it can import those beside it, as it can when it is run."""
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


def load_benchmark(name):
    return load_example(name, BENCHMARKS)
