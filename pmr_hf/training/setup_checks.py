"""The checks of a trainer before training. Each function finds one mistake, and its error is one sentence."""

import sys
from collections.abc import Collection
from typing import Any, get_args

import datasets
import numpy as np
import torch
from torch import nn
from torch.utils.data import IterableDataset
from transformers import PreTrainedModel, ProcessorMixin, TrainingArguments, default_data_collator
from transformers.trainer_utils import _is_peft_model, has_length, unwrap_peft_model

from ..data.collator import MultimodalCollator
from ..data.labels import NO_LABEL
from ..data.shortened import shortened
from ..model.kinds import ModalityProcessor
from ..model.modeling import MultimodalModel
from ..model.multimodal_processor import MultimodalProcessor
from ..model.prototypes import Prototypes
from ..model.targets import MODALITY_METRIC, MULTI_LABEL, REGRESSION, SINGLE_LABEL


# The processors that belong to one encoder: of one modality, or of one model of transformers such as CLIP
SINGLE_PROCESSORS = (*get_args(ModalityProcessor), ProcessorMixin)


def require_multimodal(model: nn.Module, argument: str) -> MultimodalModel:
    """Return the model. Raises `ValueError` if it is not a [`MultimodalModel`], which `argument` needs."""
    if not isinstance(model, MultimodalModel):
        raise ValueError(f"Expected a MultimodalModel for `{argument}`, got a {type(model).__name__}; leave it out.")
    return model


def check_not_adapted(model: nn.Module) -> None:
    """
    Raise `ValueError` for a model that PEFT has wrapped, or to which `add_adapter` has added layers. Such a model saves
    its adapters alone, so that the fusion head and the prototypes would be lost.
    """
    if isinstance(model, MultimodalModel):
        check_not_injected(model)
    wrapped = _is_peft_model(model)
    if not wrapped and not (isinstance(model, PreTrainedModel) and model._hf_peft_config_loaded):
        return
    inner = unwrap_peft_model(model)
    way_out = "adapt its layers in place with `peft.inject_adapter_in_model`"
    if isinstance(inner, MultimodalModel):
        way_out = f"give `lora={{{next(iter(inner.backbones))!r}: {{'r': 8}}}}` to `MultimodalModel.from_backbones`"
    raise ValueError(
        f"Expected a model without adapters of PEFT, got a {type(inner).__name__} "
        f"{f'in a {type(model).__name__}' if wrapped else 'after `add_adapter`'}, which would save its adapters "
        f"without the rest; {way_out}."
    )


def check_not_injected(model: MultimodalModel) -> None:
    """Raise `ValueError` for an encoder with layers of PEFT that its config does not name: none could load it."""
    tuners = sys.modules.get("peft.tuners.tuners_utils")  # imported by whoever has made such layers
    for name, backbone in model.backbones.items() if tuners is not None else ():
        if name not in model.config.lora and any(
            isinstance(module, tuners.BaseTunerLayer) for module in backbone.modules()
        ):
            raise ValueError(
                f"Expected the encoder of {name!r} without adapters of PEFT, got some that were injected, which the "
                f"saved config would not build again; give `lora={{{name!r}: {{'r': 8}}}}` to "
                "`MultimodalModel.from_backbones`."
            )


def require_scalar(loss: torch.Tensor, model: nn.Module) -> None:
    """Raise `ValueError` for a loss that is no scalar, such as the logits of a model that returns a tuple."""
    if loss.dim() > 0:
        raise ValueError(
            f"Expected a scalar loss, got a tensor {tuple(loss.shape)} as the loss of a {type(model).__name__}; let "
            "its `forward` take `labels` and return the `loss` first, or pass a `compute_loss_func`."
        )


def is_stream(dataset: Any) -> bool:
    """Whether a dataset can only be read from its beginning, or has no length."""
    return isinstance(dataset, IterableDataset) or not has_length(dataset)


