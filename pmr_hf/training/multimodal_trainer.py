"""`MultimodalTrainer` adds per-modality logs and metrics to `Trainer`."""

import inspect
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from huggingface_hub.errors import EntryNotFoundError, HTTPError  # of httpx, whichever version the client has
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, Dataset
from transformers import EvalPrediction, PreTrainedModel, Trainer, TrainerCallback, default_data_collator
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, TrainOutput, has_length
from transformers.utils import logging

from ..data.collator import MultimodalCollator
from ..model.modeling import MultimodalModel, MultimodalOutput
from ..model.processor import MultimodalProcessor
from .arguments import MultimodalTrainingArguments
from .checkpoints import check_writable, checkpoint_problems, failures_explained, newest_complete_checkpoint
from .metrics import Accuracy, MacroF1


logger = logging.get_logger(__name__)

PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")


class MultimodalTrainer(Trainer):
    """
    `Trainer` for models of several modalities: joint training with one loss, watched modality by modality.

    It logs each named loss term. Evaluation gives `accuracy` and `macro_f1`, or what a `compute_metrics` of your own
    gives on the fused logits, and `m_accuracy` for each modality m of a fusion head that splits by modality. A loss
    that is not finite stops the run at the next log, and no weights that are not finite are ever saved.

    Args:
        model (`MultimodalModel | torch.nn.Module`): the model.
        args (`MultimodalTrainingArguments`): the arguments.
        kwargs: everything else that `Trainer` takes. `processing_class` is a [`MultimodalProcessor`] and
            `data_collator` a [`MultimodalCollator`], or your own.

    Raises:
        ValueError: before training, for an empty dataset, a missing column, labels that are not integers in 0..K-1, a
            processor whose modalities differ from the model's.
        FloatingPointError: at a log or a save, for a loss term or a weight that is not finite.
    """

    args_class = MultimodalTrainingArguments

    def __init__(self, model: nn.Module | None = None, args: MultimodalTrainingArguments | None = None, **kwargs):
        args = self.args_class("tmp_trainer") if args is None else args
        if not isinstance(args, self.args_class):
            raise TypeError(
                f"Expected `args` of {self.args_class.__name__}, got {type(args).__name__}; it takes the same fields."
            )
        if args.should_save and kwargs.get("train_dataset") is not None:
            check_writable(args.output_dir)
        self._training_model: nn.Module | None = None
        super().__init__(model=model, args=args, **kwargs)
        if self.model_init is None:
            self.on_new_model(self.unwrapped_model)
        self.current_gradient_accumulation_steps = self.args.gradient_accumulation_steps
        # The terms are means over a micro-batch, so the loss must be divided by the accumulation steps.
        self.model_accepts_loss_kwargs = False
        self._forward_takes_labels = "labels" in inspect.signature(self.unwrapped_model.forward).parameters
        # Names of terms to their sums and counts since the last log, (2, T) on the device
        self._window: dict[tuple[str, ...], torch.Tensor] = {}
        self.add_callback(_BeginTraining(self))
        self._user_metrics = self.compute_metrics
        self.compute_metrics = self._compute_metrics
        if self.preprocess_logits_for_metrics is not None:
            preprocess = self.preprocess_logits_for_metrics
            self.preprocess_logits_for_metrics = lambda predictions, labels: (
                predictions | {"logits": preprocess(predictions["logits"], labels)}
            )
        self.check_setup()

    def call_model_init(self, trial: Any = None) -> nn.Module:
        model = super().call_model_init(trial)
        self.on_new_model(model)
        return model

    def on_new_model(self, model: nn.Module) -> None:
        keep_weight_names(model)
        if self.args.freeze:
            require_multimodal(model, "freeze").freeze(self.args.freeze)

    def create_optimizer(self, *args, **kwargs) -> torch.optim.Optimizer:
        """The optimizer of plain `Trainer`, with the encoders of `modality_learning_rates` in groups of their own."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if is_new and self.is_fsdp_enabled:
            optimizer.register_step_pre_hook(_fill_gradients)
        rates = (self.args.modality_learning_rates or {}) if is_new else {}
        backbones = self.unwrapped_model.backbones if rates else {}
        for name, rate in rates.items():
            own = set(backbones[name].parameters())
            for group in list(optimizer.param_groups):
                chosen = [parameter for parameter in group["params"] if parameter in own]
                if chosen:
                    group["params"] = [parameter for parameter in group["params"] if parameter not in own]
                    optimizer.add_param_group({**group, "params": chosen, "lr": rate})
        return optimizer

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs) -> TrainOutput:
        """
        Train, as plain `Trainer` does, but `resume_from_checkpoint=True` goes on from the newest *complete* checkpoint
        of `output_dir`, and from the beginning if there is none.
        """
        folder, processes = self.args.output_dir, self.args.world_size
        if resume_from_checkpoint is True:
            self.resumed_from = newest_complete_checkpoint(folder, processes)
            if self.resumed_from is None:
                logger.warning(f"There is no complete checkpoint in {folder}: training from the beginning.")
        else:
            self.resumed_from = resume_from_checkpoint or None
            problems = [] if self.resumed_from is None else checkpoint_problems(self.resumed_from, processes)
            if problems:
                logger.warning(f"Resuming from {self.resumed_from} without all that it should have: {problems}.")
        try:
            with failures_explained(folder, processes):
                return super().train(self.resumed_from, *args, **kwargs)
        finally:
            self._training_model = None

    @property
    def unwrapped_model(self) -> nn.Module:
        # To unwrap it in each step would cost as much as the distances.
        if self._training_model is not None:
            return self._training_model
        return self.accelerator.unwrap_model(self.model)

    def check_setup(self) -> None:
        """Stop before training on what can be told from the model, the processor and the datasets' columns."""
        model, processor, collator = self.unwrapped_model, self.processing_class, self.data_collator
        if self.args.modality_learning_rates:
            names = list(require_multimodal(model, "modality_learning_rates").backbones)
            unknown = [name for name in self.args.modality_learning_rates if name not in names]
            if unknown:
                raise ValueError(f"Expected `modality_learning_rates` to name modalities among {names}, got {unknown}.")
        if isinstance(model, MultimodalModel) and isinstance(processor, MultimodalProcessor):
            backbones, processors = model.config.modalities, list(processor.processors)
            if set(backbones) != set(processors):
                raise ValueError(
                    f"Expected a processor for each of the model's modalities {backbones}, got processors for "
                    f"{processors}; give both the same names."
                )
            for name in backbones:
                processor.kind(name).match_encoder(model.config.backbones[name])
        data = self.train_dataset
        if isinstance(collator, MultimodalCollator):
            collator.num_labels = self.num_labels
            collator.segments = not isinstance(model, MultimodalModel)
        elif data is not None and isinstance(model, MultimodalModel) and collator is default_data_collator:
            raise ValueError(
                "Expected a `data_collator`, got none; pass a MultimodalCollator(processor, columns, label)."
            )
        lengths = self.args.length_column_name
        by_length = data is not None and self.args.train_sampling_strategy in ("group_by_length", "batch_rebalance")
        if by_length and not (isinstance(data, datasets.Dataset) and lengths in data.column_names):
            raise ValueError(
                f"Expected a `datasets.Dataset` with a column {lengths!r} to sample by, since samples of several "
                "modalities have no one length; add the column, for instance with `map`."
            )
        if isinstance(data, dict):
            raise ValueError(
                f"Expected one training dataset, got a {type(data).__name__} of {list(data)}; pass one of its splits."
            )
        evals = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"evaluation": self.eval_dataset}
        class_names = {}
        for name, dataset in {"training": data, **evals}.items():
            if dataset is None or not has_length(dataset):
                continue
            if len(dataset) == 0:
                raise ValueError(f"Expected the {name} dataset to have at least one row, got none; check its split.")
            if isinstance(collator, MultimodalCollator):
                class_names[name] = collator.check_dataset(dataset)
        known = [names for names in class_names.values() if names is not None]
        if any(names != known[0] for names in known):
            raise ValueError(
                f"Expected the same class names in each dataset, got {class_names}; encode them before splitting."
            )

    @property
    def num_labels(self) -> int | None:
        model = self.unwrapped_model
        return model.config.num_labels if isinstance(model, MultimodalModel) else None

    def run_model(self, model: nn.Module, inputs: Mapping[str, Any]) -> Any:
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
        """The loss of plain `Trainer`, logged as `ce_loss`."""
        inputs = dict(inputs)  # `Trainer` pops the labels for label smoothing
        if not self._forward_takes_labels and self.label_smoother is None and self.compute_loss_func is None:
            inputs.pop("labels", None)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if self.args.n_gpu > 1:  # DataParallel gives one loss per GPU
            loss = loss.mean()
        if model.training:
            self.track(("ce_loss",), loss[None] / self.loss_scale, torch.ones_like(loss)[None])
        return (loss, outputs) if return_outputs else loss

    @property
    def loss_scale(self) -> float:
        # A loss of `compute_loss_func` is scaled for gradient accumulation; `Trainer` divides any other by the steps.
        return 1.0 if self.compute_loss_func is None else 1 / self.current_gradient_accumulation_steps

    # ---- Named terms: summed on the device, read once per log ----

    def track(self, names: tuple[str, ...], sums: torch.Tensor, counts: torch.Tensor) -> None:
        """
        Add to terms that the next log shows as sum / count over its window and all processes.

        Args:
            names (`tuple[str, ...]`): T log keys, the same in each step.
            sums (`torch.Tensor`): (T,), each term summed over this batch.
            counts (`torch.Tensor`): (T,), what to divide it by.
        """
        step = torch.stack([sums.detach().float(), counts.float()])
        if names in self._window:
            self._window[names] += step
        else:
            self._window[names] = step

    def _window_sums(self) -> dict[str, tuple[float, float]]:
        if not self._window:
            return {}
        names = [name for group in self._window for name in group]
        sums, counts = self.accelerator.reduce(torch.cat(list(self._window.values()), dim=1), "sum").tolist()
        return {name: (total, count) for name, total, count in zip(names, sums, counts, strict=True)}

    def summarize(self, window: dict[str, tuple[float, float]]) -> dict[str, float]:
        """The log entries of a window of tracked terms, name: (sum, count). Override to add what follows from them."""
        return {name: total / count for name, (total, count) in window.items() if count}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.is_in_train and ("loss" in logs or "train_loss" in logs):
            window = self._window_sums()
            self._check_finite(window)
            self._window = {}
            if "loss" in logs:
                logs.update(self.summarize(window))
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        self._check_finite(self._window_sums())
        model, sharded = self.unwrapped_model, False
        finite = {}
        for name, parameter in model.named_parameters():
            if isinstance(parameter, DTensor):
                parameter, sharded = parameter.to_local(), True
            finite[name] = parameter.isfinite().all()
        # A buffer may be a mask of -inf.
        finite |= {name: ~buffer.isnan().any() for name, buffer in model.named_buffers()}
        flags = torch.stack(list(finite.values())).float()
        flags = (self.accelerator.reduce(flags, "mean") if sharded else flags).tolist()
        names = [name for name, flag in zip(finite, flags, strict=True) if flag < 1]
        if names:
            self._stop_not_finite(f"{len(names)} of {len(finite)} weights, first {names[0]}")
        super().save_model(output_dir, _internal_call)
        if self.args.should_save and output_dir in (None, self.args.output_dir):
            # A pickle, which would be pushed; the checkpoints keep theirs.
            Path(self.args.output_dir, "training_args.bin").unlink(missing_ok=True)

    def push_to_hub(self, *args, **kwargs):
        """
        As of plain `Trainer`.

        Raises:
            ValueError: if `output_dir` holds pickles, which would be pushed with it.
            RuntimeError: if the upload fails. All is saved in `output_dir` by then.
        """
        folder = Path(self.args.output_dir)
        (folder / "training_args.bin").unlink(missing_ok=True)  # as `save_model` does
        names = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix in PICKLES)
        # `Trainer` leaves out its checkpoints, but not those of a search, which lie deeper.
        pickles = sorted(str(name) for name in names if not name.parts[0].startswith((PREFIX_CHECKPOINT_DIR, "_")))
        if pickles:
            raise ValueError(
                f"Expected no pickles to push in {folder}, got {len(pickles)}, first {pickles[0]}; delete them, such "
                "as the checkpoints of a hyperparameter search, and push again."
            )
        try:
            return super().push_to_hub(*args, **kwargs)
        except (HTTPError, EntryNotFoundError, OSError, RuntimeError) as error:
            raise RuntimeError(
                f"Expected to push to {self.hub_model_id}, but the upload failed ({error}). The model is saved in "
                f"{folder}: push again with `trainer.push_to_hub()`, or by `hf upload`."
            ) from error

    def _check_finite(self, window: dict[str, tuple[float, float]]) -> None:
        bad = {name: total for name, (total, _) in window.items() if not math.isfinite(total)}
        if bad:
            self._stop_not_finite(", ".join(f"{name}={total}" for name, total in bad.items()))

    def _stop_not_finite(self, found: str) -> None:
        raise FloatingPointError(
            f"Expected finite losses and weights at step {self.state.global_step}, got {found}; nothing was saved "
            "since, so resume from the last checkpoint with a lower learning rate or `max_grad_norm`, or look for the "
            "inputs that are not finite."
        )

    # ---- Evaluation ----

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """As of plain `Trainer`, but persistent workers give a dataset of your own its own rows."""
        if eval_dataset is None or isinstance(eval_dataset, str):
            return super().get_eval_dataloader(eval_dataset)
        return self.get_test_dataloader(eval_dataset)  # the same, not kept

    def modality_predictions(self, outputs: Any) -> dict[str, torch.Tensor]:
        """
        Predicted classes (B,), or (B, T) of segments, of each modality alone, by the key of their accuracy, with -1
        where it is absent.
        Override to add some.
        """
        model = self.unwrapped_model
        if not isinstance(model, MultimodalModel) or not model.fusion.splits_by_modality:
            return {}
        logits = model.modality_logits(outputs.embeddings, outputs.present)
        return {f"{name}_accuracy": classes_of(name, values, outputs) for name, values in logits.items()}

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, dict[str, torch.Tensor] | None, torch.Tensor | None]:
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
        output = super().evaluation_loop(*args, **kwargs)
        if isinstance(output.predictions, dict):
            output = output._replace(predictions=output.predictions.get("logits"))
        return output

    def _compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        predictions, labels = dict(prediction.predictions), prediction.label_ids
        logits = predictions.pop("logits", None)
        metrics = {}
        if logits is not None and self._user_metrics is not None:
            metrics |= self._user_metrics(
                EvalPrediction(logits, labels, inputs=prediction.inputs, losses=prediction.losses)
            )
        elif logits is not None:
            classes, has = logits.argmax(-1), labels >= 0  # segments may lack a label
            if has.any():
                metrics |= Accuracy().compute(predictions=classes[has], references=labels[has])
                metrics |= MacroF1().compute(predictions=classes[has], references=labels[has])
        for key, classes in predictions.items():
            has = (classes >= 0) & (labels >= 0)  # samples with this modality
            if has.any():
                metrics[key] = Accuracy().compute(predictions=classes[has], references=labels[has])["accuracy"]
        return metrics


