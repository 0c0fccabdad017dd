"""The scripts in `examples/`: the folder, to start them, and their modules, to call their functions."""

import importlib
import sys
from pathlib import Path


EXAMPLES = Path(__file__).parents[2] / "examples"


def load_example(name):
    """Import an example as a module; it can import the other examples, as it can when it is run."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(EXAMPLES))
