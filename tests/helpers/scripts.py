"""The scripts in `examples/` and `benchmarks/`: the folders, to start them, and modules, to call their functions."""

import importlib
import sys
from pathlib import Path


EXAMPLES = Path(__file__).parents[2] / "examples"
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load_example(name, folder=EXAMPLES):
    """Import a script as a module; it can import those beside it, as it can when it is run."""
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


def load_benchmark(name):
    return load_example(name, BENCHMARKS)
