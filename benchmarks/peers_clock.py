"""What both tools of `peers.py` are measured with. It needs torch alone, so it runs in the environment of either."""

import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook


class Clock:
    """
    The end of each optimizer step of this process: by the clock on the wall, in seconds since 1970, and by the seconds
    that all of its threads have spent on the CPU, which other processes hardly change.
    """

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []
        register_optimizer_step_post_hook(self.stamp)

    def stamp(self, *_: Any) -> None:
        self.wall.append(time.time())
        self.cpu.append(time.process_time())

    def write(self, file: Path, accuracy: float, packages: list[str]) -> None:
        """Write the steps, the test accuracy and the versions of packages as JSON."""
        versions = {package: version(package) for package in packages}
        facts = {"accuracy": accuracy, "wall": self.wall, "cpu": self.cpu, "versions": versions}
        file.write_text(json.dumps(facts), encoding="utf-8")


def user_lines(script: Path) -> int:
    """Number of lines between the two comments of a script that mark what a user writes, without empty ones."""
    text = script.read_text(encoding="utf-8")
    written = text.split("# A user writes\n")[1].split("# until here\n")[0]
    return sum(bool(line.strip()) for line in written.splitlines())
