"""
`MultimodalTrainer`: `Trainer` with logs and metrics of each modality.

The file follows a run: what a method may override, model and optimizer, training data, the loss (with `loss_scale`, by
which gradient accumulation averages a term), logs, and evaluation.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from copy import copy
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import EvalPrediction, PreTrainedModel, TrainerCallback, TrainerState, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_pt_utils import LabelSmoother
from transformers.trainer_utils import BestRun, EvalLoopOutput, TrainOutput, has_length
from transformers.training_args import OptimizerNames
from transformers.utils import logging

from ..data.collator import MultimodalCollator
from ..data.known_labels import labels_of
from ..data.table_values import frames_as_datasets
from ..model.modeling import MultimodalModel
from ..model.multimodal_processor import MultimodalProcessor
from ..model.targets import MODALITY_METRIC, REGRESSION, SINGLE_LABEL
from .arguments import MultimodalTrainingArguments
from .checkpoints import foreign_optimizer_state
from .class_weights import class_weights, weighted_cross_entropy
from .compiled_models import compiled_in_place
from .counted_samples import guesses_of
from .failures import check_writable, failures_explained
from .finite_checks import check_finite_terms, check_finite_weights
from .learning_rates import fill_gradients, set_modality_learning_rates
from .metrics import METRIC_NAMES, modality_metrics
from .resuming import begin_run, decided_by_main, loading_explained
from .run_identity import RunRecord, arguments_that_matter, facts_of_config, fingerprint_of
from .saving_trainer import EndCheckpoint, SavingTrainer
from .search import check_can_search, check_model_init, objective_of, search
from .setup_checks import (
    check_best_metric,
    check_collator,
    check_full_batch,
    check_length_column,
    check_modality_learning_rates,
    check_not_adapted,
    check_one_split,
    check_options,
    check_problem_type,
    check_processor,
    check_rows,
    check_several_classes,
    check_variable,
    is_stream,
    name_classes,
    require_multimodal,
    require_scalar,
)
from .term_sums import TermSums
from .trackers import group_curves
from .training_rows import CountEpochs, TrainingRows


logger = logging.get_logger(__name__)


class MultimodalTrainer(SavingTrainer):
    """
    `Trainer` for models of several modalities. It trains jointly with one loss, and reports metrics of each modality.

    The trainer logs each named loss term. Evaluation reports `accuracy` and `macro_f1` of the fused logits, or the
    metrics of your own `compute_metrics`, and `m_accuracy` for each modality m if the fusion head splits by modality.
    With several labels, these are `micro_f1`, `macro_f1`, `mAP`, `subset_accuracy` and `m_micro_f1`; in a regression,
    `mae`, `rmse` and `r2`. The targets of a regression are standardised by those of the training rows, unless the model
    has been trained before. A loss that is not finite stops the run at the next log. Weights that are not finite are
    never saved.

    Args:
        model (`MultimodalModel | torch.nn.Module`): the model.
        args (`MultimodalTrainingArguments`): the arguments.
        kwargs: all other arguments of `Trainer`. `processing_class` is a [`MultimodalProcessor`] and `data_collator` a
            [`MultimodalCollator`], or your own. `processing_class` defaults to the processor of the collator, of which
            the trainer keeps a copy. A dataset may be a pandas DataFrame. If its labels are a `ClassLabel`, a model
            without names of classes takes theirs.

    Raises:
        TypeError: for `args` of another class.
        OSError: if `output_dir` cannot be written to.
        ValueError: before training, for an empty dataset, a missing column, labels that are not what the model's
            `problem_type` needs, classes in another order than in the model's `id2label`, a training set of one class,
            or a processor whose modalities differ from the model's.
        FloatingPointError: at a log or a save, for a loss term or a weight that is not finite.
    """

    args_class = MultimodalTrainingArguments
    #: Whether `train` is a run of its own, and not a part of the run of another trainer
    is_whole_run = True
    _names_in_data: list[str] | None = None  # of the classes
    resumed_from: str | None = None  # the checkpoint that the last training has gone on from
    _training_model: nn.Module | None = None  # the unwrapped model, while training

    def __init__(self, model: nn.Module | None = None, args: MultimodalTrainingArguments | None = None, **kwargs):
        args = self.args_class("tmp_trainer") if args is None else args
        if not isinstance(args, self.args_class):
            raise TypeError(
                f"Expected `args` of {self.args_class.__name__}, got {type(args).__name__}; create the expected "
                "arguments, which take the same fields."
            )
        if args.should_save and kwargs.get("train_dataset") is not None:
            check_writable(args.output_dir)
        model = model if model is None else compiled_in_place(model)
        for name in ("train_dataset", "eval_dataset"):
            kwargs[name] = frames_as_datasets(kwargs.get(name))
        collator = kwargs.get("data_collator")
        if isinstance(collator, MultimodalCollator):
            kwargs["data_collator"] = copy(collator)  # another trainer may set the same one to other labels
            if kwargs.get("processing_class") is None:
                kwargs["processing_class"] = collator.processor  # saved with the model, which is of no use without it
        super().__init__(model=model, args=args, **kwargs)
        if self.model_init is None:
            self.on_new_model(self.unwrapped_model)
        self.current_gradient_accumulation_steps = self.args.gradient_accumulation_steps
        # The terms are means over a micro-batch, so the loss must be divided by the accumulation steps.
        self.model_accepts_loss_kwargs = False
        self._forward_takes_labels = takes_labels(self.unwrapped_model)
        self.term_sums = TermSums()
        self._epochs = CountEpochs()
        self.add_callback(self._epochs)
        self.add_callback(_BeginTraining(self))
        self.add_callback(EndCheckpoint(self))
        self._user_metrics = self.compute_metrics
        self.compute_metrics = self._compute_metrics
        if self.preprocess_logits_for_metrics is not None:
            preprocess = self.preprocess_logits_for_metrics
            self.preprocess_logits_for_metrics = lambda predictions, labels: (
                predictions | {"logits": preprocess(predictions["logits"], labels)}
            )
        self.check_setup()
        self._configure_inputs()
        group_curves(self.callback_handler.callbacks, self.modalities)
        evals = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"evaluation": self.eval_dataset}
        self._names_in_data = check_rows(self.data_collator, {"training": self.train_dataset, **evals})
        name_classes(self.unwrapped_model, self._names_in_data)
        self._configure_inputs()  # with these names
        labels = labels_of(self.train_dataset, self.data_collator)
        check_several_classes(labels, self.problem_type)
        self.class_weights = self._class_weights(labels)
        for dataset in evals.values():
            check_full_batch(self.args, dataset, "eval")
            check_length_column(self.args, dataset, "evaluation")
        if self._user_metrics is None:
            sets = list(self.eval_dataset) if isinstance(self.eval_dataset, dict) else []
            check_best_metric(self.unwrapped_model, self.args, sets, self.metric_names())

    # ---- What a method may override ----

    def metric_names(self) -> tuple[str, ...]:
        """The names of the metrics of an evaluation, apart from those of a modality."""
        return "loss", *METRIC_NAMES[self.problem_type]

    def on_new_model(self, model: nn.Module) -> None:
        """
        Prepare a model for training. The trainer calls this method once, when it is created, or each time that
        `model_init` creates a model. Override it to change the model or to add hooks to it.

        Raises:
            ValueError: if `freeze` names a modality that the model does not have, or for a model that PEFT has wrapped.
        """
        check_not_adapted(model)
        keep_weight_names(model)
        if self.args.freeze:
            require_multimodal(model, "freeze").freeze(self.args.freeze)

    def check_setup(self) -> None:
        """
        Raise `ValueError` for a model, arguments or a dataset that cannot be trained. The trainer calls this method
        when it is created, before it checks the rows of the datasets. Override it to check what a method needs.
        """
        model, data = self.unwrapped_model, self.train_dataset
        check_modality_learning_rates(model, self.args.modality_learning_rates, self.optimizer)
        check_processor(model, self.processing_class)
        if isinstance(self.data_collator, MultimodalCollator):
            check_processor(model, self.data_collator.processor)
        check_options(model, self.args)
        check_problem_type(self.problem_type, self.args)
        if data is not None:
            check_collator(model, self.data_collator)
            check_length_column(self.args, data, "training")
            check_one_split(data)
            check_variable(self.data_collator, data)
            check_full_batch(self.args, data, "train")

    def load_method_state(self, checkpoint: str | None) -> None:
        """
        Load what [`SavingTrainer.save_method_state`] has written to the folder `checkpoint`, or reset the state if
        `checkpoint` is `None`. The trainer calls this method in every process when training begins. Override it.
        """

    def before_training(self, resume: bool) -> None:
        """
        Do what a method needs before the first step. The trainer calls this method in every process, once the output
        folder is locked and the checkpoint is chosen. `resume` is whether the user has asked to resume. Override it.
        """

    # ---- Model and optimizer ----

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """Create a model with `model_init`, and prepare it with [`MultimodalTrainer.on_new_model`]."""
        model = compiled_in_place(super().call_model_init(trial))
        self.on_new_model(model)
        name_classes(model, self._names_in_data)
        return model

    def create_optimizer(self, *args, **kwargs) -> torch.optim.Optimizer:
        """The optimizer of `Trainer`, with one more parameter group per encoder in `modality_learning_rates`."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if is_new and self.is_fsdp_enabled:
            optimizer.register_step_pre_hook(fill_gradients)
        if is_new and self.args.modality_learning_rates:
            set_modality_learning_rates(optimizer, self.unwrapped_model, self.args.modality_learning_rates)
        return optimizer

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs) -> TrainOutput:
        """
        Train as `Trainer` does, except that `resume_from_checkpoint=True` resumes from the newest *complete* checkpoint
        that this run has written to `output_dir`, or starts from the beginning if there is none. The checkpoint of
        another run must be named. No other process can train in `output_dir` meanwhile.

        Raises:
            ValueError: if a checkpoint was written completely, but the run cannot resume from it, see
                [`~pmr_hf.training.checkpoints.newest_complete_checkpoint`]; if a checkpoint is of another method, model
                or number of rows; if its files cannot be loaded.
            RuntimeError: for an `output_dir` in which another process trains, for a full or read-only disk, or for a
                dead data worker. The message says how to go on.
            FloatingPointError: for a loss term or a weight that is not finite.
        """
        folder, processes = self.args.output_dir, self.args.world_size

        def begin() -> tuple[str | None, RunRecord, list[str]]:
            locks.enter_context(self.folder_held())
            return begin_run(folder, resume_from_checkpoint, processes, self._new_record(), self.unwrapped_model)

        try:
            with failures_explained(folder, processes), ExitStack() as locks:
                self.resumed_from = None
                if self.is_whole_run:
                    self.resumed_from, self.run_record, warnings = decided_by_main(self.accelerator, begin)
                    for warning in warnings:
                        logger.warning(warning)
                self.fit_targets()
                self.before_training(bool(resume_from_checkpoint))
                with loading_explained(self.resumed_from, lambda: self._training_model is not None):
                    return super().train(self.resumed_from, *args, **kwargs)
        finally:
            self._training_model = None

    def hyperparameter_search(
        self,
        hp_space: Callable[[Any], dict[str, Any]] | None = None,
        compute_objective: Callable[[dict[str, float]], float] | None = None,
        n_trials: int = 20,
        direction: str | None = None,
        backend: str | None = None,
        sampler: Any = None,
    ) -> BestRun:
        """
        Search by optuna for the arguments whose training leaves the best model. The trainer needs `model_init`.

        Each trial trains a new model to the end and evaluates it once more. Its arguments are checked like those of any
        run. A trial whose loss is not finite fails, and the search goes on. Trials write to a folder inside
        `output_dir`, which is removed. Their arguments and objectives are in `search_results.json` in `output_dir`.
        Afterwards, the trainer has its own arguments and a new model. To train with the values that were found, call
        `trainer.use_arguments(dataclasses.replace(trainer.args, **best.hyperparameters))` and then `train`.

        Args:
            hp_space (`Callable`, *optional*): maps an `optuna.Trial` to values by the names of arguments. Defaults to
                `args.hp_space`, see [`MultimodalTrainingArguments.hp_space`].
            compute_objective (`Callable`, *optional*): maps the metrics of an evaluation to a number, and needs a
                `direction`. Defaults to `metric_for_best_model` with the direction of `greater_is_better`, or to the
                evaluation loss, which is minimized.
            n_trials (`int`, *optional*, defaults to `20`): number of trials, at least 1.
            direction (`str`, *optional*): `"minimize"` or `"maximize"`.
            backend (`str`, *optional*): must be `"optuna"` if it is given.
            sampler (`optuna.samplers.BaseSampler`, *optional*): defaults to a `TPESampler` with the seed `args.seed`.

        Returns:
            `BestRun`: the number of the best trial as `run_id`, its `objective`, and as `hyperparameters` the values
            that `hp_space` has returned for it.

        Raises:
            ImportError: without optuna.
            ValueError: without `model_init` or `eval_dataset`, for several processes or another backend; for an
                objective that does not fit its direction; for values of a trial that are no arguments, or are outside
                their range.
            FloatingPointError: if the loss of no trial stayed finite.
        """
        if backend not in (None, "optuna"):
            raise ValueError(f"Expected `backend='optuna'`, got {backend!r}; leave it out.")
        check_model_init(self)
        check_can_search(self, n_trials, compute_objective)
        objective = objective_of(self.args, compute_objective, direction)
        with self.folder_held():
            return search(self, self.args.hp_space if hp_space is None else hp_space, objective, n_trials, sampler)

    def use_arguments(self, args: MultimodalTrainingArguments, trial: Any = None) -> None:
        """
        Take other arguments and a new model of `model_init`, as if the trainer had been created with them. The
        integrations of `report_to` stay. Raises `ValueError` without `model_init`, or for arguments that the model or
        the dataset cannot be trained with.
        """
        check_model_init(self)
        self.args = args
        self.create_accelerator_and_postprocess()
        self._train_batch_size = args.train_batch_size
        self.label_smoother = LabelSmoother(args.label_smoothing_factor) if args.label_smoothing_factor else None
        self.is_in_train = False  # after an error in training
        self.optimizer = self.lr_scheduler = None
        set_seed(args.seed)
        self.model = self.model_wrapped = self.call_model_init(trial)
        if self.place_model_on_device:
            self._move_model_to_device(self.model, args.device)
        self.check_setup()

    def fit_targets(self) -> None:
        """
        Set the scale of a regression's targets by the training rows, unless the model already has one. Raises
        `ValueError` if the targets are only known once the rows are read.
        """
        model = self.unwrapped_model
        if self.problem_type != REGRESSION or model.target_scale.is_fitted:
            return
        targets = labels_of(self.train_dataset, self.data_collator)
        if targets is None:
            raise ValueError(
                f"Expected targets that are known before training, got a {type(self.train_dataset).__name__} whose "
                "rows must be read; call `model.fit_targets(targets)` first, with the targets of some training rows."
            )
        model.fit_targets(torch.from_numpy(targets))

    def _new_record(self) -> RunRecord:
        """The record of a run that begins now."""
        model, data = self.unwrapped_model, self.train_dataset
        config = json.loads(model.config.to_json_string()) if isinstance(model, MultimodalModel) else {}
        facts = facts_of_config(config) | self.run_facts()
        facts["rows"] = len(data) if has_length(data) else None
        arguments = arguments_that_matter(self.args)
        arguments["fingerprint of the training labels"] = fingerprint_of(labels_of(data, self.data_collator))
        if isinstance(self.data_collator, MultimodalCollator):
            arguments |= self.data_collator.variation
        return RunRecord(facts, arguments)

    def run_facts(self) -> dict[str, Any]:
        """What must be the same to resume, by name, in types of JSON. The model's config and the rows are added."""
        return {"method": type(self).__name__, "optimizer": OptimizerNames(self.args.optim).value}

    @property
    def unwrapped_model(self) -> nn.Module:
        """The model without the wrappers of Accelerate, DDP and similar tools."""
        # Unwrapping in each step would cost as much time as the distances to the prototypes.
        if self._training_model is not None:
            return self._training_model
        return self.accelerator.unwrap_model(self.model)

    @property
    def modalities(self) -> list[str]:
        """The names of the modalities, in the order of fusion. It is empty for a model of another class."""
        model = self.unwrapped_model
        return list(model.config.modalities) if isinstance(model, MultimodalModel) else []

    @property
    def num_labels(self) -> int | None:
        """The number of classes K, or `None` if the model is not a [`MultimodalModel`]."""
        model = self.unwrapped_model
        return model.config.num_labels if isinstance(model, MultimodalModel) else None

    @property
    def class_names(self) -> dict[int, str]:
        """The name of each class of a [`MultimodalModel`]. It is empty for a model of another class."""
        model = self.unwrapped_model
        return model.config.id2label if isinstance(model, MultimodalModel) else {}

    @property
    def problem_type(self) -> str:
        """What the model predicts, see [`MultimodalConfig`]. A model of another class predicts one class."""
        model = self.unwrapped_model
        return model.config.problem if isinstance(model, MultimodalModel) else SINGLE_LABEL

    @property
    def loss_name(self) -> str:
        """The log key of the loss: `"mse_loss"` of standardised targets in a regression, else `"ce_loss"`."""
        return "mse_loss" if self.problem_type == REGRESSION else "ce_loss"

    @property
    def hide_progress(self) -> bool:
        """Whether this process shows no progress bars."""
        return self.args.disable_tqdm or not self.is_local_process_zero()

    def _class_weights(self, labels: np.ndarray | None) -> torch.Tensor | None:
        """The weights (K,) of the classes, or `None`. `labels` are those of the training set, if known."""
        setting = self.args.class_weights
        if setting is None or self.train_dataset is None:
            return None
        if self.compute_loss_func is not None:
            raise ValueError(
                f"Expected `class_weights` or a `compute_loss_func`, got {setting!r:.80} and a function, whose loss "
                "they would not weight; leave one of them out."
            )
        if self.problem_type != SINGLE_LABEL:
            raise ValueError(
                f"Expected `problem_type={SINGLE_LABEL!r}` for `class_weights`, got {self.problem_type!r}; leave them "
                "out."
            )
        if self.num_labels is None:
            raise ValueError(
                f"Expected a model whose number of classes is known for `class_weights`, got a "
                f"{type(self.unwrapped_model).__name__}; pass a `compute_loss_func` instead."
            )
        weights = class_weights(setting, labels, self.num_labels, self.class_names)
        shown = {self.class_names.get(k, k): round(weight, 4) for k, weight in enumerate(weights.tolist())}
        logger.info(f"Weights of the classes: {dict(islice(shown.items(), 100))}")
        return weights.to(self.args.device)

    @property
    def weights_by_class(self) -> dict[int, float] | None:
        """The weight of each class, by its number; `None` without `class_weights`."""
        return None if self.class_weights is None else dict(enumerate(self.class_weights.tolist()))

    def _configure_inputs(self) -> None:
        """Pass the settings of the model to the collator and the tokenizers."""
        model, processors = self.unwrapped_model, [self.processing_class]
        if isinstance(self.data_collator, MultimodalCollator):
            names = model.config.id2label if isinstance(model, MultimodalModel) else {}
            self.data_collator.match_labels(self.num_labels, self.problem_type, names)
            self.data_collator.segments = not isinstance(model, MultimodalModel)
            processors.append(self.data_collator.processor)
        for processor in processors:
            if isinstance(model, MultimodalModel) and isinstance(processor, MultimodalProcessor):
                processor.match_encoders(model.config.backbones)

    # ---- Training data ----

    def get_train_dataloader(self) -> DataLoader:
        """The training dataloader of `Trainer`, with [`TrainingRows`] if the collator varies them."""
        collator = self.data_collator
        if self.train_dataset is None or not isinstance(collator, MultimodalCollator) or not collator.varied:
            return super().get_train_dataloader()
        return self._get_dataloader(
            dataset=TrainingRows(self.train_dataset, self.args.seed, self._epochs.epoch),
            description="Training",
            batch_size=self._train_batch_size,
            sampler_fn=lambda rows: self._get_train_sampler(rows.dataset),
            is_training=True,
        )

    # ---- The loss ----

    def run_model(self, model: nn.Module, inputs: Mapping[str, Any]) -> Any:
        """Run the model on a batch. The labels are passed to the model only if its `forward` takes them."""
        if not self._forward_takes_labels:
            inputs = {key: value for key, value in inputs.items() if key != "labels"}
        return model(**inputs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """The loss of `Trainer`, weighted by `class_weights`. Logs name it `ce_loss`, or `mse_loss` in a regression."""
        inputs = dict(inputs)  # `Trainer` pops the labels for label smoothing
        labels = inputs.get("labels")
        if not self._forward_takes_labels and self.label_smoother is None and self.compute_loss_func is None:
            inputs.pop("labels", None)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if self.class_weights is not None:
            loss = self._weighted_loss(outputs, labels)
        if self.args.n_gpu > 1:  # DataParallel gives one loss per GPU
            loss = loss.mean()
        require_scalar(loss, self.unwrapped_model)
        if model.training:
            mean = loss.detach()[None] / self.loss_scale
            self.track((self.loss_name,), mean, torch.ones_like(mean))
        return (loss, outputs) if return_outputs else loss

    def fused_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """
        The scalar loss of other fused logits (B, K) of a [`MultimodalModel`], with `class_weights` and label smoothing.
        """
        if self.class_weights is not None:
            return self._weighted_loss({"logits": logits}, labels)
        if self.label_smoother is not None:
            return self.label_smoother({"logits": logits}, labels)
        return self.unwrapped_model.loss_of(logits, labels)

    def _weighted_loss(self, outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        """The cross entropy with `class_weights`, a weighted mean over the batch of all processes."""
        smoothing = self.args.label_smoothing_factor
        total, weight = weighted_cross_entropy(outputs["logits"], labels, self.class_weights, smoothing)
        weight = self.accelerator.reduce(weight, "mean")  # DDP averages gradients over the processes
        return total / weight.clamp(min=torch.finfo(weight.dtype).tiny)

    @property
    def loss_scale(self) -> float:
        """
        The factor for each term that a method adds to the loss. The term is a mean over this micro-batch. With this
        factor, gradient accumulation averages it over the micro-batches.
        """
        # A loss of `compute_loss_func` is already divided by the accumulation steps; `Trainer` divides any other loss.
        return 1.0 if self.compute_loss_func is None else 1 / self.current_gradient_accumulation_steps

    def reset_calibration(self) -> None:
        """Set the temperature of the model to 1: a calibration holds for the weights that it was fitted to."""
        model = self.unwrapped_model
        if isinstance(model, MultimodalModel) and model.config.calibration_temperature != 1:
            logger.info(
                f"Setting `calibration_temperature` from {model.config.calibration_temperature:.3g} to 1, since "
                "training changes the weights that it was fitted to; calibrate the trained model again."
            )
            model.config.calibration_temperature = 1.0

    # ---- Logs ----

    def track(self, names: tuple[str, ...], sums: torch.Tensor, counts: torch.Tensor) -> None:
        """
        Add to the sums and counts of named terms. The next log shows sum / count of each term, over all processes and
        all steps since the last log.

        Args:
            names (`tuple[str, ...]`): T log keys, the same in each step.
            sums (`torch.Tensor`): (T,), the sum of each term over this batch.
            counts (`torch.Tensor`): (T,), the number that each sum is divided by.
        """
        self.term_sums.add(names, sums, counts)

    def summarize(self, totals: dict[str, tuple[float, float]]) -> dict[str, float]:
        """
        Compute the log entries of the tracked terms. `totals` maps the name of each term to its sum and count. Override
        this method to add entries that are derived from these.
        """
        return {name: total / count for name, (total, count) in totals.items() if count}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as `Trainer` does, with the tracked terms. Raises `FloatingPointError` if a term is not finite."""
        if self.is_in_train and ("loss" in logs or "train_loss" in logs):
            totals = self.term_sums.totals(self.accelerator)
            check_finite_terms(totals, self.state.global_step)
            self.term_sums.clear()
            if "loss" in logs:
                if not totals:
                    self._warn_of_untracked_loss()
                logs.update(self.summarize(totals))
        super().log(logs, start_time)

    def _warn_of_untracked_loss(self) -> None:
        logger.warning_once(
            f"Expected `compute_loss` of {type(self).__name__} to call `super().compute_loss`, but no term was "
            "tracked, so the method adds nothing to the loss; for weights of classes, set `class_weights`; for another "
            "loss, pass a `compute_loss_func` or override `method_loss`."
        )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """
        Save as [`SavingTrainer`] does.

        Raises:
            FloatingPointError: if a loss term or a weight is not finite.
            RuntimeError: for a full or read-only disk, or if another process trains in the folder.
        """
        check_finite_terms(self.term_sums.totals(self.accelerator), self.state.global_step)
        check_finite_weights(self.unwrapped_model, self.accelerator, self.state.global_step)
        super().save_model(output_dir, _internal_call)

    # ---- Evaluation ----

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """
        The evaluation dataloader of `Trainer`. A dataset that is given here always gets a new dataloader, because
        `Trainer` may serve it with the persistent workers of another dataset.
        """
        if eval_dataset is None or isinstance(eval_dataset, str):
            return super().get_eval_dataloader(eval_dataset)
        eval_dataset = frames_as_datasets(eval_dataset)
        check_rows(None, {"evaluation": eval_dataset})
        check_full_batch(self.args, eval_dataset, "eval")
        return self.get_test_dataloader(eval_dataset)  # the same dataloader, which is not cached

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        """
        The test dataloader of `Trainer`, which also takes a pandas DataFrame. Raises `ValueError` for class names of
        another order than in the model.
        """
        test_dataset = frames_as_datasets(test_dataset)
        check_length_column(self.args, test_dataset, "evaluation")
        if isinstance(self.data_collator, MultimodalCollator):
            self.data_collator.check_class_names(test_dataset)
        return super().get_test_dataloader(test_dataset)

    def modality_predictions(self, outputs: Any) -> dict[str, torch.Tensor]:
        """
        What each modality predicts alone, under the key of its metric, see
        [`~pmr_hf.training.counted_samples.guesses_of`]. Override this method to add the predictions of other
        classifiers, with [`MultimodalTrainer.guesses`].
        """
        model = self.unwrapped_model
        splits = isinstance(model, MultimodalModel) and model.fusion.splits_by_modality
        if not splits or self.problem_type == REGRESSION:  # a part of a sum is no prediction
            return {}
        return self.guesses("", model.modality_logits(outputs.embeddings, outputs.present), outputs)

    def guesses(self, classifier: str, logits: Mapping[str, torch.Tensor], outputs: Any) -> dict[str, torch.Tensor]:
        """
        The predictions of logits (B, K) by modality, under keys such as `image_prototype_accuracy`, where `classifier`
        is `"prototype_"`. The metric is that of the problem type.
        """
        metric = MODALITY_METRIC[self.problem_type]
        return {
            f"{name}_{classifier}{metric}": guesses_of(name, values, outputs, self.problem_type)
            for name, values in logits.items()
        }

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, dict[str, torch.Tensor] | None, torch.Tensor | None]:
        """
        Evaluate a batch as `Trainer` does. The predictions are a dict: those of
        [`MultimodalTrainer.modality_predictions`], and `logits` if the model returns them.
        """
        inputs = self._prepare_inputs(inputs)
        labels = inputs.get("labels")
        with torch.no_grad(), self.compute_loss_context_manager():
            if labels is None:
                loss, outputs = None, self.run_model(model, inputs)
            else:
                loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
            if prediction_loss_only:
                return loss, None, None
            predictions = self.modality_predictions(outputs)
        if "logits" in outputs:
            predictions["logits"] = outputs["logits"]
        return loss, predictions or None, labels

    def evaluation_loop(self, *args, **kwargs) -> EvalLoopOutput:
        """Evaluate as `Trainer` does. The output has only the fused logits as its predictions, or `None`."""
        output = super().evaluation_loop(*args, **kwargs)
        if isinstance(output.predictions, dict):
            output = output._replace(predictions=output.predictions.get("logits"))
        return output

    def _compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        several = self.problem_type == REGRESSION and self.num_labels > 1
        names = [self.class_names[i] for i in range(self.num_labels)] if several else None
        return modality_metrics(prediction, self._user_metrics, self.problem_type, names)


class _BeginTraining(TrainerCallback):
    """Prepares the trainer when training begins. `auto_find_batch_size` begins again until a batch size fits."""

    def __init__(self, trainer: MultimodalTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        trainer = self.trainer
        trainer.term_sums.clear()
        if trainer.resumed_from is not None:
            problem = foreign_optimizer_state(trainer.optimizer)
            if problem is not None:
                raise ValueError(f"Expected the state of this run's optimizer, but {problem}.")
            warn_of_later_pass(trainer.train_dataset, trainer.resumed_from)
        trainer.fit_targets()  # of a model that `model_init` has created
        trainer.reset_calibration()
        trainer.load_method_state(trainer.resumed_from)
        trainer._training_model = trainer.accelerator.unwrap_model(trainer.model)


def warn_of_later_pass(train_dataset: Any, checkpoint: str) -> None:
    """Warn if a stream goes on from a later pass: `Trainer` begins it anew, and counts the passes anew."""
    file = Path(checkpoint, TRAINER_STATE_NAME)
    if is_stream(train_dataset) and file.is_file() and (TrainerState.load_from_json(str(file)).epoch or 0) >= 1:
        logger.warning(
            f"Resuming a stream from {checkpoint}, which was written after its first pass: the stream and the count of "
            "passes begin anew, and so do terms that had ended, as by `pmr_epochs`. Only a checkpoint of the first "
            "pass goes on as an uninterrupted run does."
        )


def takes_labels(model: nn.Module) -> bool:
    """Whether the `forward` of a model takes `labels`, by that name or in its `**kwargs`."""
    parameters = inspect.signature(model.forward).parameters
    return "labels" in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def keep_weight_names(model: nn.Module) -> None:
    """
    Make a model save its weights under the names that they have in training. A [`MultimodalModel`] does so already.
    With legacy names, a ViT or AST silently loses its weights on resume and in `load_best_model_at_end`.
    """
    if isinstance(model, PreTrainedModel) and not isinstance(model, MultimodalModel):
        model.save_pretrained = partial(model.save_pretrained, save_original_format=False)
