"""The schedule of the prototypes' refresh, and the samples that it takes (Algorithm 1 of PMR)."""

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
    """Calls `trainer.refresh_prototypes()` when Algorithm 1, or the arguments, ask for it."""

    def __init__(self, trainer: "PrototypeTrainer"):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        # A run that resumes in the middle of an epoch also begins it; it keeps the prototypes of the checkpoint.
        whole = float(state.epoch or 0).is_integer()
        if args.prototype_source == "subset" and self.trainer.refresh_steps is None and whole:
            self.trainer.refresh_prototypes()

    def on_step_begin(self, args, state, control, **kwargs):
        steps = self.trainer.refresh_steps
        if args.prototype_source == "subset" and steps is not None and state.global_step % steps == 0:
            self.trainer.refresh_prototypes()

    def on_step_end(self, args, state, control, **kwargs):
        # This comes before the step's evaluation and checkpoint, so that both have the new prototypes.
        steps = self.trainer.refresh_steps
        due = float(state.epoch).is_integer() if steps is None else state.global_step % steps == 0
        if args.prototype_source == "online" and due:
            self.trainer.refresh_prototypes()

    def on_train_end(self, args, state, control, **kwargs):
        if args.prototype_source == "subset":
            # Without momentum: the prototypes that are saved belong to the encoders that are saved.
            self.trainer.refresh_prototypes(momentum=0.0)
        elif not args.load_best_model_at_end:  # the best model has its own
            self.trainer.refresh_prototypes()


def draw_rows(dataset_size: int, fraction: float, seed: int) -> list[int]:
    """The rows of a share of the training set, at least one, drawn from a seed."""
    rows = torch.randperm(dataset_size, generator=torch.Generator().manual_seed(seed))
    return rows[: math.ceil(fraction * dataset_size)].tolist()


def rows_of_process(rows: list[int], processes: int, index: int) -> tuple[list[int], int]:
    """
    Every n-th row, for one of n processes, and how many of these rows count. Sharded models need the same number of
    batches in each process, so the last row may repeat another one and does not count then.
    """
    own = [rows[(index + i) % len(rows)] for i in range(0, len(rows), processes)]
    return own, len(rows[index::processes])


def sums_of_subset(trainer: "PrototypeTrainer", seed: int) -> Sums:
    """
    Class sums over this process's part of the rows that prototypes are taken from, embedded in evaluation mode: all
    rows of `prototype_dataset` if the trainer has one, else a drawn share of the training set. No random state is
    changed.
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
    Warn of classes without a prototype, unless the same ones were warned of `before`. Returns these classes by
    modality.
    """
    unseen = {name: (~prototypes.seen(name)).nonzero()[:, 0].tolist() for name in prototypes.widths}
    for name, classes in unseen.items():
        if show and classes and classes != before.get(name):
            logger.warning(
                f"Classes {classes} have no prototype of {name!r} yet, since no training sample of these classes that "
                f"has {name!r} was drawn. Until one is, samples of these classes count in no PMR term of {name!r}; "
                "raise `prototype_fraction`, or the steps between two refreshes."
            )
    return unseen
