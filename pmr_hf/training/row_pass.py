"""A pass of the model over some rows in evaluation mode, which leaves the training as it was."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm.auto import tqdm

from ..data.labels import integer_labels
from ..data.random_state import isolated_random_state
from ..model.targets import SINGLE_LABEL
from .prototype_rows import rows_of_process


if TYPE_CHECKING:
    from .prototype_trainer import PrototypeTrainer


def pass_over_rows(
    trainer: "PrototypeTrainer",
    dataset: Dataset,
    rows: list[int],
    on_batch: Callable[[Any, torch.Tensor, int], None],
    seed: int,
    title: str,
) -> None:
    """
    Run the model on this process's part of the rows, see [`rows_of_process`], in evaluation mode and without gradients.
    No random state is changed, and the model is put back into the mode that it had.

    Args:
        trainer (`PrototypeTrainer`): the trainer, whose collator and model read the rows.
        dataset (`Dataset`): a labelled dataset.
        rows (`list[int]`): indices of the dataset.
        on_batch (`Callable`): is called with the model's output, the labels of the batch, and the number of its first
            samples that count. The others repeat a row to fill up the process.
        seed (`int`): the seed of whatever the collator or the model draws.
        title (`str`): the title of the progress bar.

    Raises:
        ValueError: for a batch without labels, or classes that are not integers in 0..K-1.
    """
    args, model = trainer.args, trainer.model
    own, left = rows_of_process(rows, args.world_size, args.process_index)
    was_training = model.training
    model.eval()
    with isolated_random_state(seed, args.device), torch.no_grad():
        loader = DataLoader(
            Subset(dataset, own),
            batch_size=trainer.state.train_batch_size or args.train_batch_size,
            collate_fn=trainer.data_collator,
            num_workers=args.dataloader_num_workers,
        )
        for inputs in tqdm(loader, desc=title, leave=False, disable=trainer.hide_progress):
            trainer.require_labels(inputs)
            if trainer.problem_type == SINGLE_LABEL:
                integer_labels(inputs["labels"], trainer.num_labels, segments=True)  # still on the CPU
            inputs = trainer._prepare_inputs(inputs)
            labels = inputs["labels"]
            with trainer.compute_loss_context_manager():
                outputs = trainer.run_model(model, inputs)
            on_batch(outputs, labels, max(0, min(len(labels), left)))
            left -= len(labels)
    model.train(was_training)