def check_modality_learning_rates(model: nn.Module, rates: dict[str, float] | None, optimizer: Any = None) -> None:
    """
    Raise `ValueError` unless the model has all modalities in `rates`, and trains their encoders. `optimizer` is the
    optimizer that a user passed, whose parameter groups have rates of their own.
    """
    if not rates:
        return
    if optimizer is not None:
        raise ValueError(
            f"Expected `modality_learning_rates` or an optimizer in `optimizers`, got {rates} and a "
            f"{type(optimizer).__name__}, which has its own rates; leave one out, or pass `optimizer_cls_and_kwargs`."
        )
    names = list(require_multimodal(model, "modality_learning_rates").backbones)
    unknown = [name for name in rates if name not in names]
    if unknown:
        raise ValueError(
            f"Expected `modality_learning_rates` to name modalities among {names}, got {unknown}; correct it."
        )
    frozen = [name for name in rates if not any(part.requires_grad for part in model.backbones[name].parameters())]
    if frozen:
        raise ValueError(
            f"Expected `modality_learning_rates` for encoders that are trained, got {frozen}, which are frozen; leave "
            "out their rates, or do not freeze them."
        )


def check_processor(model: nn.Module, processor: Any) -> None:
    """
    Raise `ValueError` unless the model and the processor have the same modalities. The processor may also be a class of
    the user, but not the processor of a single modality, with which the saved model would be of no use.
    """
    if isinstance(model, MultimodalModel) and isinstance(processor, SINGLE_PROCESSORS):
        raise ValueError(
            f"Expected a MultimodalProcessor as `processing_class`, got a {type(processor).__name__}; pass "
            "MultimodalProcessor({...}) with a processor for each of the modalities "
            f"{model.config.modalities}, or leave it out to take the processor of the MultimodalCollator."
        )
    if not isinstance(model, MultimodalModel) or not isinstance(processor, MultimodalProcessor):
        return
    backbones, processors = model.config.modalities, list(processor.processors)
    if set(backbones) != set(processors):
        raise ValueError(
            f"Expected a processor for each of the model's modalities {backbones}, got processors for {processors}; "
            "give both the same names."
        )


def check_collator(model: nn.Module, collator: Any) -> None:
    """Raise `ValueError` for a [`MultimodalModel`] without a collator for several modalities."""
    if isinstance(model, MultimodalModel) and collator is default_data_collator:
        raise ValueError("Expected a `data_collator`, got none; pass a MultimodalCollator(processor, columns, label).")


def check_options(model: nn.Module, args: TrainingArguments) -> None:
    """Raise `ValueError` for options of `Trainer` that cannot apply to a model of several encoders."""
    if not isinstance(model, MultimodalModel):
        return
    if "inputs" in args.include_for_metrics:
        raise ValueError(
            "Expected `include_for_metrics` without 'inputs', since a batch has the inputs of several encoders, got "
            f"{args.include_for_metrics}; leave it out, and read what you need from the evaluation set by its rows."
        )
    if args.neftune_noise_alpha is not None:
        raise ValueError(
            f"Expected no `neftune_noise_alpha`, got {args.neftune_noise_alpha}, since each encoder has embeddings of "
            "its own; leave it out, or load a text encoder and add the noise to it."
        )
    if args.use_liger_kernel:
        raise ValueError(
            "Expected `use_liger_kernel=False`, got True, since Liger has no kernels for a model of several encoders; "
            "leave it out, or apply Liger to an encoder before you pass it."
        )
    if args.include_num_input_tokens_seen != "no":
        raise ValueError(
            f"Expected `include_num_input_tokens_seen='no'`, got {args.include_num_input_tokens_seen!r}, since the "
            "inputs of several encoders have no common number of tokens; leave it out."
        )


