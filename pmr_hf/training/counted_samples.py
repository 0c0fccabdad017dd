"""
Which samples of a batch count.

Two words are used throughout: a sample is *present* in a modality if it has that modality, and *counted* if it is
present and not a repetition that fills the last batch of several processes. Both are masks (B,) bool by modality, and
`None` stands for all samples of all modalities.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate import Accelerator

from ..model.modeling import MultimodalOutput


Masks = Mapping[str, torch.Tensor]


def present_samples(outputs: Any) -> Masks | None:
    """The samples (B,) that have each modality, by a model's output."""
    return outputs.present if isinstance(outputs, MultimodalOutput) else None


def first_samples(count: int, labels: torch.Tensor, present: Masks | None, modalities: Iterable[str]) -> Masks | None:
    """The present samples among the first `count` of a batch with these labels (B, ...)."""
    if count >= len(labels):
        return present
    first = torch.arange(len(labels), device=labels.device) < count
    return {name: first if present is None else first & present[name] for name in modalities}


def count_new_samples(accelerator: Accelerator, batch_size: int, dataset_size: int | None, drop_last: bool) -> int:
    """
    How many samples of this process's batch are new: the first ones. The others repeat samples, so that the last batch
    is as large in all processes.

    Args:
        accelerator (`Accelerator`): knows whether the batch is the last one.
        batch_size (`int`): samples of the batch, repeated ones included.
        dataset_size (`int`, *optional*): samples of the training set; `None` if it streams.
        drop_last (`bool`): whether the last batch is left out where it is not full.
    """
    processes, state = accelerator.num_processes, accelerator.gradient_state
    is_last = state.end_of_dataloader and accelerator.sync_gradients
    if processes == 1 or drop_last or not is_last:
        return batch_size
    remainder = state.remainder
    if remainder < 0 and dataset_size is not None:
        remainder = dataset_size % (processes * batch_size)  # Accelerate loses it in a resumed epoch
    if remainder <= 0:
        return batch_size
    # `remainder` samples of the last batch of all processes are new, those of the first processes first.
    return remainder - accelerator.process_index * batch_size


def classes_of(name: str, logits: torch.Tensor, outputs: Any) -> torch.Tensor:
    """Classes (B,), or (B, T) of segments, predicted by the logits of one modality; -1 for a sample without it."""
    present, classes = present_samples(outputs), logits.argmax(-1)
    if present is None:
        return classes
    return torch.where(present[name] if classes.dim() == 1 else present[name][:, None], classes, -1)
