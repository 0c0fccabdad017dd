"""Named terms of the training loss, summed on the device and read once per log."""

import torch
from accelerate import Accelerator

from ..model.exact_sums import add, value_of, zero_sum


class TermSums:
    """
    Sums and counts of named terms since the last log.

    Adding to them never waits for the device. [`TermSums.totals`] waits for it once, whatever the number of terms.
    """

    def __init__(self):
        # Exact sums and counts (2, T) on the device, under the T names that are added together
        self._groups: dict[tuple[str, ...], torch.Tensor] = {}

    def add(self, names: tuple[str, ...], sums: torch.Tensor, counts: torch.Tensor) -> None:
        """Add the sums (T,) and counts (T,) of a step to the T terms `names`."""
        step = torch.stack([sums.detach().float(), counts.float()])
        if names not in self._groups:
            self._groups[names] = zero_sum(step.shape, step.device)
        add(self._groups[names], step)

    def totals(self, accelerator: Accelerator) -> dict[str, tuple[float, float]]:
        """The sum and count of each term over all processes, by name. All processes must call this method."""
        if not self._groups:
            return {}
        names = [name for group in self._groups for name in group]
        sums, counts = value_of(accelerator.reduce(torch.cat(list(self._groups.values()), dim=-1), "sum")).tolist()
        return {name: (total, count) for name, total, count in zip(names, sums, counts, strict=True)}

    def clear(self) -> None:
        """Remove all terms."""
        self._groups = {}
