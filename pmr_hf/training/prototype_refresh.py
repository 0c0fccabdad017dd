"""
When the prototypes are refreshed, and from which samples (Algorithm 1 of PMR). The refresh itself is
`PrototypeTrainer.refresh_prototypes`.
"""

from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback
from transformers.utils import logging

from ..model.prototypes import Prototypes, Sums
from .counted_samples import first_samples, present_samples
from .row_pass import pass_over_rows


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


def sums_of_subset(trainer: "PrototypeTrainer", seed: int) -> Sums:
    """
    Embed this process's part of the rows that prototypes are taken from, and return the class sums. The model is in
    evaluation mode. [`PrototypeRows`] draws these rows with the seed. No random state is changed.

    Raises:
        ValueError: for a batch without labels, or labels that are not integers in 0..K-1.
    """
    source, prototypes = trainer.prototype_rows, trainer.prototypes
    fraction = trainer.args.prototype_fraction if trainer.prototype_dataset is None else 1.0
    sums = prototypes.zero_sums()

    def add(outputs: Any, labels: torch.Tensor, new: int) -> None:
        counted = first_samples(new, labels, present_samples(outputs), prototypes.widths)
        prototypes.class_sums(*trainer.by_sample(trainer.embeddings_fn(outputs), labels, counted), sums)

    pass_over_rows(trainer, source.dataset, source.draw(fraction, seed), add, seed, "Prototypes")
    return sums


def warn_of_unseen_classes(
    prototypes: Prototypes, class_names: dict[int, str], before: dict[str, list[int]], show: bool
) -> dict[str, list[int]]:
    """
    Log a warning about classes without a prototype. It is repeated only if further classes have none, or if at most
    half of the classes in the last warning, `before`, still have none. Only a process with `show` logs it.
    `class_names` may name the classes. Returns the classes in the last warning by modality.
    """
    unseen = {name: (~prototypes.seen(name)).nonzero()[:, 0].tolist() for name in prototypes.widths}
    number, last = sum(map(len, unseen.values())), sum(map(len, before.values()))
    further = any(set(classes) - set(before.get(name, ())) for name, classes in unseen.items())
    if number == 0 or not (further or 2 * number <= last):
        return before
    if show:
        lines = [
            f"{name!r} has none of {len(classes)}: {', '.join(class_names.get(k, str(k)) for k in classes[:5])}"
            + (", ..." if len(classes) > 5 else "")
            for name, classes in unseen.items()
            if classes
        ]
        common = prototypes.common_classes()
        logger.warning(
            "Some classes have no prototype yet, because no row of them with that modality was drawn "
            f"({'; '.join(lines)}). The terms of a modality leave these classes out, and the modalities are compared "
            f"over the {int(common.sum())} of {len(common)} classes that all of them have. Add rows if there are any, "
            "or raise `prototype_fraction`."
        )
    return unseen
