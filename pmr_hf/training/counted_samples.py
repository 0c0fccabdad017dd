"""
Masks of the samples that count in a batch.

A sample is *present* in a modality if it has that modality. A sample is *counted* if it is present, and does not only
repeat another sample to fill the last batch of several processes. Each modality has one mask (B,) bool. `None` in place
of the masks stands for all samples of all modalities.
"""

from collections.abc import Iterable
from typing import Any

import torch
from accelerate import Accelerator

from ..model.missing_modalities import Masks
from ..model.modeling import MultimodalOutput
from ..model.targets import MULTI_LABEL, REGRESSION, SINGLE_LABEL


def present_samples(outputs: Any) -> Masks | None:
    """The masks (B,) bool of the samples that have each modality, from the output of a model."""
    return outputs.present if isinstance(outputs, MultimodalOutput) else None


def first_samples(count: int, labels: torch.Tensor, present: Masks | None, modalities: Iterable[str]) -> Masks | None:
    """Restrict the masks `present` (B,) to the first `count` samples of a batch, whose labels (B, ...) give B."""
    if count >= len(labels):
        return present
    first = torch.arange(len(labels), device=labels.device) < count
    return {name: first if present is None else first & present[name] for name in modalities}


def count_new_samples(accelerator: Accelerator, batch_size: int, dataset_size: int | None, drop_last: bool) -> int:
    """
    Count the new samples in this process's batch. They come first. The other samples repeat earlier ones, so that the
    last batch has the same size in all processes.

    Args:
        accelerator (`Accelerator`): knows whether the batch is the last one.
        batch_size (`int`): number of samples in the batch, including repeated ones.
        dataset_size (`int`, *optional*): number of samples in the training set, or `None` for a stream.
        drop_last (`bool`): whether an incomplete last batch is dropped.

    Returns:
        `int`: at most 0 if all samples are repeated, and at least `batch_size` if all are new.
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
    # The first `remainder` samples of the last batch are new, counted over the processes in order.
    return remainder - accelerator.process_index * batch_size


def guesses_of(name: str, logits: torch.Tensor, outputs: Any, problem_type: str = SINGLE_LABEL) -> torch.Tensor:
    """
    What the logits (B, K), or (B, T, K) for segments, of the modality `name` predict: the classes (B,) or (B, T); a 0
    or 1 for each of several labels, (B, K); or numbers, which are the logits (B, R). A sample without this modality
    gets -1, or NaN in a regression.
    """
    guesses = {SINGLE_LABEL: logits.argmax(-1), MULTI_LABEL: (logits > 0).long(), REGRESSION: logits}[problem_type]
    present = present_samples(outputs)
    if present is None:
        return guesses
    mask = present[name] if guesses.dim() == 1 else present[name][:, None]
    return torch.where(mask, guesses, torch.nan if problem_type == REGRESSION else -1)
