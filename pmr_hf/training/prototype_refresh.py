"""When the prototypes are refreshed, and from which samples (Algorithm 1 of PMR)."""

import math
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.utils import logging

from ..data.collator import integer_labels
from ..model.prototypes import Prototypes, Sums
from .counted_samples import first_samples, present_samples
from .random_state import isolated_random_state
from .segments import by_segment


if TYPE_CHECKING:
    from .prototype_trainer import PrototypeTrainer

logger = logging.get_logger(__name__)


class RefreshPrototypes(TrainerCallback):
    """Calls `trainer.refresh_prototypes()` on the schedule of Algorithm 1, or on the schedule in the arguments."""

    def __init__(self, trainer: "PrototypeTrainer"):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        # This is also called when a run resumes within an epoch. It then keeps the prototypes of the checkpoint.
        whole = float(state.epoch or 0).is_integer()
        if args.prototype_source == "subset" and self.trainer.refresh_steps is None and whole:
            self.trainer.refresh_prototypes()

    def on_step_begin(self, args, state, control, **kwargs):
        steps = self.trainer.refresh_steps
        if args.prototype_source == "subset" and steps is not None and state.global_step % steps == 0:
            self.trainer.refresh_prototypes()

    def on_step_end(self, args, state, control, **kwargs):
        # This runs before the evaluation and the checkpoint of the step, so that both have the new prototypes.
        steps = self.trainer.refresh_steps
        due = float(state.epoch).is_integer() if steps is None else state.global_step % steps == 0
        if args.prototype_source == "online" and due:
            self.trainer.refresh_prototypes()

    def on_train_end(self, args, state, control, **kwargs):
        if args.prototype_source == "subset":
            # Without momentum, the saved prototypes belong to the saved encoders.
            self.trainer.refresh_prototypes(momentum=0.0)
        elif not args.load_best_model_at_end:  # the best model has its own prototypes
            self.trainer.refresh_prototypes()


def draw_rows(dataset_size: int, fraction: float, seed: int) -> list[int]:
    """Draw the indices of a share of the training set, at least one row, from a seed. `fraction` is in (0, 1]."""
    rows = torch.randperm(dataset_size, generator=torch.Generator().manual_seed(seed))
    return rows[: math.ceil(fraction * dataset_size)].tolist()


def rows_of_process(rows: list[int], processes: int, index: int) -> tuple[list[int], int]:
    """
    The rows that one of n processes embeds, which are every n-th row, and the number of these rows that count. Sharded
    models need the same number of batches in each process. The last row may therefore repeat another one, and then does
    not count.
    """
    own = [rows[(index + i) % len(rows)] for i in range(0, len(rows), processes)]
    return own, len(rows[index::processes])


def sums_of_subset(trainer: "PrototypeTrainer", seed: int) -> Sums:
    """
    Embed this process's part of the rows that prototypes are taken from in evaluation mode, and return the class sums.
    These are all rows of `prototype_dataset` if the trainer has one, and a random subset of the training set otherwise.
    No random state is changed.

    Raises:
        ValueError: for a batch without labels, or labels that are not integers in 0..K-1.
    """
    args, model, prototypes = trainer.args, trainer.model, trainer.prototypes
    if trainer.prototype_dataset is None:
        dataset, fraction = trainer.train_dataset, args.prototype_fraction
    else:
        dataset, fraction = trainer.prototype_dataset, 1.0
    rows = draw_rows(len(dataset), fraction, seed)
    rows, new = rows_of_process(rows, args.world_size, args.process_index)
    sums, done = prototypes.zero_sums(), 0
    was_training = model.training
    model.eval()
    with isolated_random_state(seed, args.device), torch.no_grad():
        loader = DataLoader(
            Subset(dataset, rows),
            batch_size=trainer.state.train_batch_size or args.train_batch_size,
            collate_fn=trainer.data_collator,
            num_workers=args.dataloader_num_workers,
        )
        for inputs in tqdm(loader, desc="Prototypes", leave=False, disable=trainer.hide_progress):
            trainer.require_labels(inputs)
            integer_labels(inputs["labels"], prototypes.num_labels, segments=True)  # still on the CPU
            inputs = trainer._prepare_inputs(inputs)
            labels = inputs["labels"]
            with trainer.compute_loss_context_manager():
                outputs = trainer.run_model(model, inputs)
            counted = first_samples(new - done, labels, present_samples(outputs), prototypes.widths)
            prototypes.class_sums(*by_segment(trainer.embeddings_fn(outputs), labels, counted), sums)
            done += len(labels)
    model.train(was_training)
    return sums


def warn_of_unseen_classes(prototypes: Prototypes, before: dict[str, list[int]], show: bool) -> dict[str, list[int]]:
    """
    Log a warning about classes without a prototype, unless they are the same as `before`. Only a process with `show`
    logs it. Returns these classes by modality.
    """
    unseen = {name: (~prototypes.seen(name)).nonzero()[:, 0].tolist() for name in prototypes.widths}
    for name, classes in unseen.items():
        if show and classes and classes != before.get(name):
            logger.warning(
                f"Classes {classes} have no prototype of {name!r} yet, because no training sample of these classes "
                f"with {name!r} was drawn. The PMR terms of {name!r} ignore samples of these classes until then; "
                "raise `prototype_fraction` or the steps between two refreshes, or add rows to `prototype_dataset`."
            )
    return unseen
