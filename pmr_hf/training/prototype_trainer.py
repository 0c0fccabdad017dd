"""`PrototypeTrainer` keeps the class prototypes of a model up to date, and watches each modality by them."""

import math
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, IterableDataset, Subset
from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.trainer_utils import has_length
from transformers.utils import logging

from ..data.collator import integer_labels
from ..model.equations import (
    masked_mean,
    prototypical_cross_entropy,
    prototypical_entropy,
    rebalance_weights,
    signed_ratio,
)
from ..model.hub_card import card_on_hub
from ..model.processor import MultimodalProcessor
from ..model.prototypes import Prototypes, Sums, load_sums, save_sums
from ..reporting.model_card import HubMetadata, TrainingRun, write_model_card
from .arguments import PrototypeTrainingArguments
from .gradients import cosines, gradient_products, gradients_of
from .multimodal_trainer import MultimodalTrainer, classes_of, present_of, require_multimodal


logger = logging.get_logger(__name__)

SUMS_NAME = "prototype_sums.safetensors"
# What is logged of each modality, after its name.
TERMS = ("pce_loss", "entropy", "score", "pce_weight", "per_weight")


class PrototypeTerms(NamedTuple):
    """
    What the prototypes say of a batch, in the order of the modalities. Only `pce` and `entropy` have a gradient.

    Args:
        pce (`torch.Tensor`): (M, B), -log p^m_i(y_i) of this process's samples (Eq. 9).
        entropy (`torch.Tensor`): (M, B), H(p^m_i) of this process's samples.
        mask (`torch.Tensor`): (M, B) bool, the samples that count: those that have the modality, whose class has a
            prototype of it, and that are not repeated to fill the last batch.
        scores (`torch.Tensor`): (M,), s^m, the mean of p^m_i(y_i) over the samples of all processes that count.
        counts (`torch.Tensor`): (M,), how many of them there are.
        pce_weights (`torch.Tensor`): (M,), a^m (Eq. 11).
        per_weights (`torch.Tensor`): (M,), e^m.
    """

    pce: torch.Tensor
    entropy: torch.Tensor
    mask: torch.Tensor
    scores: torch.Tensor
    counts: torch.Tensor
    pce_weights: torch.Tensor
    per_weights: torch.Tensor


