"""Cases of a test of which some run by default, and the others, their relatives, with `pytest -m slow`."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def slow_but(default: Collection[str], cases: Iterable[Any], ids: Iterable[str]) -> list[Any]:
    """
    The cases of `pytest.mark.parametrize`, each with its id. Those whose id is not in `default` are slow. A case is a
    tuple of arguments, or the only argument.
    """
    cases, ids = list(cases), list(ids)
    assert set(default) <= set(ids), f"{set(default) - set(ids)} are no cases"
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), id=name, marks=[pytest.mark.slow] * slow)
        for case, name, slow in ((case, name, name not in default) for case, name in zip(cases, ids, strict=True))
    ]
