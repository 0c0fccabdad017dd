"""`PrototypeTrainer`: joint training with class prototypes, which monitor each modality."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from transformers import EvalPrediction
from transformers.trainer_utils import TrainOutput, has_length
from transformers.utils import logging

from ..data.known_labels import labels_of
from ..data.table_values import frames_as_datasets
from ..equations import ratio_of_two, rebalance_weights
from ..model.fusion import Fusion
from ..model.hub_card import card_on_hub
from ..model.missing_modalities import stack_masks
from ..model.multimodal_processor import MultimodalProcessor
from ..model.prototypes import Prototypes, Sums, load_sums, save_sums
from ..model.targets import MODALITY_METRIC, MULTI_LABEL, REGRESSION
from ..reporting.evaluation import EvaluationReport
from .arguments import BEST_ANSWER, PrototypeTrainingArguments
from .counted_samples import Masks, count_new_samples, first_samples, guesses_of, present_samples
from .finite_checks import stop_not_finite
from .gradients import gradient_cosines
from .multimodal_trainer import MultimodalTrainer
from .prototype_dataset import check_prototype_dataset, is_same
from .prototype_refresh import RefreshPrototypes, sums_of_subset, warn_of_unseen_classes
from .prototype_rows import PrototypeRows
from .prototype_terms import TERMS, PrototypeTerms, balanced_label_weights, sample_values
from .segments import by_segment
from .setup_checks import check_prototype_source, check_prototypes, check_without_classes, is_stream, require_multimodal


logger = logging.get_logger(__name__)

SUMS_NAME = "prototype_sums.safetensors"


class PrototypeTrainer(MultimodalTrainer):
    """
    Trainer for joint training with one loss, monitored by class prototypes. It is the base class of [`PMRTrainer`] and
    of the methods that PMR is compared with.

    The trainer minimizes the loss of `Trainer`. It computes scores and weights over the batch of all processes, or over
    each micro-batch under gradient accumulation. Samples that are repeated to fill the last batch of several processes
    do not count in any score, term or prototype.

    With `prototype_source="subset"`, the prototypes are refreshed before each epoch and once more after training. With
    `"online"`, they are refreshed after each epoch. If `prototype_refresh_steps` is set, they are refreshed whenever
    this number of steps has passed.

    Training logs contain `ce_loss`, and for two modalities `rho` (Eq. 8, the score of the first modality over the score
    of the second). For each modality m, they contain `m_pce_loss`, `m_entropy`, `m_score`, `m_pce_weight` and
    `m_per_weight`, averaged since the last log. The weights are those that PMR would apply (Eq. 11), and in
    [`PMRTrainer`] those that it did apply. Evaluation adds `m_prototype_accuracy`, and `prototypes_accuracy` of all
    prototypes together.

    Args:
        model (`MultimodalModel | torch.nn.Module`): the model. A model of another class needs `embeddings_fn` and
            [`attach_prototypes`].
        args (`PrototypeTrainingArguments`): the arguments.
        embeddings_fn (`Callable`, *optional*): maps the model's output to a dict of embeddings (B, D_m), by modality.
            Defaults to `lambda output: output.embeddings`. For labels (B, T) of segments, with -100 for a segment
            without a label, it must return embeddings (B, T, D_m). Each labelled segment is then treated as a sample.
        prototype_dataset (`Dataset`, *optional*): labelled rows that replace the subset of the training set: each
            refresh takes the prototypes from all of them. Use a small set in which a misleading cue of the training set
            does not follow the classes, for instance from other hospitals, cameras or speakers. It needs rows of each
            class and `prototype_source="subset"`. An evaluation set, or a set that is evaluated later, is refused.
        kwargs: all other arguments of `Trainer`.

    Raises:
        ValueError: for a model without prototypes, for a streaming training set with `prototype_source="subset"`, for a
            `prototype_dataset` that does not fit, and for the errors of [`MultimodalTrainer`].
    """

    args_class = PrototypeTrainingArguments
    #: Whether the loss contains the PMR terms, which the logged weights multiply
    applies_weights = False
    #: Whether the method needs class prototypes, which a regression does not have
    needs_classes = False
    #: Whether the method needs one class per sample, so that several labels are refused
    needs_one_class = False
    #: Whether the method trains a model with `modality_dropout`
    takes_dropout = True
    #: The one fusion head that the method trains, or `None` if it takes several
    own_fusion: str | None = None
    #: The classes of the fusion heads that the method trains
    fusion_heads: tuple[type[Fusion], ...] = (Fusion,)
    #: The sentence of the model card about the training, without its full stop, and the BibTeX entry that it cites
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
        prototype_dataset: Dataset | None = None,
        **kwargs,
    ):
        self.prototype_dataset = frames_as_datasets(prototype_dataset)
        super().__init__(model=model, args=args, **kwargs)
        self.embeddings_fn = embeddings_fn or output_embeddings
        if prototype_dataset is not None:
            check_prototype_dataset(self)
        self._online_sums: Sums | None = None  # class sums of this process since the last refresh
        self._rows: PrototypeRows | None = None
        self._unseen: dict[str, list[int]] = {}  # classes without a prototype in the last warning
        self.label_weights = self._label_weights() if self.args.balance_labels else None
        if self.has_prototypes:
            self.add_callback(RefreshPrototypes(self))

    def metric_names(self) -> tuple[str, ...]:
        """Add the accuracies of all prototypes together and of the better answer, if the evaluation has them."""
        if not self.has_prototypes:
            return super().metric_names()
        metric = MODALITY_METRIC[self.problem_type]
        better = (f"best_answer_{metric}",) if self.args.answer == BEST_ANSWER else ()
        return *super().metric_names(), f"prototypes_{metric}", *better

    def check_setup(self) -> None:
        """
        Raise `ValueError` for a model without prototypes that does not predict numbers, for a regression if the method
        or an argument needs classes, for `answer="best"` without one evaluation set, or for a training set that
        `prototype_source` cannot use.
        """
        if not self.has_prototypes:
            if self.needs_classes:
                raise ValueError(
                    f"Expected a model that classifies for {type(self).__name__}, since it needs class prototypes, got "
                    f"problem_type={self.problem_type!r}; use another method, such as joint training with "
                    "PrototypeTrainer."
                )
            check_without_classes(self.args, self.prototype_dataset)
            super().check_setup()
            return
        check_prototypes(self.unwrapped_model)
        if self.args.answer == BEST_ANSWER and (self.eval_dataset is None or isinstance(self.eval_dataset, dict)):
            raise ValueError(
                "Expected one evaluation set with `answer='best'`, to compare the head and the prototypes, got "
                f"{type(self.eval_dataset).__name__}; pass one `eval_dataset`, or choose an answer yourself."
            )
        if self.args.gradient_cosine_steps is not None:
            require_multimodal(self.unwrapped_model, "gradient_cosine_steps")
        check_prototype_source(self.train_dataset, self.args.prototype_source, self.args.prototype_fraction)
        super().check_setup()

    def on_new_model(self, model: nn.Module) -> None:
        """Prepare the model, and exclude its prototypes from the broadcasts of DDP."""
        super().on_new_model(model)
        if self.args.answer is not None and require_multimodal(model, "answer").config.problem != REGRESSION:
            model.config.answer = "head" if self.args.answer == BEST_ANSWER else self.args.answer
        # Every process computes the same prototypes, so DDP need not broadcast them before each forward pass.
        names = [name for name, _ in model.named_buffers() if name.startswith("prototypes.")]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)

    def _label_weights(self) -> torch.Tensor | None:
        """The weights of `balance_labels`, (K, 2). Raises `ValueError` without several labels that are known."""
        if self.train_dataset is None:
            return None
        labels = labels_of(self.train_dataset, self.data_collator)
        if self.problem_type != MULTI_LABEL or labels is None:
            found = type(self.train_dataset).__name__ if self.problem_type == MULTI_LABEL else self.problem_type
            raise ValueError(
                "Expected several labels per sample for `balance_labels`, and a training set whose labels are known "
                f"before training, such as a `datasets.Dataset` with a MultimodalCollator, got {found}; leave it out."
            )
        return balanced_label_weights(torch.from_numpy(labels)).to(self.args.device)

    def run_facts(self) -> dict[str, Any]:
        """Add the modalities and the number of classes, also for a model of another class."""
        return super().run_facts() | {"modalities": self.modalities, "classes": self.num_labels}

    @property
    def has_prototypes(self) -> bool:
        """Whether the model predicts classes or labels. A regression has no prototypes."""
        return self.problem_type != REGRESSION

    @property
    def modalities(self) -> list[str]:
        """The names of the modalities, in the order of fusion."""
        return list(self.prototypes.widths if self.has_prototypes else self.unwrapped_model.widths)

    @property
    def prototypes(self) -> Prototypes:
        """The class prototypes, which are a part of the model."""
        return self.unwrapped_model.prototypes

    @property
    def num_labels(self) -> int:
        """The number of classes or labels K, or of targets R."""
        return self.prototypes.num_labels if self.has_prototypes else self.unwrapped_model.config.num_labels

    @property
    def class_names(self) -> dict[int, str]:
        """
        The name of each class of a [`MultimodalModel`] among the prototypes, such as "without cat" and "with cat" for
        one of several labels. It is empty for a model of another class.
        """
        names = super().class_names
        if self.problem_type != MULTI_LABEL:
            return names
        return {2 * k + i: f"{word} {name}" for k, name in names.items() for i, word in enumerate(("without", "with"))}

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """The loss of `Trainer`, or in training the loss that [`PrototypeTrainer.method_loss`] makes of it."""
        self.require_labels(inputs)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if model.training:
            counted = self.counted_samples(outputs, inputs["labels"])
            labels, terms = inputs["labels"], None
            if self.has_prototypes:
                embeddings, labels, counted = self.by_sample(self.embeddings_fn(outputs), labels, counted)
                terms = self.prototype_terms(embeddings, labels, counted)
            every = self.args.gradient_cosine_steps
            if every is not None and self.state.global_step % every == 0:
                cosines = gradient_cosines(self.accelerator, loss, terms, self.encoder_parameters())
                for name, cosine in cosines.items():
                    self.track((f"{name}_gradient_cosine",), cosine[None], torch.ones_like(cosine)[None])
            loss = self.method_loss(loss, terms, outputs, labels)
            if self.has_prototypes and self.args.prototype_source == "online":
                self._online_sums = self.prototypes.class_sums(embeddings, labels, counted, self._online_sums)
        return (loss, outputs) if return_outputs else loss

    @staticmethod
    def require_labels(inputs: Mapping[str, Any]) -> None:
        """Raise `ValueError` for a batch without labels."""
        if "labels" not in inputs:
            raise ValueError(f"Expected a batch with `labels`, got {list(inputs)}; let the collator add them.")

    # ---- What a method calls or overrides ----

    def by_sample(
        self, embeddings: Mapping[str, torch.Tensor], labels: torch.Tensor, counted: Masks | None
    ) -> tuple[Mapping[str, torch.Tensor], torch.Tensor, Masks | None]:
        """Treat each segment as a sample, see [`~pmr_hf.training.segments.by_segment`]. Several labels have none."""
        if self.problem_type == MULTI_LABEL:
            return embeddings, labels, counted
        return by_segment(embeddings, labels, counted)

    def method_loss(
        self, loss: torch.Tensor, terms: PrototypeTerms | None, outputs: Any, labels: torch.Tensor
    ) -> torch.Tensor:
        """
        The loss of a training step. Override it to change the loss; this class returns it unchanged.

        Args:
            loss (`torch.Tensor`): the scalar loss of `Trainer`. Multiply what you add to it by `self.loss_scale`.
            terms (`PrototypeTerms`, *optional*): the terms that the class prototypes give for the batch; `None` in a
                regression, where a method with `needs_classes` never runs.
            outputs: the model's output.
            labels (`torch.Tensor`): (B,), or (B * T,) for segments. With another `problem_type`, as the model takes
                them.

        Returns:
            `torch.Tensor`: the scalar to minimize.
        """
        return loss

    def rebalance_weights(self, scores: torch.Tensor, present: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The weights a^m and e^m (M,) for the scores (M,), see [`~pmr_hf.equations.rebalance_weights`]. `present` (M,)
        bool marks the modalities that the batch has.
        """
        return rebalance_weights(scores, present)

    def counted_samples(self, outputs: Any, labels: torch.Tensor) -> Masks | None:
        """
        The masks (B,) bool, by modality, of the samples that count in a training batch. These samples have the modality
        and do not only repeat another sample to fill the last batch. `None` stands for all samples of all modalities.
        """
        if self.accelerator.num_processes == 1:
            return present_samples(outputs)
        size = None if is_stream(self.train_dataset) else len(self.train_dataset)
        new = count_new_samples(self.accelerator, len(labels), size, self.args.dataloader_drop_last)
        return first_samples(new, labels, present_samples(outputs), self.modalities)

    def global_means(
        self, values: torch.Tensor, outputs: Any, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The mean (M,) of each modality's values (M, B) over the samples that count, of all processes, and the number
        (M,) of these samples. All processes must call this method.
        """
        counted = stack_masks(self.counted_samples(outputs, labels), self.modalities, labels)
        sums = torch.stack([torch.where(counted, values, 0).sum(1), counted.float().sum(1)])
        totals, counts = self.accelerator.reduce(sums, "sum")
        return totals / counts.clamp(min=1), counts

    def encoder_parameters(self) -> dict[str, list[nn.Parameter]]:
        """The trained parameters of each encoder of a [`MultimodalModel`], by modality."""
        backbones = self.unwrapped_model.backbones
        return {name: [part for part in backbones[name].parameters() if part.requires_grad] for name in self.modalities}

    # ---- Terms, logs and metrics ----

    def prototype_terms(
        self,
        embeddings: Mapping[str, torch.Tensor],
        labels: torch.Tensor,
        counted: Masks | None = None,
    ) -> PrototypeTerms:
        """
        Compute the terms of each modality and the weights of the global batch, and track them for the next log.

        Args:
            embeddings (`Mapping[str, torch.Tensor]`): (B, D_m), by modality.
            labels (`torch.Tensor`): (B,) int64 classes in 0..K-1, or multi-hot labels (B, K).
            counted (`Mapping[str, torch.Tensor]`, *optional*): the masks (B,) bool, by modality, of the samples that
                count in its score and terms; all samples by default. A sample whose class has no prototype never
                counts.
        """
        names = self.modalities
        pce, entropy, scores, known, compared = sample_values(  # each (M, B)
            self.prototypes, embeddings, labels, self.label_weights, self.args.relative_distances
        )
        if counted is not None:
            has_modality = stack_masks(counted, names, labels)
            known, compared = known & has_modality, compared & has_modality
        with torch.no_grad():
            values, masks = torch.stack([pce, entropy, scores]), torch.stack([known, known, compared])
            sums = torch.where(masks, values, 0).sum(-1)  # (3, M)
            numbers = masks.sum(-1).float()
            # (3, M) over the global batch
            totals = self.accelerator.reduce(torch.stack([numbers[0], sums[2], numbers[2]]), "sum")
            total_counts, total_scores, score_counts = totals
            scores = total_scores / score_counts.clamp(min=1)
            pce_weights, per_weights = self.rebalance_weights(scores, score_counts > 0)
            ones = torch.ones_like(pce_weights)
            self.track(
                tuple(f"{name}_{term}" for term in TERMS for name in names),
                torch.cat([sums.flatten(), pce_weights, per_weights]),
                torch.cat([numbers.flatten(), ones, ones]),
            )
        if self.class_weights is not None:
            pce = pce * self._relative_weights(labels, known, total_counts)
        return PrototypeTerms(pce, entropy, known, total_counts, scores, score_counts, pce_weights, per_weights)

    def _relative_weights(self, labels: torch.Tensor, counted: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """
        The weight of the class of each sample over the mean weight of the samples that count in the modality, (M, B).
        The mean over these samples is then a weighted mean.
        """
        weights = self.class_weights[labels].expand_as(counted)  # (M, B)
        totals = self.accelerator.reduce(torch.where(counted, weights, 0).sum(-1), "sum")
        return weights * (counts / totals.clamp(min=torch.finfo(totals.dtype).tiny))[:, None]

    def summarize(self, totals: dict[str, tuple[float, float]]) -> dict[str, float]:
        """Add `rho` (Eq. 8) to the log entries, for two modalities."""
        logs = super().summarize(totals)
        scores = [logs[f"{name}_score"] for name in self.modalities if f"{name}_score" in logs]
        if len(scores) == 2 and scores[1] > 0:
            logs["rho"] = ratio_of_two(*scores)
        return logs

    def modality_predictions(self, outputs: Any) -> dict[str, torch.Tensor]:
        """
        Add what each prototype classifier predicts, as `m_prototype_accuracy`, and what all of them predict together,
        as `prototypes_accuracy`. With several labels, the metric is `micro_f1`.
        """
        predictions = super().modality_predictions(outputs)
        if not self.has_prototypes:
            return predictions
        embeddings = self.embeddings_fn(outputs)
        logits = self.prototypes(embeddings)
        known = {name: values for name, values in logits.items() if self.prototypes.seen(name).any()}
        predictions |= self.guesses("prototype_", known, outputs)
        if known:
            answer = self.prototypes.answer(embeddings, present_samples(outputs))
            metric = MODALITY_METRIC[self.problem_type]
            predictions[f"prototypes_{metric}"] = guesses_of("", answer, None, self.problem_type)
        return predictions

    def _compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        metrics = super()._compute_metrics(prediction)
        metric = MODALITY_METRIC[self.problem_type]
        if self.args.answer == BEST_ANSWER and metric in metrics:
            metrics[f"best_answer_{metric}"] = max(metrics[metric], metrics.get(f"prototypes_{metric}", 0.0))
        return metrics

    def train(self, *args, **kwargs) -> TrainOutput:
        """Train as [`MultimodalTrainer.train`] does. With `answer="best"`, choose the answer at the end."""
        result = super().train(*args, **kwargs)
        if self.args.answer == BEST_ANSWER:
            self.choose_answer()
        return result

    def choose_answer(self) -> str:
        """
        Set the model's `config.answer` to `"head"` or `"prototypes"`, whichever has the higher accuracy on the
        evaluation set, or micro F1 of several labels; to `"head"` if they are equal. Returns it.
        """
        metric = MODALITY_METRIC[self.problem_type]
        config = require_multimodal(self.unwrapped_model, "answer").config
        config.answer = "head"
        metrics = self.evaluate(metric_key_prefix="answers")
        head, prototypes = metrics[f"answers_{metric}"], metrics[f"answers_prototypes_{metric}"]
        if prototypes > head:
            config.answer = "prototypes"
        logger.info(
            f"The fused answer is that of the {config.answer}: the head has "
            f"{'an accuracy' if metric == 'accuracy' else 'a micro F1'} of {head:.3f}, the prototypes of "
            f"{prototypes:.3f}."
        )
        return config.answer

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        """Like that of [`MultimodalTrainer`]; raises `ValueError` for the rows that the prototypes are taken from."""
        test_dataset = frames_as_datasets(test_dataset)
        self.check_not_of_prototypes(test_dataset)
        return super().get_test_dataloader(test_dataset)

    def check_not_of_prototypes(self, test_dataset: Dataset) -> None:
        """Raise `ValueError` for the rows that the prototypes are taken from."""
        if self.prototype_dataset is not None and is_same(self.prototype_dataset, test_dataset):
            raise ValueError(
                "Expected a dataset that the prototypes were not taken from to evaluate, got the `prototype_dataset`, "
                "whose labels the model has seen; evaluate other rows."
            )

    # ---- Prototypes ----

    def refresh_prototypes(self, momentum: float | None = None) -> None:
        """
        Update the prototypes (Eqs. 6, 12). With `prototype_source="subset"`, the rows that [`PrototypeRows`]
        draws are embedded in evaluation mode. The seed and the epoch (or the step) determine the draw. With
        `"online"`, the embeddings of the training steps since the last refresh are used. No random state is changed.

        Args:
            momentum (`float`, *optional*): eps of Eq. 12, in [0, 1). Defaults to `prototype_momentum`.

        Raises:
            FloatingPointError: if the embeddings are not finite.
        """
        if self.args.prototype_source == "online":
            sums, self._online_sums = self._online_sums, None
            if sums is None:
                return
        else:
            draw = int(self.state.epoch or 0) if self.refresh_steps is None else self.state.global_step
            sums = sums_of_subset(self, self.args.seed + draw)
        sums = self._reduce(sums)
        for name, (total, _) in sums.items():
            if not total.isfinite().all():
                stop_not_finite(self.state.global_step, f"embeddings of {name} that are not finite")
        self.prototypes.momentum_update(sums, self.args.prototype_momentum if momentum is None else momentum)
        self._unseen = warn_of_unseen_classes(
            self.prototypes, self.class_names, self._unseen, self.is_world_process_zero()
        )

    def _reduce(self, sums: Sums) -> Sums:
        """Add up the class sums of all processes."""
        return {name: tuple(self.accelerator.reduce(part, "sum") for part in parts) for name, parts in sums.items()}

    @property
    def prototype_rows(self) -> PrototypeRows:
        """Draws the rows that prototypes are taken from, of `prototype_dataset` or else of the training set."""
        dataset = self.train_dataset if self.prototype_dataset is None else self.prototype_dataset
        if self._rows is None or self._rows.dataset is not dataset:
            self._rows = PrototypeRows(dataset, self.data_collator, self.num_labels)
        return self._rows

    @property
    def refresh_steps(self) -> int | None:
        """
        The number of optimizer steps between two refreshes, or `None` for one refresh per epoch. A training set without
        a length has no epochs, so its default is 100.
        """
        steps = self.args.prototype_refresh_steps
        return 100 if steps is None and not has_length(self.train_dataset) else steps

    def save_method_state(self, folder: str) -> None:
        """Save the online sums of all processes."""
        super().save_method_state(folder)
        if self._online_sums is not None:
            sums = self._reduce(self._online_sums)
            # The first process continues with the sums of all processes, so that a resumed run adds in the same order.
            self._online_sums = sums if self.args.process_index == 0 else self.prototypes.zero_sums()
            if self.args.should_save:
                save_sums(sums, os.path.join(folder, SUMS_NAME))

    def load_method_state(self, checkpoint: str | None) -> None:
        """Load the online sums of a checkpoint, or start without any."""
        super().load_method_state(checkpoint)
        self._online_sums = None
        file = os.path.join(checkpoint or "", SUMS_NAME)
        if self.args.prototype_source == "online" and checkpoint is not None and os.path.isfile(file):
            self._online_sums = self.prototypes.zero_sums()
            if self.args.process_index == 0:
                load_sums(self._online_sums, file)

    def create_model_card(
        self,
        model_name: str | None = None,
        dataset: str | None = None,
        license: str | None = None,
        tags: list[str] | None = None,
        language: str | list[str] | None = None,
        finetuned_from: str | list[str] | None = None,
        report: EvaluationReport | None = None,
    ) -> None:
        """
        Write a model card, with a plot of the training dynamics, to `output_dir`; see [`write_model_card`].

        The new card keeps the text and metadata that a user has added to the card in `output_dir`, or to the card on
        the Hub if the model is pushed there.

        Args:
            model_name (`str`, *optional*): the name in the card, unless `hub_model_id` is set. Defaults to the name of
                the folder `output_dir`.
            dataset, license, tags, language, finetuned_from (*optional*): see [`HubMetadata`].
            report (`EvaluationReport`, *optional*): what [`evaluate_report`] found, to show its confusion matrix and
                calibration. `trainer.push_to_hub(report=report)` does so too.
        """
        if not self.is_world_process_zero():
            return
        from ..reporting.model_card import HubMetadata, TrainingRun, write_model_card  # draws with matplotlib

        data, processor = self.train_dataset, self.processing_class
        run = TrainingRun(
            config=self.unwrapped_model.config,
            modalities=self.modalities,
            num_labels=self.num_labels,
            description=self.description,
            citation=self.citation,
            hyper_parameters=self.args.hyper_parameters,
            log_history=self.state.log_history,
            applies_weights=self.applies_weights,
            train_size=len(data) if has_length(data) else None,
            processor=processor if isinstance(processor, MultimodalProcessor) else None,
        )
        name = self.hub_model_id or model_name or os.path.basename(os.path.abspath(self.args.output_dir))
        metadata = HubMetadata(name, dataset, license, language, finetuned_from, tags)
        previous = None if self.hub_model_id is None else card_on_hub(self.hub_model_id, self.args.hub_token)
        with self.saving_explained():
            write_model_card(self.args.output_dir, run, metadata, previous, report)


def output_embeddings(output: Any) -> Mapping[str, torch.Tensor]:
    """The `embeddings` of a model's output. Raises `ValueError` if it has none."""
    if "embeddings" not in output:
        raise ValueError(
            f"Expected the model's output to have `embeddings`, got {list(output)}; pass an `embeddings_fn` "
            "that maps the output to a dict of embeddings (batch, width) by modality."
        )
    return output["embeddings"]
