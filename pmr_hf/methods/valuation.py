"""Sample-level modality valuation: oversample the modalities that contribute little to a sample's prediction."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import TrainerCallback

from ..data.collator import MultimodalCollator
from ..inference.shapley import shapley_values
from ..model.missing_modalities import all_present, stack_masks
from ..model.modeling import MultimodalModel
from ..model.targets import SINGLE_LABEL
from ..training.arguments import PrototypeTrainingArguments
from ..training.prototype_terms import PrototypeTerms
from ..training.prototype_trainer import PrototypeTrainer
from ..training.row_pass import pass_over_rows
from ..training.setup_checks import is_stream
from ..training.training_rows import TrainingRows, rows_at
from .method_checks import require_fusion_head, require_known_loss


VALUES_NAME = "modality_values.safetensors"
# The key of the row numbers in a training batch
ROWS = "__rows__"


@dataclass
class ValuationArguments(PrototypeTrainingArguments):
    """
    Arguments of [`ValuationTrainer`]. The class adds to [`PrototypeTrainingArguments`] when the training rows are
    valued, and how often a modality is sampled again.

    Args:
        valuation_rate (`float`, *optional*, defaults to `2.0`): the number of copies for each unit by which a
            contribution is below 1; at least 0. 2 gives the numbers of the authors' code: 1, 2 or 3 copies for a
            contribution of 0.5, 0 or -0.5.
        valuation_warmup_epochs (`int`, *optional*, defaults to `0`): the epochs of joint training before the first
            valuation, at least 0 and fewer than the training has. The authors' code has 5, of 60.
        valuation_epochs (`int`, *optional*, defaults to `1`): the epochs from one valuation to the next, at least 1.

    Raises:
        ValueError: if a value is outside its range.
    """

    valuation_rate: float = field(
        default=2.0, metadata={"help": "Copies of a modality for each unit by which its contribution is below 1."}
    )
    valuation_warmup_epochs: int = field(
        default=0, metadata={"help": "Epochs of joint training before the first valuation of the training rows."}
    )
    valuation_epochs: int = field(default=1, metadata={"help": "Epochs from one valuation to the next, at least 1."})

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least(0, "valuation_rate", "valuation_warmup_epochs")
        self.require_at_least(1, "valuation_epochs")

    def hp_space(self, trial: Any) -> dict[str, Any]:
        """Add `valuation_rate` from 0.25 to 4."""
        return super().hp_space(trial) | {"valuation_rate": trial.suggest_float("valuation_rate", 0.25, 4.0, log=True)}

    @property
    def hyper_parameters(self) -> dict[str, object]:
        return {
            "copies per unit of lacking contribution": self.valuation_rate,
            "epochs before the first valuation": self.valuation_warmup_epochs,
            "epochs between valuations": self.valuation_epochs,
        } | super().hyper_parameters


class ValuationTrainer(PrototypeTrainer):
    """
    Trainer that samples a modality m of a sample i again, with all other modalities masked, the more often the less it
    contributes to the prediction for the sample.

    The contribution phi_i^m is the Shapley value of m in the game v, where v(C) = |C| if the head predicts the class of
    the sample from the modalities C alone, and v(C) = 0 if it does not. A modality that contributes fully has phi = 1.
    Any other is sampled s_i^m = valuation_rate (1 - phi_i^m) times again. The training rows are valued in evaluation
    mode before an epoch; the encoders run once, and the head for each of the 2^M - 1 sets of modalities.

    The loss of a batch is the mean over its samples of L_i + sum_m s_i^m L_i^m. L_i is the fused loss, and L_i^m the
    loss of the same head if modality m is the only one. Once the rows are valued, training logs contain
    `m_contribution` and `m_copies`, the means of phi^m and s^m over the samples of the batches that have modality m.

    Deviations from the paper and its code, which values two modalities:

    * The copies of a sample are in its own batch, as weights s_i^m, and share its pass through the encoders, with its
      augmentation and dropout. The authors append them to the training set and shuffle, so an epoch has more steps.
      For given weights, the gradients of an epoch have the same sum: the authors have more batches, ours weigh more.
      Under Adam, which cancels the weight of a batch, or with clipped gradients, an epoch moves the weights less here.
    * The weight s_i^m needs no rounding. With two modalities, it is the authors' number of copies.
    * A learned vector replaces a masked modality, as for each missing modality in this package. The authors put zeros.
    * The game of a sample is played by the modalities that it has. It has no copy of a modality that it lacks, nor of
      its only one, which competes with none.
    * Rows are valued without the augmentation of the collator; the authors value augmented ones.
    * With several labels, v(C) is |C| times the share of the labels that are predicted.
    * The rows are valued before the first epoch already; in the code, five epochs have no copies.
    * The coarser variant of the paper, which samples one modality of random rows again, is left out.

    Wei, Feng, Wang, Hu, "Enhancing Multimodal Cooperation via Sample-level Modality Valuation", CVPR 2024.

    Args:
        model (`MultimodalModel`): the model.
        args (`ValuationArguments`): the arguments.
        kwargs: everything else that [`PrototypeTrainer`] takes, except `compute_loss_func`.

    Raises:
        ValueError: if the model is not a [`MultimodalModel`] that classifies, for a streaming training set, for a
            `compute_loss_func`, or under DeepSpeed; when training begins, if it has no epoch after the warm-up.
    """

    args_class = ValuationArguments
    needs_classes = True
    description = "Trained with [sample-level modality valuation](https://arxiv.org/abs/2309.06255), which samples "
    description += "modalities again that contribute little"
    citation = """@inproceedings{wei2024valuation,
    title     = {Enhancing Multimodal Cooperation via Sample-level Modality Valuation},
    author    = {Wei, Yake and Feng, Ruoxuan and Wang, Zihe and Hu, Di},
    booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
    year      = {2024},
}"""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        #: The contribution phi of each modality to each training row (M, N), and the copies s (M, N), once valued
        self.contributions: torch.Tensor | None = None
        self.copies: torch.Tensor | None = None
        self._batch_rows: torch.Tensor | None = None  # the rows (B,) of the batch
        self.add_callback(ValueRows(self))

    def on_new_model(self, model: nn.Module) -> None:
        """Prepare the model. Raises `ValueError` if its fusion head cannot be run again."""
        super().on_new_model(require_fusion_head(self, model))

    def check_setup(self) -> None:
        """Raise `ValueError` for a stream or a `compute_loss_func`, and for the errors of [`PrototypeTrainer`]."""
        require_known_loss(self)
        if self.train_dataset is not None and is_stream(self.train_dataset):
            raise ValueError(
                f"Expected a training set whose rows have numbers for {type(self).__name__}, which keeps a value for "
                f"each of them, got a {type(self.train_dataset).__name__}; pass a dataset with a length."
            )
        super().check_setup()

    # ---- The values of the training rows ----

    def value_rows(self) -> None:
        """
        Value the modalities of all training rows in evaluation mode. Each process embeds its part of the rows. No
        random state is changed.
        """
        parts: list[torch.Tensor] = []  # by batch, the contributions and 1 for present, (2, M, B)

        def value(outputs: Any, labels: torch.Tensor, new: int) -> None:
            present = stack_masks(outputs.present, self.modalities, labels)
            with self.compute_loss_context_manager():
                values = contributions_of(self.unwrapped_model, outputs.embeddings, present, labels)
            parts.append(torch.stack([values, present.float()])[:, :, :new])

        size = len(self.train_dataset)
        pass_over_rows(self, self.train_dataset, list(range(size)), value, self.args.seed, "Values of the modalities")
        found = torch.zeros(2, len(self.modalities), size, device=self.args.device)
        found[:, :, self.args.process_index :: self.args.world_size] = torch.cat(parts, dim=2)
        self._keep(*self.accelerator.reduce(found, "sum"))

    def _keep(self, values: torch.Tensor, present: torch.Tensor) -> None:
        self.contributions = values
        competes = (present > 0) & (present.sum(0) > 1)
        self.copies = torch.where(competes, copies_of(values, self.args.valuation_rate), 0)

    def save_method_state(self, folder: str) -> None:
        """Save the contributions and the copies of each row."""
        super().save_method_state(folder)
        if self.args.should_save and self.copies is not None:
            values = {"contributions": self.contributions.cpu(), "copies": self.copies.cpu()}
            save_file(values, os.path.join(folder, VALUES_NAME))

    def load_method_state(self, checkpoint: str | None) -> None:
        """Load the contributions and the copies of a checkpoint, or begin without any."""
        super().load_method_state(checkpoint)
        self.contributions = self.copies = None
        file = os.path.join(checkpoint or "", VALUES_NAME)
        if checkpoint is not None and os.path.isfile(file):
            values = load_file(file)
            self.contributions, self.copies = (
                values[name].to(self.args.device) for name in ("contributions", "copies")
            )

    # ---- The loss ----

    def get_train_dataloader(self) -> DataLoader:
        """The training dataloader of `Trainer`, whose batches have the numbers (B,) of their rows under [`ROWS`]."""
        collator, data = self.data_collator, self.train_dataset
        if isinstance(collator, MultimodalCollator) and collator.varied:
            data = TrainingRows(data, self.args.seed, self._epochs.epoch)
        self.data_collator = CollateNumbered(collator)  # `_get_dataloader` takes no other
        try:
            return self._get_dataloader(
                dataset=NumberedRows(data),
                description="Training",
                batch_size=self._train_batch_size,
                sampler_fn=lambda _: self._get_train_sampler(self.train_dataset),
                is_training=True,
            )
        finally:
            self.data_collator = collator

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args, **kwargs):
        """The loss of [`PrototypeTrainer`]. The model does not get the numbers of the rows."""
        inputs = dict(inputs)
        self._batch_rows = inputs.pop(ROWS, None)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def method_loss(
        self, loss: torch.Tensor, terms: PrototypeTerms, outputs: Any, labels: torch.Tensor
    ) -> torch.Tensor:
        """The fused loss and, once the rows are valued, the losses of the copies."""
        if self.copies is None:
            return loss
        if self._batch_rows is None:
            raise ValueError(
                f"Expected the numbers of a batch's rows in {ROWS!r}, got none; leave `get_train_dataloader` as it is."
            )
        names = self.modalities
        values, copies = self.contributions[:, self._batch_rows], self.copies[:, self._batch_rows]  # (M, B)
        counted = stack_masks(self.counted_samples(outputs, labels), names, labels)
        sums = [torch.where(counted, part, 0).sum(1) for part in (values, copies)]
        tracked = tuple(f"{name}_{what}" for what in ("contribution", "copies") for name in names)
        self.track(tracked, torch.cat(sums), counted.sum(1).repeat(2))
        copies = torch.where(stack_masks(outputs.present, names, labels), copies, 0)  # none of a dropped modality
        return loss + self.loss_scale * (copies * self.losses_alone(outputs, labels)).sum() / self._weight_of(labels)

    def losses_alone(self, outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        """The loss (M, B) of each sample if modality m is the only one, of the same kind as the fused loss."""
        model, names = self.unwrapped_model, self.modalities
        present = outputs.present or all_present(names, labels)
        none = {name: torch.zeros_like(mask) for name, mask in present.items()}
        logits = [model.fuse_by_head(outputs.embeddings, none | {name: present[name]}) for name in names]
        if self.problem_type != SINGLE_LABEL:
            return torch.stack([model.loss_of(values, labels, reduction="none") for values in logits])
        options = {"weight": self.class_weights, "label_smoothing": self.args.label_smoothing_factor}
        return torch.stack([F.cross_entropy(each.float(), labels, reduction="none", **options) for each in logits])

    def _weight_of(self, labels: torch.Tensor) -> torch.Tensor | int:
        """What the fused loss divides the sum over this process's samples by: their number, or their weight."""
        if self.class_weights is None:
            return len(labels)
        weight = self.accelerator.reduce(self.class_weights[labels].sum(), "mean")  # as DDP averages the gradients
        return weight.clamp(min=torch.finfo(weight.dtype).tiny)


