"""Named terms of the training loss, summed on the device and read once per log."""

import torch
from accelerate import Accelerator

from ..model.exact_sums import add, value_of, zero_sum


# Number of steps that are added up together, in a few operations for all of them in place of a few for each
AT_ONCE = 32


class TermSums:
    """
    Sums and counts of named terms since the last log.

    Adding to them never waits for the device. [`TermSums.totals`] waits for it once, whatever the number of terms.
    """

    def __init__(self):
        # Under the T names that are added together: the latest steps (2, T), and the exact sum (2, T) of those before
        self._steps: dict[tuple[str, ...], list[torch.Tensor]] = {}
        self._totals: dict[tuple[str, ...], torch.Tensor] = {}

    def add(self, names: tuple[str, ...], sums: torch.Tensor, counts: torch.Tensor) -> None:
        """Add the sums (T,) and counts (T,) of a step to the T terms `names`."""
        steps = self._steps.setdefault(names, [])
        steps.append(torch.stack([sums.detach().float(), counts.float()]))
        if len(steps) == AT_ONCE:
            self._add_up(names)

    def _add_up(self, names: tuple[str, ...]) -> None:
        steps = self._steps[names]
        if not steps:
            return
        total = self._totals.setdefault(names, zero_sum(steps[0].shape, steps[0].device))
        add(total, torch.stack(steps))
        steps.clear()

    def totals(self, accelerator: Accelerator) -> dict[str, tuple[float, float]]:
        """The sum and count of each term over all processes, by name. All processes must call this method."""
        if not self._steps:
            return {}
        for group in self._steps:
            self._add_up(group)
        names = [name for group in self._steps for name in group]
        parts = torch.cat([self._totals[group] for group in self._steps], dim=-1)
        sums, counts = value_of(accelerator.reduce(parts, "sum")).tolist()
        return {name: (total, count) for name, total, count in zip(names, sums, counts, strict=True)}

    def clear(self) -> None:
        """Remove all terms."""
        self._steps, self._totals = {}, {}
