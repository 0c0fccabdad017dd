"""
The arguments that all methods share. Those of one method are in its own file, such as `methods/pmr.py`.

Each field is also an option of the command line, with its help. What concerns the data or the model is in
`command_line/script_arguments.py`.
"""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, get_args, get_type_hints

from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy, SchedulerType
from transformers.training_args import OptimizerNames

from ..model.configuration import ANSWERS
from .class_weights import parse_class_weights


BEST_ANSWER = "best"  # the one of `ANSWERS` with the higher validation accuracy
# The lowest allowed values. `Trainer` accepts lower ones, and then trains backwards, does not train, or fails late.
LEAST = {
    "learning_rate": 0,
    "weight_decay": 0,
    "warmup_steps": 0,
    "label_smoothing_factor": 0,
    "seed": 0,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "eval_accumulation_steps": 1,
    "save_total_limit": 1,
    "dataloader_num_workers": 0,
    "max_grad_norm": 0,
    "adam_beta1": 0,
    "adam_beta2": 0,
    "adam_epsilon": 0,
}
# The values that are already too large
TOO_LARGE = {"label_smoothing_factor": 1, "adam_beta1": 1, "adam_beta2": 1}
# Arguments that are lists of words. A single word becomes a list of one, or its letters would be taken for words.
LISTS = ("freeze", "label_names", "include_for_metrics")


