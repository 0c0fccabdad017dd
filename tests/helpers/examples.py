"""The scripts of `examples/`, as modules and as files to start."""

import importlib
import sys
from pathlib import Path


EXAMPLES = Path(__file__).parents[2] / "examples"


def load_example(name):
    """The module of an example, which finds its neighbours as it does when it is started."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(EXAMPLES))
