"""Gradient-Blending (G-Blend): fused and unimodal losses, weighted by how each of them generalizes and overfits."""

import json
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import torch
from torch.utils.data import Dataset, Subset
from tqdm.auto import tqdm
from transformers import PrinterCallback
from transformers.utils import logging

from ..data.random_state import isolated_random_state
from ..model.missing_modalities import stack_masks
from ..training.arguments import PrototypeTrainingArguments
from ..training.prototype_terms import PrototypeTerms
from ..training.setup_checks import is_stream
from ..training.whole_files import write_json
from .unimodal_heads import UnimodalHeadsTrainer, sample_losses, sample_weights


logger = logging.get_logger(__name__)

LOSSES_NAME = "blend_losses.json"
FUSED = "fused"


@dataclass
class GradientBlendingArguments(PrototypeTrainingArguments):
    """
    Arguments of [`GradientBlendingTrainer`]. The class adds to [`PrototypeTrainingArguments`] the weights of the
    losses and the settings of their estimation.

    Args:
        blend_weights (`dict`, *optional*, defaults to `None`): weight of the loss of each modality and of `"fused"`.
            All weights are at least 0, and one or more are positive. On the command line, give a JSON object. By
            default, the weights are estimated before training.
        blend_epochs (`float`, *optional*, defaults to `None`): number of epochs of each run of the estimation, above 0.
            Defaults to the number of training epochs, as in the paper.
        blend_holdout (`float`, *optional*, defaults to `0.1`): share of the training set, in (0, 1), that the
            estimation holds out to measure generalization.

    Raises:
        ValueError: if a value is outside its range.
    """

    blend_weights: dict[str, float] | str | None = field(
        default=None,
        metadata={"help": "Weight of the loss of each modality and of 'fused', as JSON. By default estimated."},
    )
    blend_epochs: float | None = field(
        default=None, metadata={"help": "Epochs of each run of the estimation. By default as many as in training."}
    )
    blend_holdout: float = field(
        default=0.1, metadata={"help": "Share of the training set held out to measure generalization, in (0, 1)."}
    )

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.blend_weights, str):
            try:
                self.blend_weights = json.loads(self.blend_weights)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"Expected `blend_weights` as JSON, got {self.blend_weights!r}; correct it."
                ) from error
        if self.blend_weights is not None and not (
            isinstance(self.blend_weights, dict)
            and all(isinstance(weight, (int, float)) for weight in self.blend_weights.values())
            and all(0 <= weight < float("inf") for weight in self.blend_weights.values())
            and any(self.blend_weights.values())
        ):
            raise ValueError(
                "Expected `blend_weights` to map each modality and 'fused' to numbers of at least 0, and one of them "
                f"to be positive, got {self.blend_weights}; correct them."
            )
        if self.blend_epochs is not None and not 0 < self.blend_epochs < float("inf"):
            raise ValueError(f"Expected `blend_epochs` above 0, got {self.blend_epochs}; correct it.")
        if not 0 < self.blend_holdout < 1:
            raise ValueError(f"Expected `blend_holdout` in (0, 1), got {self.blend_holdout}; correct it.")

    @property
    def hyper_parameters(self) -> dict[str, object]:
        epochs = "as many as in training" if self.blend_epochs is None else f"{self.blend_epochs:g}"
        return {
            "weights of the losses": self.blend_weights or f"estimated in runs of epochs: {epochs}",
        } | super().hyper_parameters