@dataclass
class MultimodalTrainingArguments(TrainingArguments):
    """
    Arguments of [`MultimodalTrainer`]. The class adds `freeze`, `modality_learning_rates` and `class_weights` to
    [`~transformers.TrainingArguments`], and changes the defaults of six inherited arguments.

    Args:
        freeze (`list[str]`, *optional*, defaults to `None`): modalities whose encoders are frozen. A frozen
            encoder stays in evaluation mode. One name is a list of one.
        modality_learning_rates (`dict`, *optional*, defaults to `None`): the learning rate of an encoder, by modality.
            It replaces `learning_rate` for this encoder. On the command line, give a JSON object. The scheduler scales
            all learning rates in the same way.
        class_weights (`str | dict`, *optional*, defaults to `None`): weights of the classes in the loss, for classes of
            unequal size: `"balanced"`, or weights of at least 0 by the name or number of the class, see
            [`~pmr_hf.training.class_weights.class_weights`]. On the command line, give `balanced` or a JSON object. The
            loss is then the weighted mean of `torch.nn.CrossEntropyLoss(weight=...)`, over the samples of all
            processes. The prototypical cross entropy of a method is weighted in the same way.
        remove_unused_columns (`bool`, *optional*, defaults to `False`): must stay `False`, since the collator selects
            the columns. `Trainer` would drop them, because the model's `forward` does not name them.
        label_names (`list[str]`, *optional*, defaults to `["labels"]`): the keys of the labels in a batch.
        logging_steps (`float`, *optional*, defaults to `10`): number of optimizer steps between two logs. A small
            number shows the training dynamics in more detail.
        logging_nan_inf_filter (`bool`, *optional*, defaults to `False`): `True` logs 0.0 in place of a loss that is not
            finite. It costs one host synchronisation per step.
        ddp_find_unused_parameters (`bool`, *optional*, defaults to `True`): lets DDP train when the batch of a process
            lacks a modality.
        hub_strategy (`str`, *optional*, defaults to `"end"`): must stay `"end"`, which pushes the model when it is
            saved. The other strategies also push pickle files.

    Raises:
        ValueError: for `remove_unused_columns=True`, another `hub_strategy`, `batch_eval_metrics=True`,
            `eval_do_concat_batches=False`, `label_names` without `"labels"`, or `include_for_metrics` other than
            `"inputs"` and `"loss"`; for `modality_learning_rates` that are not positive numbers; for `class_weights`
            of another form; for numbers that are not finite or are out of range.
        RuntimeError: if several processes were launched and this one is not connected to the others.
    """

    freeze: list[str] | None = field(
        default=None, metadata={"help": "Modalities whose encoders are frozen and stay in evaluation mode."}
    )
    modality_learning_rates: dict[str, float] | str | None = field(
        default=None, metadata={"help": "Learning rates of encoders by modality, as JSON: '{\"text\": 1e-5}'."}
    )
    class_weights: dict[str, float] | str | None = field(
        default=None, metadata={"help": "'balanced', or the weights of classes as JSON: '{\"rare\": 5}'."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay False: the collator selects the columns."}
    )
    label_names: list[str] | None = field(
        default_factory=lambda: ["labels"], metadata={"help": "Keys of the labels in a batch."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Optimizer steps between two logs."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Log 0.0 in place of a loss that is not finite. Costs a host sync per step."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=True, metadata={"help": "Let DDP train when the batch of a process lacks a modality."}
    )
    hub_strategy: str = field(
        default="end", metadata={"help": "Must stay 'end': the others push pickles.", "choices": ["end"]}
    )

    def __post_init__(self):
        self._take_words()
        self._check_values()
        super().__post_init__()
        self._take_rates()
        self.class_weights = parse_class_weights(self.class_weights)
        self._check_what_the_trainer_needs()
        self._check_processes()

    def _take_words(self) -> None:
        """Turn single words into lists of one, and the "True" or "False" of a command line into a value."""
        for name in LISTS:
            if isinstance(getattr(self, name), str):
                setattr(self, name, [getattr(self, name)])
        if isinstance(self.resume_from_checkpoint, str):  # a switch on the command line
            switch = {"true": True, "false": None}
            self.resume_from_checkpoint = switch.get(self.resume_from_checkpoint.lower(), self.resume_from_checkpoint)

    def _check_values(self) -> None:
        """Raise `ValueError` for a value of another type, or out of its range."""
        hints = get_type_hints(type(self))
        for each in fields(self):
            name, value = each.name, getattr(self, each.name)
            check_type(name, value, hints[name])
            check_choice(name, value, each.metadata.get("choices"))
            clips_nothing = name == "max_grad_norm" and value == math.inf
            if isinstance(value, float) and not math.isfinite(value) and not clips_nothing:
                raise ValueError(f"Expected `{name}` to be a finite number, got {value}; correct it, or leave it out.")
            if isinstance(value, (int, float)) and value < LEAST.get(name, value):
                raise ValueError(f"Expected `{name}` of at least {LEAST[name]}, got {value}; correct it.")
            if isinstance(value, (int, float)) and name in TOO_LARGE and value >= TOO_LARGE[name]:
                raise ValueError(f"Expected `{name}` below {TOO_LARGE[name]}, got {value}; correct it.")
        for name in ("logging", "eval", "save"):
            strategy, steps = getattr(self, f"{name}_strategy"), getattr(self, f"{name}_steps")
            if strategy == "steps" and steps is not None and steps <= 0:
                raise ValueError(
                    f"Expected `{name}_steps` above 0, got {steps}; correct it, or set `{name}_strategy='no'`."
                )
        if self.freeze is not None and not (
            isinstance(self.freeze, (list, tuple, set)) and all(isinstance(part, str) for part in self.freeze)
        ):
            raise ValueError(f"Expected `freeze` to be a list of modalities, got {self.freeze!r}; correct it.")
        if self.num_train_epochs < 0 and self.max_steps <= 0:
            raise ValueError(
                f"Expected `num_train_epochs` of at least 0, got {self.num_train_epochs}; correct it, or set "
                "`max_steps`."
            )

    def _take_rates(self) -> None:
        """Read `modality_learning_rates`. Raises `ValueError` unless it maps modalities to positive numbers."""
        if isinstance(self.modality_learning_rates, str):
            try:
                self.modality_learning_rates = json.loads(self.modality_learning_rates)
            except json.JSONDecodeError as error:
                raise ValueError(
                    "Expected `modality_learning_rates` as JSON, such as '{\"text\": 1e-5}', got "
                    f"{self.modality_learning_rates!r}; correct it."
                ) from error
        rates = {} if self.modality_learning_rates is None else self.modality_learning_rates
        if not isinstance(rates, dict) or not all(
            isinstance(rate, (int, float)) and not isinstance(rate, bool) and 0 < rate < 1e38 for rate in rates.values()
        ):
            raise ValueError(
                "Expected `modality_learning_rates` to map modalities to positive numbers, such as "
                f'{{"text": 1e-5}}, got {rates}; use `freeze` to keep an encoder unchanged.'
            )

    def _check_what_the_trainer_needs(self) -> None:
        """Raise `ValueError` for settings of `Trainer` with which [`MultimodalTrainer`] does not work."""
        if not set(self.include_for_metrics) <= {"inputs", "loss"}:
            raise ValueError(
                f"Expected `include_for_metrics` of 'loss' or 'inputs', got {self.include_for_metrics}; correct it."
            )
        if self.label_names is not None and "labels" not in self.label_names:
            raise ValueError(
                f"Expected `label_names` with 'labels', the key of the labels in a batch, got {self.label_names}; let "
                "the collator use that key, and leave it out."
            )
        if self.remove_unused_columns:
            raise ValueError(
                "Expected `remove_unused_columns=False`, got True, which would remove the columns that the collator "
                "reads; leave it out."
            )
        if self.hub_strategy != HubStrategy.END:
            raise ValueError(
                f"Expected `hub_strategy='end'`, got {self.hub_strategy.value!r}, which would push pickles; call "
                "`trainer.push_to_hub()` wherever you want the model pushed."
            )
        if self.batch_eval_metrics or not self.eval_do_concat_batches:
            raise ValueError(
                "Expected `batch_eval_metrics=False` and `eval_do_concat_batches=True`, since the metrics of each "
                "modality need all predictions at once; leave both out."
            )

    def _check_processes(self) -> None:
        """Raise `RuntimeError` if several processes were launched and this one is not connected to the others."""
        launched = int(os.environ.get("WORLD_SIZE", 1))
        if launched > 1 and self.world_size == 1:
            raise RuntimeError(
                f"Expected {launched} connected processes (WORLD_SIZE), but this process runs alone, so each process "
                "would train its own model in the same folder; on a machine without GPUs, add `--use_cpu`."
            )

    def hp_space(self, trial: Any) -> dict[str, Any]:
        """
        The arguments that [`MultimodalTrainer.hyperparameter_search`] varies by default, with the values of a trial.

        This class varies `learning_rate` from a tenth to ten times its value. `modality_learning_rates` change by the
        same factor. Epochs, batch size and seed stay as given, so that all trials and all methods have the same budget.
        Override this method to vary the arguments of a method too.

        Args:
            trial (`optuna.Trial`): suggests the values.

        Returns:
            `dict[str, Any]`: the values, by the names of arguments.

        Raises:
            ValueError: for a `learning_rate` of 0.
        """
        if self.learning_rate <= 0:
            raise ValueError("Expected a `learning_rate` above 0 to search around, got 0; give another one.")
        rate = trial.suggest_float("learning_rate", self.learning_rate / 10, self.learning_rate * 10, log=True)
        rates = self.modality_learning_rates
        if not isinstance(rates, dict) or not rates:
            return {"learning_rate": rate}
        factor = rate / self.learning_rate
        scaled = {name: own * factor for name, own in rates.items()}
        return {"learning_rate": rate, "modality_learning_rates": scaled}

    def require_at_least(self, least: float, *names: str) -> None:
        """Raise `ValueError` for a field below `least`. `None` passes."""
        for name in names:
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"Expected `{name}` of at least {least}, got {value}; correct it.")

    @property
    def hyper_parameters(self) -> dict[str, object]:
        """The settings that the model card lists: a dict from the name shown in its table to the value."""
        epochs, rates = f"{self.num_train_epochs:g}", f"{self.learning_rate:g}"
        if self.max_steps > 0:
            epochs = f"as many as {self.max_steps:,} steps are"
        if self.load_best_model_at_end:
            metric = str(self.metric_for_best_model).removeprefix("eval_")
            epochs += f" (the weights with the best validation {metric} were kept)"
        if isinstance(self.modality_learning_rates, dict) and self.modality_learning_rates:
            own = ", ".join(f"{name} {rate:g}" for name, rate in self.modality_learning_rates.items())
            rates += f" (encoders: {own})"
        if self.freeze:
            rates += f" (frozen: {', '.join(self.freeze)})"
        return {
            "learning rate, schedule": f"{rates}, {SchedulerType(self.lr_scheduler_type).value}",
            "optimizer": f"{OptimizerNames(self.optim).value} {self.optim_args or ''}".strip(),
            "batch size per process x accumulation steps": (
                f"{self.per_device_train_batch_size} x {self.gradient_accumulation_steps}"
            ),
            "epochs": epochs,
            **({} if self.class_weights is None else {"class weights": self.class_weights}),
            "seed": self.seed,
        }


@dataclass
class PrototypeTrainingArguments(MultimodalTrainingArguments):
    """
    Arguments of [`PrototypeTrainer`]. The class adds the source and the refresh of the class prototypes to
    [`MultimodalTrainingArguments`].

    Args:
        prototype_momentum (`float`, *optional*, defaults to `0.2`): eps of Eq. 12, in [0, 1). The authors' scripts use
            0.0 or 0.2.
        prototype_source (`str`, *optional*, defaults to `"subset"`): the samples that the prototypes are computed
            from. `"subset"` embeds a share of the training set again for each refresh, as the paper does. It needs a
            dataset with a length. `"online"` sums the embeddings of the training steps, and needs no additional forward
            pass. There are no prototypes before the first refresh, so the method adds no terms until then.
        prototype_fraction (`float`, *optional*, defaults to `0.1`): share of the training set that `"subset"` embeds,
            in (0, 1]. The paper uses 0.1 (Table 5). Where the share has fewer than 20 rows of a class with some
            modality, further such rows are embedded, up to 20 or all there are ([`PrototypeRows`]).
        prototype_refresh_steps (`int`, *optional*, defaults to `None`): number of optimizer steps between two
            refreshes, at least 1. By default the prototypes are refreshed once per epoch, as in the paper, or every 100
            steps if the training set has no length.
        relative_distances (`bool`, *optional*, defaults to `False`): in the scores and terms, divide the distances of
            a modality by the root mean square distance between its prototypes, and multiply them by 10, as the answer
            of the prototypes does. The terms then do not depend on the scale of the embeddings, which Eq. 7 does, so
            PCE stays small at high learning rates. It is ours.
        balance_labels (`bool`, *optional*, defaults to `False`): with several labels per sample, let the samples that
            have a label count as much in its PCE and score as those that lack it. Take it where labels are rare:
            without it, PCE pulls all embeddings to the mean of the many samples that lack each label. It is ours.
        answer (`str`, *optional*, defaults to `None`): what gives the fused answer of a [`MultimodalModel`] in
            evaluation: `"head"` or `"prototypes"` (see [`MultimodalConfig`]), or `"best"` for the one with the higher
            validation accuracy after training. Evaluations then log `best_answer_accuracy`, the higher of the two,
            which `metric_for_best_model` may name. By default, the model's own setting stays, which is `"head"` for a
            new model.
        gradient_cosine_steps (`int`, *optional*, defaults to `None`): number of optimizer steps between two logs of
            `m_gradient_cosine`, at least 1. This is the cosine between two gradients in the encoder of modality m: the
            gradient of the loss, and the gradient of the modality's own prototypical cross entropy (Fig. 2c). Each log
            costs two more backward passes per trained encoder. By default there are none.

    Raises:
        ValueError: for a value outside its range.
    """

    prototype_momentum: float = field(
        default=0.2, metadata={"help": "Momentum of the prototypes, the eps of Eq. 12, in [0, 1)."}
    )
    prototype_source: str = field(
        default="subset",
        metadata={
            "help": "'subset' embeds a share of the training set, 'online' sums the embeddings of the training steps.",
            "choices": ["subset", "online"],
        },
    )
    prototype_fraction: float = field(
        default=0.1, metadata={"help": "Share of the training set that 'subset' embeds, in (0, 1]."}
    )
    prototype_refresh_steps: int | None = field(
        default=None,
        metadata={"help": "Optimizer steps between two refreshes of the prototypes; by default one epoch."},
    )
    relative_distances: bool = field(
        default=False,
        metadata={"help": "In scores and terms, take distances relative to those between the prototypes."},
    )
    balance_labels: bool = field(
        default=False,
        metadata={"help": "For rare labels: let samples with and without a label count alike in its PCE and score."},
    )
    answer: str | None = field(
        default=None,
        metadata={
            "help": "What answers in evaluation: the fusion head, the prototypes, or the better on validation.",
            "choices": [*ANSWERS, BEST_ANSWER],
        },
    )
    gradient_cosine_steps: int | None = field(
        default=None,
        metadata={"help": "Optimizer steps between two logs of the cosine of unimodal and fused gradients."},
    )

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.prototype_momentum < 1:
            raise ValueError(
                f"Expected `prototype_momentum` in [0, 1), got {self.prototype_momentum}; 0 uses only the new means."
            )
        if not 0 < self.prototype_fraction <= 1:
            raise ValueError(
                f"Expected `prototype_fraction` in (0, 1], got {self.prototype_fraction}; 0.1 takes a tenth of the "
                "training set."
            )
        if self.prototype_refresh_steps is not None and self.prototype_refresh_steps < 1:
            raise ValueError(
                f"Expected `prototype_refresh_steps` to be at least 1, got {self.prototype_refresh_steps}; leave it "
                "out for one refresh per epoch."
            )
        if self.gradient_cosine_steps is not None and self.gradient_cosine_steps < 1:
            raise ValueError(
                f"Expected `gradient_cosine_steps` to be at least 1, got {self.gradient_cosine_steps}; leave it out "
                "to skip the measurement."
            )
        if self.prototype_source not in ("subset", "online"):
            raise ValueError(
                f"Expected `prototype_source` to be 'subset' or 'online', got {self.prototype_source!r}; the paper "
                "uses 'subset'."
            )

    @property
    def hyper_parameters(self) -> dict[str, object]:
        """The settings of the method, under the terms and symbols of its paper, and the settings of every trainer."""
        subset = f"{self.prototype_fraction:g} of the training set and enough rows of each class, for each refresh"
        return {
            "ε, momentum of the prototypes": self.prototype_momentum,
            "prototypes from": subset if self.prototype_source == "subset" else "the embeddings of the training steps",
            **({"distances": "relative to those between prototypes"} if self.relative_distances else {}),
            **({"samples with and without a label": "count alike"} if self.balance_labels else {}),
            **({} if self.answer is None else {"fused answer": self.answer}),
        } | super().hyper_parameters


def check_type(name: str, value: Any, hint: Any) -> None:
    """
    Raise `ValueError` if the annotation `hint` of an argument is a number, but its value is not. `Trainer` would find
    the mistake only in training.
    """
    types = set(get_args(hint) or (hint,))
    if not types & {int, float} or types - {int, float, type(None)}:
        return
    if value is None and (type(None) in types or name == "max_grad_norm"):
        return
    kind, word = (Real, "a number") if float in types else (Integral, "an integer")
    if isinstance(value, bool) or not isinstance(value, kind):
        raise ValueError(f"Expected `{name}` to be {word}, got {value!r} of type {type(value).__name__}; correct it.")


def check_choice(name: str, value: Any, choices: Iterable[str] | None) -> None:
    """Raise `ValueError` if an argument is given and is not among its `choices`."""
    words = list(choices or ())
    if words and value is not None and value not in words and name != "hub_strategy":
        wanted = ", ".join(map(repr, words[:-1])) + f" or {words[-1]!r}"
        raise ValueError(f"Expected `{name}` to be {wanted}, got {value!r}; correct it.")
