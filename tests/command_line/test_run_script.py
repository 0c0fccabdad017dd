"""How a script ends: an error for the user is one sentence."""

import sys

import pytest

from pmr_hf.command_line.run_script import run_script


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (ValueError("Expected a, got b; do c."), True),
        (FloatingPointError("Expected finite losses"), True),
        (FileNotFoundError("no such table"), True),
        (ValueError("not enough values to unpack"), False),
        (KeyError("Expected"), False),
    ],
)
def test_an_error_for_the_user_ends_with_its_sentence(error, shown, monkeypatch):
    def main():
        raise error

    monkeypatch.setattr(sys, "argv", ["run_pmr.py"])
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(SystemExit if shown else type(error)) as stopped:
        run_script(main)
    assert not shown or stopped.value.code == f"{type(error).__name__}: {error}"
    monkeypatch.setenv("WORLD_SIZE", "2")  # torchrun collects the tracebacks
    with pytest.raises(type(error)):
        run_script(main)
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setattr(sys, "argv", ["run_pmr.py", "--verbose"])
    with pytest.raises(type(error)):
        run_script(main)