class ValueRows(TrainerCallback):
    """Calls `trainer.value_rows()` before each epoch in which a valuation is due."""

    def __init__(self, trainer: ValuationTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        if state.num_train_epochs <= args.valuation_warmup_epochs:
            raise ValueError(
                f"Expected more epochs than `valuation_warmup_epochs`, which is {args.valuation_warmup_epochs}, since "
                f"the rows are valued after them, got {state.num_train_epochs}; train longer, or lower it."
            )

    def on_epoch_begin(self, args, state, control, **kwargs):
        # This is also called when a run resumes within an epoch. It then keeps the values of the checkpoint.
        since = float(state.epoch or 0) - args.valuation_warmup_epochs
        if since >= 0 and since % args.valuation_epochs == 0:
            self.trainer.value_rows()


class NumberedRows(Dataset):
    """The rows of a map-style dataset as pairs (number of the row, row)."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> tuple[int, Any]:
        return i, self.dataset[i]

    def __getitems__(self, indices: list[int]) -> list[tuple[int, Any]]:
        return list(zip(indices, rows_at(self.dataset, indices), strict=True))


class CollateNumbered:
    """Collates [`NumberedRows`] by the collator of their rows, and adds the numbers (B,) under [`ROWS`]."""

    def __init__(self, collator: Callable[[list[Any]], dict[str, Any]]):
        self.collator = collator

    def __call__(self, numbered: Sequence[tuple[int, Any]]) -> dict[str, Any]:
        numbers, rows = zip(*numbered, strict=True)
        return {**self.collator(list(rows)), ROWS: torch.tensor(numbers, dtype=torch.int64)}


def contributions_of(
    model: MultimodalModel, embeddings: Mapping[str, torch.Tensor], present: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """
    The contribution phi of each modality to the prediction for each sample, see [`ValuationTrainer`].

    Args:
        model (`MultimodalModel`): the model, which classifies.
        embeddings (`Mapping[str, torch.Tensor]`): (B, D_m), by modality.
        present (`torch.Tensor`): (M, B) bool, the modalities that each sample has.
        labels (`torch.Tensor`): (B,) classes, or (B, K) of several labels.

    Returns:
        `torch.Tensor`: (M, B). A modality that a sample lacks has 0. The others of P modalities are in
        [-(P - 1) / 2, (P + 1) / 2].
    """
    names = list(model.widths)

    def benefit(taking_part: tuple[bool, ...]) -> torch.Tensor:
        some = present & torch.tensor(taking_part, device=present.device)[:, None]
        if not any(taking_part):
            return torch.zeros(len(labels), dtype=torch.float64)
        logits = model.fuse_by_head(embeddings, dict(zip(names, some, strict=True)))
        if model.config.problem == SINGLE_LABEL:
            right = (logits.argmax(1) == labels).float()
        else:
            right = ((logits > 0) == labels.bool()).float().mean(1)
        return (some.sum(0) * right).cpu().double()  # thirds must sum to 1, and not every device has fp64

    return shapley_values(benefit, len(names)).float().to(labels.device)


def copies_of(values: torch.Tensor, rate: float) -> torch.Tensor:
    """
    How often a modality is sampled again: rate (1 - phi) for a contribution phi below 1, else 0.

    Args:
        values (`torch.Tensor`): phi, of any shape.
        rate (`float`): at least 0.

    Returns:
        `torch.Tensor`: of the same shape, at least 0.
    """
    return rate * (1 - values).clamp(min=0)
