"""Lists in messages and cards, which stay short however long the list is."""

from collections.abc import Collection
from itertools import islice
from typing import Any


def shortened(values: Collection[Any], most: int = 10) -> str:
    """The list as Python prints it, or its first `most` values and its length: `['a', 'b', ... (5000 in all)]`."""
    first = list(islice(values, most))
    if len(values) <= most:
        return str(first)
    return f"{str(first)[:-1]}, ... ({len(values)} in all)]"