class _BeginTraining(TrainerCallback):
    """Forgets the terms of a run that failed, as the attempts of `auto_find_batch_size` do, and unwraps the model."""

    def __init__(self, trainer: MultimodalTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer._window = {}
        self.trainer._training_model = self.trainer.accelerator.unwrap_model(self.trainer.model)


def keep_weight_names(model: nn.Module) -> None:
    """
    Make a model of another class save its weights under the names that it has while training, as a [`MultimodalModel`]
    does. Under legacy names those of a ViT or AST are lost on resume and in `load_best_model_at_end`, silently.
    """
    if isinstance(model, PreTrainedModel) and not isinstance(model, MultimodalModel):
        model.save_pretrained = partial(model.save_pretrained, save_original_format=False)


def present_of(outputs: Any) -> Mapping[str, torch.Tensor] | None:
    return outputs.present if isinstance(outputs, MultimodalOutput) else None


def classes_of(name: str, logits: torch.Tensor, outputs: Any) -> torch.Tensor:
    """Predicted classes (B,), or (B, T) of segments; -1 for samples without the modality."""
    present, classes = present_of(outputs), logits.argmax(-1)
    if present is None:
        return classes
    return torch.where(present[name] if classes.dim() == 1 else present[name][:, None], classes, -1)


def _fill_gradients(optimizer: torch.optim.Optimizer, *args) -> None:
    """Zeros for parameters that nothing used, as BERT's pooler: FSDP resumes no optimizer that lacks their state."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)


def require_multimodal(model: nn.Module, argument: str) -> MultimodalModel:
    if not isinstance(model, MultimodalModel):
        raise ValueError(f"Expected a MultimodalModel for `{argument}`, got a {type(model).__name__}; leave it out.")
    return model