def check_best_metric(
    model: nn.Module, args: TrainingArguments, sets: Collection[str], metrics: Collection[str]
) -> None:
    """
    Raise `ValueError` if `metric_for_best_model` is neither among the trainer's `metrics` nor a metric of a modality,
    or if it is an error and the greatest one would be kept. `sets` are the names of several evaluation sets; the
    metric must then begin with one of them. Without this check, `Trainer` stops after the first evaluation.
    """
    metric = args.metric_for_best_model
    if metric is None or not isinstance(model, MultimodalModel):
        return
    of_modality = MODALITY_METRIC[model.config.problem]
    name = metric.removeprefix("eval_")
    if sets:
        set_names = [part for part in sets if name.startswith(f"{part}_")]
        if not set_names:
            raise ValueError(
                f"Expected `metric_for_best_model` to begin with the name of an evaluation set, such as "
                f"'{next(iter(sets))}_{name}', since there are several, {list(sets)}, got {metric!r}; correct it."
            )
        name = name.removeprefix(f"{set_names[0]}_")
    own = name.endswith(f"_{of_modality}") and any(name.startswith(f"{part}_") for part in model.config.modalities)
    if not own and name not in metrics:
        part = "unimodal" if model.config.problem == REGRESSION else "prototype"
        raise ValueError(
            f"Expected `metric_for_best_model` to be {', '.join(map(repr, metrics))} or the {of_modality} of a "
            f"modality, such as '{model.config.modalities[0]}_{part}_{of_modality}', got {metric!r}; correct it, or "
            "pass a `compute_metrics` that returns it."
        )
    if name.endswith(("mae", "rmse")) and args.greater_is_better:
        raise ValueError(
            f"Expected `greater_is_better=False` with metric_for_best_model={metric!r}, which is an error, got True; "
            "set it, or the weights with the greatest error would be kept."
        )


def check_full_batch(args: TrainingArguments, dataset: Any, use: str) -> None:
    """Raise `ValueError` if `dataloader_drop_last` would drop a whole dataset. `use` is "train" or "eval"."""
    if not args.dataloader_drop_last or not has_length(dataset):
        return
    size = (args.train_batch_size if use == "train" else args.eval_batch_size) * args.world_size
    if len(dataset) < size:
        raise ValueError(
            f"Expected at least {size} rows to {use}, the batch of all processes, since `dataloader_drop_last` "
            f"drops incomplete batches, got {len(dataset)}; lower `per_device_{use}_batch_size`, or set "
            "`dataloader_drop_last=False`."
        )


def check_length_column(args: TrainingArguments, dataset: Any, name: str) -> None:
    """
    Raise `ValueError` if the sampling strategy needs a length column that the training or evaluation set lacks: in
    `Trainer`, evaluation samples as training does.
    """
    if args.train_sampling_strategy not in ("group_by_length", "batch_rebalance"):
        return
    if name != "training" and (dataset is None or not has_length(dataset)):  # a stream has no sampler
        return
    column = args.length_column_name
    if not isinstance(dataset, datasets.Dataset) or column not in dataset.column_names:
        raise ValueError(
            f"Expected the {name} set to be a `datasets.Dataset` with a column {column!r} to sample by, since samples "
            "of several modalities have no single length; add the column, for instance with `map`."
        )


def check_one_split(train_dataset: Any) -> None:
    """Raise `ValueError` if the training set is a dict of splits."""
    if isinstance(train_dataset, dict):
        raise ValueError(
            f"Expected one training set, got a {type(train_dataset).__name__} of {list(train_dataset)}; pass one "
            "of its splits."
        )


def check_variable(collator: Any, train_dataset: Any) -> None:
    """Raise `ValueError` for a training set that a collator with `augment` or random frames cannot vary."""
    if not isinstance(collator, MultimodalCollator) or not collator.varied:
        return
    if is_stream(train_dataset):
        raise ValueError(
            "Expected a map-style training set with a length for `augment` or frames='random', whose draws depend on "
            f"the row, got a {type(train_dataset).__name__}; pass such a dataset, or vary the rows in the stream."
        )
    if isinstance(train_dataset, datasets.Dataset):
        collator.check_variable(train_dataset.column_names)


