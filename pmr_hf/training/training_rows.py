"""Training rows that carry what their random draws depend on, so that the collator varies only these rows."""

from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback

from ..data.augmentation import DRAW


class TrainingRows(Dataset):
    """
    The rows of a map-style dataset, each with the seed, the epoch and its index under the key [`DRAW`]. What the
    collator draws for a row is thereby the same in any process and data worker, and after resuming.

    Args:
        dataset: the rows, dicts.
        seed (`int`): the seed of the run.
        epoch (`torch.Tensor`): () int64 in shared memory, since data workers may live for several epochs.
    """

    def __init__(self, dataset: Any, seed: int, epoch: torch.Tensor):
        self.dataset = dataset
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self._marked(i, self.dataset[i])

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        return [self._marked(i, row) for i, row in zip(indices, rows_at(self.dataset, indices), strict=True)]

    def _marked(self, i: int, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, DRAW: (self.seed, int(self.epoch), i)}


def rows_at(dataset: Any, indices: list[int]) -> list[Any]:
    """Some rows of a map-style dataset, read at once if it has `__getitems__`, as in `torch.utils.data`."""
    read = getattr(dataset, "__getitems__", None)
    return [dataset[i] for i in indices] if read is None else read(indices)


class CountEpochs(TrainerCallback):
    """Keeps the epoch of the training in `epoch`, () int64 in shared memory."""

    def __init__(self):
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def on_epoch_begin(self, args, state, control, **kwargs):
        # `Trainer` calls this before the first row of an epoch is read. If a run resumes within an epoch, `state.epoch`
        # is a fraction. `set_epoch` of Accelerate's dataloaders does not always reach the dataset.
        self.epoch.fill_(int(state.epoch or 0))