class GradientBlendingTrainer(UnimodalHeadsTrainer):
    """
    Trainer that minimizes sum_k w_k L_k (Eq. 2), a weighted sum of the fused loss and of the loss of each unimodal
    head. The weights w_k are estimated offline. They are proportional to G_k / O_k^2 (Eq. 6, Algorithms 1 and 2) and
    sum to 1.

    Before training, the estimation trains M + 1 copies of the model, each with one of the losses. All copies start from
    the same weights. G_k is the decrease of the loss on held-out training rows. O_k is the additional decrease on the
    rows that the copy was trained on. The measured losses are saved to `blend_losses.json` in the output folder and in
    each checkpoint, where a resumed run reads them. The time of the estimation is part of the training time.

    The paper leaves some cases open. Here, a loss that did not decrease on the held-out rows gets weight 0. |O_k| is
    clipped to at least 1e-3. If no loss decreased, all get the same weight.

    Wang, Tran, Feiszli, "What Makes Training Multi-Modal Classification Networks Hard?", CVPR 2020.

    Args:
        model (`MultimodalModel`): the model, with `unimodal_heads=True`.
        args (`GradientBlendingArguments`): the arguments.
        kwargs: everything else that [`PrototypeTrainer`] takes.

    Raises:
        ValueError: if the model has no unimodal heads, or if `blend_weights` has keys other than the modalities and
            `"fused"`. If the weights must be estimated, also for a streaming training set, for given `optimizers`, and
            for `dataloader_drop_last=True`.
    """

    args_class = GradientBlendingArguments
    description = "Trained with [Gradient-Blending](https://arxiv.org/abs/1905.12681) of fused and unimodal losses"
    citation = """@inproceedings{wang2020gblend,
    title     = {What Makes Training Multi-Modal Classification Networks Hard?},
    author    = {Wang, Weiyao and Tran, Du and Feiszli, Matt},
    booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
    year      = {2020},
}"""
    _measured: dict[str, list[float]] = {}  # by loss: of training and held-out rows, before and after training
    _estimated = False  # whether `args.blend_weights` were estimated; if so, the next training estimates them again

    @property
    def loss_names(self) -> list[str]:
        """The names of the L = M + 1 losses: the modalities, then `"fused"`."""
        return [*self.modalities, FUSED]

    def check_setup(self) -> None:
        """Check `blend_weights`, or what their estimation needs. Raises `ValueError`, see the class."""
        names, weights = self.loss_names, self.args.blend_weights
        if weights is not None and set(weights) != set(names):
            raise ValueError(f"Expected `blend_weights` for {names}, got {list(weights)}; weigh each once.")
        if self.train_dataset is not None and weights is None:
            if is_stream(self.train_dataset):
                raise ValueError(
                    "Expected a training set with a length, to hold out a part of it, got a "
                    f"{type(self.train_dataset).__name__}; pass such a dataset, or set `blend_weights`."
                )
            if self.optimizer is not None or self.lr_scheduler is not None:
                raise ValueError(
                    "Expected `optim` and `lr_scheduler_type` in the arguments, since each run of the estimation "
                    "creates its own optimizer, got `optimizers`; leave them out, or set `blend_weights`."
                )
            if self.args.dataloader_drop_last:
                raise ValueError(
                    "Expected the estimation to measure all rows, got `dataloader_drop_last=True`; leave it out "
                    "or set `blend_weights`."
                )
        super().check_setup()

    def before_training(self, resume: bool) -> None:
        """Estimate the weights of the losses, unless `blend_weights` gives them."""
        super().before_training(resume)
        if self.args.blend_weights is None or self._estimated:
            self.args.blend_weights = self.estimate_weights(resume)
            self._estimated = True

    def save_method_state(self, folder: str) -> None:
        """Save the measured losses."""
        super().save_method_state(folder)
        if self._measured and self.args.should_save:
            write_json(Path(folder, LOSSES_NAME), self._measured)

    def method_loss(
        self, loss: torch.Tensor, terms: PrototypeTerms, outputs: Any, labels: torch.Tensor
    ) -> torch.Tensor:
        """The weighted sum of all losses (Eq. 2)."""
        weights = self.args.blend_weights
        unimodal_weights = torch.tensor([weights[name] for name in self.modalities], device=loss.device)
        unimodal_losses = self.unimodal_losses(outputs, labels)
        return weights[FUSED] * loss + self.loss_scale * (unimodal_weights * unimodal_losses).sum()

    # ---- Estimation of the weights ----

    def estimate_weights(self, resume: bool = False) -> dict[str, float]:
        """
        Estimate the weight of the loss of each modality and of the fused loss (Algorithm 1), on copies of the model.

        Args:
            resume (`bool`, *optional*, defaults to `False`): keep the losses of the checkpoint, or else those that
                `blend_losses.json` in the output folder already holds, and measure only the other losses.

        Returns:
            `dict[str, float]`: the weight of each loss in `loss_names`, at least 0. The weights sum to 1.

        Raises:
            ValueError: if no row is left to train on.
        """
        rows = torch.randperm(len(self.train_dataset), generator=torch.Generator().manual_seed(self.args.seed)).tolist()
        held_out = max(1, round(self.args.blend_holdout * len(rows)))
        if held_out >= len(rows):
            raise ValueError(
                f"Expected rows to train on besides the {held_out} held out, got {len(rows)} rows in all; set "
                "`blend_weights`."
            )
        splits = [rows_of(self.train_dataset, part) for part in (rows[held_out:], rows[:held_out])]
        names = self.loss_names
        file = Path(self.args.output_dir, LOSSES_NAME)
        measured = self._measured = self._losses_so_far() if resume else {}
        self.accelerator.wait_for_everyone()  # before the first process writes or deletes the file
        if not resume and self.args.should_save:
            file.unlink(missing_ok=True)  # the losses of an earlier run
        for k, name in enumerate(tqdm(names, desc="Weights of the losses", disable=self.hide_progress)):
            if name in measured:
                continue
            with isolated_random_state(self.args.seed, self.args.device):
                trainer = self._estimator(name, splits[0])
                before = [trainer.mean_losses(split)[k] for split in splits]
                trainer.train()
                after = [trainer.mean_losses(split)[k] for split in splits]
            measured[name] = [*before, *after]
            if self.args.should_save:
                file.parent.mkdir(parents=True, exist_ok=True)
                write_json(file, measured)
        weights = blend_weights(torch.tensor([measured[name] for name in names])).tolist()
        logger.info(f"Weights of the losses: {dict(zip(names, weights, strict=True))}")
        return dict(zip(names, weights, strict=True))

    def _losses_so_far(self) -> dict[str, list[float]]:
        """The losses that the checkpoint holds, or else those that an estimation that was killed has left."""
        for folder in (self.resumed_from, self.args.output_dir):
            if folder is not None and Path(folder, LOSSES_NAME).is_file():
                return json.loads(Path(folder, LOSSES_NAME).read_text(encoding="utf-8"))
        return {}

    def _estimator(self, name: str, rows: Dataset) -> "GradientBlendingTrainer":
        """A trainer that trains a copy of the model on these rows, with the loss `name` alone."""
        one_loss = {loss_name: float(loss_name == name) for loss_name in self.loss_names}
        epochs = self.args.num_train_epochs if self.args.blend_epochs is None else self.args.blend_epochs
        args = replace(
            self.args,
            blend_weights=one_loss,
            class_weights=self.weights_by_class,
            num_train_epochs=epochs,
            max_steps=self.args.max_steps if self.args.blend_epochs is None else -1,
            eval_strategy="no",
            eval_on_start=False,
            answer=None,
            save_strategy="no",
            load_best_model_at_end=False,
            push_to_hub=False,
            report_to="none",
            disable_tqdm=True,
        )
        trainer = type(self)(
            model=deepcopy(self.unwrapped_model),
            args=args,
            train_dataset=rows,
            data_collator=self.data_collator,
            processing_class=self.processing_class,
            compute_loss_func=self.compute_loss_func,
            optimizer_cls_and_kwargs=self.optimizer_cls_and_kwargs,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.is_whole_run = False
        return trainer

    @torch.no_grad()
    def mean_losses(self, rows: Dataset) -> list[float]:
        """The mean of each loss in `loss_names` over the rows of a dataset, by the heads in evaluation mode."""
        model, names = self.model.eval(), self.modalities
        sums = torch.zeros(2, len(names) + 1, device=self.args.device)  # of the losses, and of the weights
        for inputs in self.get_eval_dataloader(rows):
            inputs = self._prepare_inputs(inputs)
            labels = inputs["labels"]
            with self.compute_loss_context_manager():
                outputs = self.run_model(model, inputs)
            fused = self.unwrapped_model.fuse_by_head(outputs.embeddings, outputs.present)
            logits = [*(outputs.unimodal_logits[name] for name in names), fused]
            losses = torch.stack([sample_losses(self, values, labels) for values in logits])  # (L, B)
            counted = torch.ones_like(losses, dtype=torch.bool)  # the fused loss counts every sample
            counted[:-1] = stack_masks(outputs.present, names, labels)
            weights = sample_weights(self, labels)
            # (B, 2, L) of all processes, without the rows that are repeated to fill the last batch
            both = torch.stack([torch.where(counted, values, 0).T for values in (losses, weights)], 1)
            sums += self.accelerator.gather_for_metrics(both).sum(0)
        return (sums[0] / sums[1].clamp(min=torch.finfo(sums.dtype).tiny)).tolist()


def rows_of(dataset: Dataset, rows: list[int]) -> Dataset:
    """The rows of a dataset with these indices."""
    return dataset.select(rows) if isinstance(dataset, datasets.Dataset) else Subset(dataset, rows)


def blend_weights(losses: torch.Tensor) -> torch.Tensor:
    """
    Weights proportional to G / O^2, generalization over squared overfitting (Eqs. 4 to 6 of Wang et al. 2020).

    Args:
        losses (`torch.Tensor`): (L, 4). The columns are the loss on the training rows and on the held-out rows before
            training, and the loss on the same two after training.

    Returns:
        `torch.Tensor`: (L,), each at least 0, with sum 1.
    """
    train_before, held_before, train_after, held_after = losses.double().unbind(1)
    generalization = (held_before - held_after).clamp(min=0)
    overfitting = (held_after - train_after) - (held_before - train_before)
    weights = generalization / overfitting.square().clamp(min=1e-6)
    return weights / weights.sum() if weights.sum() > 0 else torch.full_like(weights, 1 / len(weights))
