"""The scripts in `benchmarks/`, as modules."""

import importlib
import sys
from pathlib import Path


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load_benchmark(name):
    """Import a benchmark as a module; it can import the files beside it, as it can when it is run."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))