def check_rows(collator: Any, splits: dict[str, Any]) -> list[str] | None:
    """
    Check the rows, columns and labels of several datasets, given by name. A dataset without a length is checked batch
    by batch when it is read. Returns the names of the classes, if a column of labels is a `ClassLabel`.

    Raises:
        ValueError: for a dataset without rows, a missing column, labels that are not integers in 0..K-1, or class names
            that differ between datasets or have another order than in the model.
    """
    class_names = {}
    for name, dataset in splits.items():
        if dataset is None or not has_length(dataset):
            continue
        if len(dataset) == 0:
            raise ValueError(f"Expected the {name} dataset to have at least one row, got none; check its split.")
        if isinstance(collator, MultimodalCollator):
            class_names[name] = collator.check_dataset(dataset)
    known = [names for names in class_names.values() if names is not None]
    if any(names != known[0] for names in known):
        found = ", ".join(f"{shortened(names)} in {name}" for name, names in class_names.items() if names is not None)
        sets = [set(names) for names in known]
        differing = sorted(set.union(*sets) - set.intersection(*sets))
        order = f"differing in {shortened(differing)}" if differing else "in different orders"
        raise ValueError(
            f"Expected the same class names in each dataset, got {found}, {order}; encode the labels before splitting."
        )
    return known[0] if known else None


def name_classes(model: nn.Module, names: list[str] | None) -> None:
    """Give the classes of a [`MultimodalModel`] these names, if it has only the default ones, such as LABEL_0."""
    if names is None or not isinstance(model, MultimodalModel) or model.config.problem != SINGLE_LABEL:
        return
    config = model.config
    if len(names) == config.num_labels and config.id2label == {k: f"LABEL_{k}" for k in range(config.num_labels)}:
        config.id2label, config.label2id = dict(enumerate(names)), {name: k for k, name in enumerate(names)}


def check_several_classes(labels: np.ndarray | None, problem_type: str = SINGLE_LABEL) -> None:
    """
    Raise `ValueError` if the labels of the training set are known, and all of them are of one class. With several
    labels or a regression, raise it if all rows have the same labels or targets.
    """
    if labels is not None and problem_type != SINGLE_LABEL:
        if (labels == labels[:1]).all():
            what = "a label that some rows have and others lack" if problem_type == MULTI_LABEL else "different targets"
            raise ValueError(
                f"Expected {what} in the training set, got the same of all {len(labels)} rows; add other rows, or "
                "correct the column of the labels."
            )
        return
    known = np.empty(0) if labels is None else labels[labels != NO_LABEL]
    if known.size and known.min() == known.max():
        raise ValueError(
            f"Expected a training set of at least two classes, got only class {known.flat[0]} in {len(labels)} rows; "
            "shuffle before you split, or add rows of another class."
        )


def check_problem_type(problem_type: str, args: TrainingArguments) -> None:
    """Raise `ValueError` for arguments that need one class for each sample, if the model predicts something else."""
    if problem_type != SINGLE_LABEL and args.label_smoothing_factor:
        raise ValueError(
            "Expected `label_smoothing_factor=0`, since it smooths one class of each sample, with "
            f"problem_type={problem_type!r}, got {args.label_smoothing_factor}; leave it out."
        )


def check_without_classes(args: TrainingArguments, prototype_dataset: Any) -> None:
    """Raise `ValueError` for arguments that need the prototypes of classes, which a regression does not have."""
    given = {
        "answer": args.answer,
        "gradient_cosine_steps": args.gradient_cosine_steps,
        "prototype_dataset": None if prototype_dataset is None else type(prototype_dataset).__name__,
    }
    wrong = {name: value for name, value in given.items() if value is not None}
    if wrong:
        raise ValueError(
            f"Expected a model that classifies for {', '.join(wrong)}, since prototypes are of classes, got "
            f"problem_type={REGRESSION!r}; leave {'it' if len(wrong) == 1 else 'them'} out."
        )


def check_prototypes(model: nn.Module) -> None:
    """Raise `ValueError` for a model without prototypes."""
    if not isinstance(getattr(model, "prototypes", None), Prototypes):
        raise ValueError(
            f"Expected a model with prototypes, got a {type(model).__name__} without; call "
            "`attach_prototypes(model, widths, num_labels)` first and pass `embeddings_fn`."
        )


def check_prototype_source(train_dataset: Any, source: str, fraction: float) -> None:
    """Raise `ValueError` if the prototypes need a share of the training set, but the training set is a stream."""
    if train_dataset is not None and source == "subset" and is_stream(train_dataset):
        raise ValueError(
            f"Expected a map-style training set with a length, to take {fraction} of it for the prototypes, got a "
            f"{type(train_dataset).__name__}; pass such a dataset, or set `prototype_source='online'`."
        )