class PrototypeTrainer(MultimodalTrainer):
    """
    Joint training with one loss, watched by class prototypes; the base of [`PMRTrainer`] and of the methods that it is
    compared with.

    The loss is that of plain `Trainer`. Scores and weights are those of the batch of all processes, under gradient
    accumulation of each micro-batch. Samples that are repeated to fill the last batch of several processes count in no
    score, term or prototype.

    The prototypes are refreshed by `prototype_source`: before each epoch and once more after training (`"subset"`), or
    after each epoch (`"online"`), or every `prototype_refresh_steps`.

    Train logs have `ce_loss`, `rho` (Eq. 8, first modality over second, for two modalities) and, per modality m,
    `m_pce_loss`, `m_entropy`, `m_score`, `m_pce_weight` and `m_per_weight`, each over the steps since the last log.
    Evaluation adds `m_prototype_accuracy`. The weights are those that PMR would apply (Eq. 11).

    Args:
        model (`MultimodalModel | torch.nn.Module`): the model. One of another class needs `embeddings_fn` and
            [`attach_prototypes`].
        args (`PrototypeTrainingArguments`): the arguments.
        embeddings_fn (`Callable`, *optional*): from the model's output to a dict of embeddings (B, D_m), by modality.
            Defaults to `lambda output: output.embeddings`. For labels (B, T) of segments, -100 where there is none,
            they are (B, T, D_m): each labelled segment is then what a sample is otherwise.
        kwargs: everything else that `Trainer` takes.

    Raises:
        ValueError: for a model without prototypes, or a streaming training set with `prototype_source="subset"`, beside
            what [`MultimodalTrainer`] raises.
    """

    args_class = PrototypeTrainingArguments
    #: Whether the loss contains the terms that the logged weights belong to
    applies_weights = False
    #: How the model card describes the training, without the full stop, and what it cites
    description = "Trained jointly with a single loss, while class prototypes monitored each modality"
    citation = """@inproceedings{fan2023pmr,
    title     = {{PMR}: Prototypical Modal Rebalance for Multimodal Learning},
    author    = {Fan, Yunfeng and Xu, Wenchao and Wang, Haozhao and Wang, Junxiao and Guo, Song},
    booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
    year      = {2023},
}"""

    def __init__(
        self,
        model: nn.Module | None = None,
        args: PrototypeTrainingArguments | None = None,
        embeddings_fn: Callable[[Any], Mapping[str, torch.Tensor]] | None = None,
        **kwargs,
    ):
        self.embeddings_fn = embeddings_fn or output_embeddings
        self._sums: Sums | None = None  # online: of this process, since the last refresh
        self._unseen: dict[str, list[int]] = {}  # the classes without a prototype that were last warned of
        super().__init__(model=model, args=args, **kwargs)
        self.add_callback(_RefreshPrototypes(self))

    def check_setup(self) -> None:
        if not isinstance(getattr(self.unwrapped_model, "prototypes", None), Prototypes):
            raise ValueError(
                f"Expected a model with prototypes, got a {type(self.unwrapped_model).__name__} without; call "
                "`attach_prototypes(model, widths, num_labels)` first and pass `embeddings_fn`."
            )
        if self.args.gradient_cosine_steps is not None:
            require_multimodal(self.unwrapped_model, "gradient_cosine_steps")
        data = self.train_dataset
        if data is not None and self.streams and self.args.prototype_source == "subset":
            raise ValueError(
                f"Expected a map-style training set with a length, to take {self.args.prototype_fraction} of it for "
                f"the prototypes, got a {type(data).__name__}; or set `prototype_source='online'`."
            )
        super().check_setup()

    def on_new_model(self, model: nn.Module) -> None:
        super().on_new_model(model)
        # Every process computes the same prototypes: DDP need not send them from the first one before each forward.
        names = [name for name, _ in model.named_buffers() if name.startswith("prototypes.")]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)

    @property
    def streams(self) -> bool:
        return isinstance(self.train_dataset, IterableDataset) or not has_length(self.train_dataset)

    @property
    def prototypes(self) -> Prototypes:
        """The prototypes, a part of the model."""
        return self.unwrapped_model.prototypes

    @property
    def num_labels(self) -> int:
        return self.prototypes.num_labels

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """The loss of plain `Trainer`, and while training what the method adds to it."""
        require_labels(inputs)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if model.training:
            counted = self.counted_samples(outputs, inputs["labels"])
            embeddings, labels, counted = by_segment(self.embeddings_fn(outputs), inputs["labels"], counted)
            terms = self.prototype_terms(embeddings, labels, counted)
            every = self.args.gradient_cosine_steps
            if every is not None and self.state.global_step % every == 0:
                self._track_cosines(loss, terms)
            loss = self.method_loss(loss, terms, outputs, labels)
            if self.args.prototype_source == "online":
                self._sums = self.prototypes.class_sums(embeddings, labels, counted, self._sums)
        return (loss, outputs) if return_outputs else loss

    def counted_samples(self, outputs: Any, labels: torch.Tensor) -> Mapping[str, torch.Tensor] | None:
        """By modality, the samples (B,) that have it and are not repeated to fill the last batch; `None` for all."""
        present, state = present_of(outputs), self.accelerator.gradient_state
        processes, remainder = self.accelerator.num_processes, state.remainder
        last = state.end_of_dataloader and self.accelerator.sync_gradients
        if last and remainder < 0 and not self.streams:
            remainder = len(self.train_dataset) % (processes * len(labels))  # Accelerate loses it in a resumed epoch
        if processes == 1 or not last or remainder <= 0 or self.args.dataloader_drop_last:
            return present
        # `remainder` samples of the last batch of all processes are new ones, those of the first processes first.
        return self._first(remainder - self.accelerator.process_index * len(labels), labels, present)

    def _first(
        self, count: int, labels: torch.Tensor, present: Mapping[str, torch.Tensor] | None
    ) -> Mapping[str, torch.Tensor] | None:
        """What is present (B,) by modality among the first samples of a batch; `None` for all."""
        if count >= len(labels):
            return present
        first = torch.arange(len(labels), device=labels.device) < count
        return {name: first if present is None else first & present[name] for name in self.prototypes.widths}

    def method_loss(
        self, loss: torch.Tensor, terms: PrototypeTerms, outputs: Any, labels: torch.Tensor
    ) -> torch.Tensor:
        """
        What a method makes of the loss of a training step: nothing else here. Override it; what it adds, times
        `loss_scale`. `labels` are (B,), or (B * T,) of segments.
        """
        return loss

    def global_means(
        self, values: torch.Tensor, outputs: Any, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Means (M,) of values (M, B) of each modality's samples over all processes, and of how many samples they are
        (M,): those that have the modality and are not repeated to fill the last batch.
        """
        counted = self.counted_samples(outputs, labels)
        mask = torch.ones_like(values)
        if counted is not None:
            mask = torch.stack([counted[name] for name in self.prototypes.widths]).float()
        totals, counts = self.accelerator.reduce(torch.stack([(values * mask).sum(1), mask.sum(1)]), "sum")
        return totals / counts.clamp(min=1), counts

    def rebalance_weights(self, scores: torch.Tensor, present: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """a^m and e^m (M,) of the scores (M,), see [`~pmr_hf.model.equations.rebalance_weights`]."""
        return rebalance_weights(scores, present)

    def prototype_terms(
        self,
        embeddings: Mapping[str, torch.Tensor],
        labels: torch.Tensor,
        present: Mapping[str, torch.Tensor] | None = None,
    ) -> PrototypeTerms:
        """
        Each modality's terms and the weights of the global batch, which are tracked for the next log.

        Args:
            embeddings (`Mapping[str, torch.Tensor]`): (B, D_m) of each modality.
            labels (`torch.Tensor`): (B,).
            present (`Mapping[str, torch.Tensor]`, *optional*): (B,) bool, the samples that count in each modality's
                score and terms; all of them by default.
        """
        prototypes = self.prototypes
        names = list(prototypes.widths)
        logits = prototypes.stacked_logits(embeddings)  # (M, B, K)
        # (M, B): the samples that have the modality and whose class has a prototype of it
        mask = prototypes.stacked_seen()[:, labels]
        if present is not None:
            mask = mask & torch.stack([present[name] for name in names])
        log_probabilities = logits.log_softmax(-1)
        pce = prototypical_cross_entropy(log_probabilities, labels)  # (M, B)
        entropy = prototypical_entropy(log_probabilities)  # (M, B)
        with torch.no_grad():
            counts = mask.sum(1).float()
            sums = torch.where(mask, torch.stack([pce, entropy, (-pce).exp()]), 0).sum(-1)  # (3, M)
            # (2, M) over the global batch
            total_scores, total_counts = self.accelerator.reduce(torch.stack([sums[2], counts]), "sum")
            scores = total_scores / total_counts.clamp(min=1)
            pce_weights, per_weights = self.rebalance_weights(scores, total_counts > 0)
            ones = torch.ones_like(counts)
            self.track(
                tuple(f"{name}_{term}" for term in TERMS for name in names),
                torch.cat([sums.flatten(), pce_weights, per_weights]),
                torch.cat([counts, counts, counts, ones, ones]),
            )
        return PrototypeTerms(pce, entropy, mask, scores, total_counts, pce_weights, per_weights)

    def encoder_parameters(self) -> dict[str, list[nn.Parameter]]:
        """By modality, the parameters of its encoder that are trained, of a [`MultimodalModel`]."""
        backbones = self.unwrapped_model.backbones
        return {
            name: [part for part in backbones[name].parameters() if part.requires_grad]
            for name in self.prototypes.widths
        }

    def _track_cosines(self, loss: torch.Tensor, terms: PrototypeTerms) -> None:
        """The cosine between the gradients of the loss and of each modality's own PCE in its encoder (Fig. 2c)."""
        products = {}
        for pce, mask, (name, own) in zip(terms.pce, terms.mask, self.encoder_parameters().items(), strict=True):
            if own:
                alone = gradients_of(masked_mean(pce, mask), own)
                products[name] = gradient_products(self.accelerator, gradients_of(loss, own), alone)
        if not products:
            return
        values = cosines(torch.stack(list(products.values())))
        self.track(tuple(f"{name}_gradient_cosine" for name in products), values, torch.ones_like(values))

    def summarize(self, window: dict[str, tuple[float, float]]) -> dict[str, float]:
        logs = super().summarize(window)
        scores = [logs[f"{name}_score"] for name in self.prototypes.widths if f"{name}_score" in logs]
        if len(scores) == 2 and scores[1] > 0:
            logs["rho"] = signed_ratio(*scores)
        return logs

    def modality_predictions(self, outputs: Any) -> dict[str, torch.Tensor]:
        logits = self.prototypes(self.embeddings_fn(outputs))
        return super().modality_predictions(outputs) | {
            f"{name}_prototype_accuracy": classes_of(name, logits[name], outputs)
            for name in logits
            if self.prototypes.seen(name).any()
        }

    # ---- Prototypes ----

    def refresh_prototypes(self, momentum: float | None = None) -> None:
        """
        Take the prototypes anew (Eqs. 6, 12): from a share of the training set that is drawn from the seed and the
        epoch, in evaluation mode, or from the training steps since the last refresh (`prototype_source`).

        No random state is changed.

        Args:
            momentum (`float`, *optional*): eps of Eq. 12; `prototype_momentum` by default.
        """
        if self.args.prototype_source == "online":
            sums, self._sums = self._sums, None
            if sums is None:
                return
        else:
            sums = self._subset_sums()
        sums = self._reduce_sums(sums)
        for name, (total, _) in sums.items():
            if not total.isfinite().all():
                self._stop_not_finite(f"{name} embeddings that are not")
        self.prototypes.momentum_update(sums, self.args.prototype_momentum if momentum is None else momentum)
        for name in self.prototypes.widths:
            unseen = (~self.prototypes.seen(name)).nonzero()[:, 0].tolist()
            news, self._unseen[name] = unseen and unseen != self._unseen.get(name), unseen
            if news and self.is_world_process_zero():
                logger.warning(
                    f"Classes {unseen} have no prototype of {name!r} yet: none of the training samples behind it is of "
                    f"these classes and has {name!r}. Samples of theirs count in no PMR term of it until one is drawn; "
                    "raise `prototype_fraction`, or the steps between two refreshes."
                )

    def _subset_sums(self) -> Sums:
        draw = int(self.state.epoch or 0) if self.refresh_steps is None else self.state.global_step
        generator = torch.Generator().manual_seed(self.args.seed + draw)
        size = len(self.train_dataset)
        share = torch.randperm(size, generator=generator)[: math.ceil(self.args.prototype_fraction * size)].tolist()
        # Each process takes every n-th row. Sharded models need as many batches of each: the last row may be a repeated
        # one, which is not counted.
        processes, index = self.args.world_size, self.args.process_index
        rows = [share[(index + i) % len(share)] for i in range(0, len(share), processes)]
        new_rows = len(share[index::processes])

        model, prototypes = self.model, self.prototypes
        sums, done = prototypes.zero_sums(), 0
        was_training = model.training
        model.eval()
        with isolated_random_state(self.args.seed + draw, self.args.device), torch.no_grad():
            loader = DataLoader(
                Subset(self.train_dataset, rows),
                batch_size=self.state.train_batch_size or self.args.train_batch_size,
                collate_fn=self.data_collator,
                num_workers=self.args.dataloader_num_workers,
            )
            for inputs in tqdm(loader, desc="Prototypes", leave=False, disable=self.hide_progress):
                require_labels(inputs)
                integer_labels(inputs["labels"], prototypes.num_labels, segments=True)  # still on the CPU
                inputs = self._prepare_inputs(inputs)
                with self.compute_loss_context_manager():
                    outputs = self.run_model(model, inputs)
                counted = self._first(new_rows - done, inputs["labels"], present_of(outputs))
                prototypes.class_sums(*by_segment(self.embeddings_fn(outputs), inputs["labels"], counted), sums)
                done += len(inputs["labels"])
        model.train(was_training)
        return sums

    def _reduce_sums(self, sums: Sums) -> Sums:
        """The sums of all processes."""
        return {name: tuple(self.accelerator.reduce(part, "sum") for part in parts) for name, parts in sums.items()}

    @property
    def refresh_steps(self) -> int | None:
        """Steps from one refresh to the next, or `None` for a refresh per epoch, which a stream does not have."""
        steps = self.args.prototype_refresh_steps
        return 100 if steps is None and not has_length(self.train_dataset) else steps

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        if _internal_call and output_dir is not None and self._sums is not None:  # a checkpoint
            sums = self._reduce_sums(self._sums)
            # The first process goes on from the sums of all, so that a resumed run adds up in the same order.
            self._sums = sums if self.args.process_index == 0 else self.prototypes.zero_sums()
            if self.args.should_save:
                os.makedirs(output_dir, exist_ok=True)  # FSDP has not written there yet
                save_sums(sums, os.path.join(output_dir, SUMS_NAME))

    def resume_sums(self, checkpoint: str | None) -> None:
        """Go on from the online sums of a checkpoint, or from none."""
        self._sums = None
        file = os.path.join(checkpoint or "", SUMS_NAME)
        if self.args.prototype_source == "online" and checkpoint is not None and os.path.isfile(file):
            self._sums = self.prototypes.zero_sums()
            if self.args.process_index == 0:
                for name, parts in load_sums(file).items():
                    for own, saved in zip(self._sums[name], parts, strict=True):
                        own.copy_(saved)

    def create_model_card(
        self,
        model_name: str | None = None,
        dataset: str | None = None,
        license: str | None = None,
        tags: list[str] | None = None,
        language: str | list[str] | None = None,
        finetuned_from: str | list[str] | None = None,
    ) -> None:
        """
        Write a model card, with a plot of the training dynamics, to `output_dir`; see [`write_model_card`].

        Text and metadata that a user has added to the card in `output_dir`, or to the card on the Hub if the model is
        pushed there, are kept.

        Args:
            model_name (`str`, *optional*): the name in the card, unless `hub_model_id` gives one. Defaults to
                `output_dir`.
            dataset, license, tags, language, finetuned_from (*optional*): see [`HubMetadata`].
        """
        if not self.is_world_process_zero():
            return
        data, processor = self.train_dataset, self.processing_class
        run = TrainingRun(
            config=self.unwrapped_model.config,
            modalities=list(self.prototypes.widths),
            num_labels=self.prototypes.num_labels,
            description=self.description,
            citation=self.citation,
            hyper_parameters=self.args.hyper_parameters,
            log_history=self.state.log_history,
            applies_weights=self.applies_weights,
            train_size=len(data) if has_length(data) else None,
            processor=processor if isinstance(processor, MultimodalProcessor) else None,
        )
        name = self.hub_model_id or model_name or self.args.output_dir
        metadata = HubMetadata(name, dataset, license, language, finetuned_from, tags)
        previous = None if self.hub_model_id is None else card_on_hub(self.hub_model_id, self.args.hub_token)
        write_model_card(self.args.output_dir, run, metadata, previous)

    @property
    def hide_progress(self) -> bool:
        return self.args.disable_tqdm or not self.is_local_process_zero()


class _RefreshPrototypes(TrainerCallback):
    """Calls [`PrototypeTrainer.refresh_prototypes`] at the moments of Algorithm 1, or of the arguments."""

    def __init__(self, trainer: PrototypeTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.resume_sums(self.trainer.resumed_from)

    def on_epoch_begin(self, args, state, control, **kwargs):
        # Resuming in the middle of an epoch begins it again, with the prototypes of the checkpoint.
        whole = float(state.epoch or 0).is_integer()
        if args.prototype_source == "subset" and self.trainer.refresh_steps is None and whole:
            self.trainer.refresh_prototypes()

    def on_step_begin(self, args, state, control, **kwargs):
        steps = self.trainer.refresh_steps
        if args.prototype_source == "subset" and steps is not None and state.global_step % steps == 0:
            self.trainer.refresh_prototypes()

    def on_step_end(self, args, state, control, **kwargs):
        # Before the step's evaluation and checkpoint, which then have the prototypes of the steps behind them.
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


def require_labels(inputs: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a batch without labels."""
    if "labels" not in inputs:
        raise ValueError(f"Expected a batch with `labels`, got {list(inputs)}; let the collator add them.")


def output_embeddings(output: Any) -> Mapping[str, torch.Tensor]:
    """The `embeddings` of a model's output; raises `ValueError` if it has none."""
    if "embeddings" not in output:
        raise ValueError(
            f"Expected the model's output to have `embeddings`, got {list(output)}; pass an `embeddings_fn` "
            "from the output to a dict of embeddings (batch, width) by modality."
        )
    return output["embeddings"]


def by_segment(
    embeddings: Mapping[str, torch.Tensor], labels: torch.Tensor, present: Mapping[str, torch.Tensor] | None
) -> tuple[Mapping[str, torch.Tensor], torch.Tensor, Mapping[str, torch.Tensor] | None]:
    """
    A row for each segment of the samples, if labels are those of segments: embeddings (B * T, D_m), labels (B * T,),
    and by modality which rows count, those that have a label. Labels (B,) and what is beside them stay as they are.

    Args:
        embeddings (`Mapping[str, torch.Tensor]`): (B, D_m), or (B, T, D_m), by modality.
        labels (`torch.Tensor`): (B,), or (B, T) with -100 for segments without a label.
        present (`Mapping[str, torch.Tensor]`, *optional*): (B,) bool, the samples that count, by modality; or all.

    Raises:
        ValueError: unless there is an embedding for each label.
    """
    if any(embedding.shape[:-1] != labels.shape for embedding in embeddings.values()):
        found = {name: tuple(embedding.shape) for name, embedding in embeddings.items()}
        raise ValueError(
            "Expected embeddings (B, D_m) and labels (B,), or (B, T, D_m) and (B, T) of segments, got embeddings "
            f"{found} and labels {tuple(labels.shape)}; pool embeddings of tokens, and give classes for one-hot labels."
        )
    if labels.dim() == 1:
        return embeddings, labels, present
    counted = {
        name: ((labels >= 0) if present is None else (labels >= 0) & present[name][:, None]).flatten()
        for name in embeddings
    }
    flat = {name: embedding.flatten(0, 1) for name, embedding in embeddings.items()}
    return flat, labels.flatten().clamp(min=0), counted


@contextmanager
def isolated_random_state(seed: int, device: torch.device) -> Iterator[None]:
    """Seed python, numpy and torch's CPU generator inside the block, and give back every random state after it."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = [] if device.type in ("cpu", "mps") else [device]
    try:
        with torch.random.fork_rng(devices=devices, device_type=device.type):
            random.seed(seed)
            np.random.seed(seed)
            torch.default_generator.manual_seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
