"""Diagnosing and re-learning: encoders that memorise the training rows are pulled back to their initial weights."""

import math
import os
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback
from transformers.utils import logging

from ..model.targets import MULTI_LABEL
from ..training.arguments import PrototypeTrainingArguments
from ..training.prototype_trainer import PrototypeTrainer
from ..training.resuming import decided_by_main
from ..training.setup_checks import is_stream
from .method_checks import require_model
from .separability import EmbeddedRows, cluster_purity, embed_rows


logger = logging.get_logger(__name__)

INITIAL_NAME = "initial_encoders.safetensors"


@dataclass
class RelearningArguments(PrototypeTrainingArguments):
    """
    Arguments of [`RelearningTrainer`]. The class adds to [`PrototypeTrainingArguments`] when and how far the encoders
    are pulled back. The defaults are those of the authors' script, which re-learns after 20, 40 and 60 of 90 epochs.

    Args:
        relearning_epochs (`int`, *optional*, defaults to `None`): number of epochs between two re-learnings, at least
            1. Defaults to 2/9 of all epochs, rounded, and at least 1.
        relearning_times (`int`, *optional*, defaults to `3`): the largest number of re-learnings, at least 1.
        relearning_strength (`float`, *optional*, defaults to `3.0`): lambda, how much the pull grows with the gap of
            the purities; at least 0.
        relearning_fraction (`float`, *optional*, defaults to `1.0`): share of the training rows whose embeddings are
            clustered, in (0, 1]. All rows of the evaluation set are.

    Raises:
        ValueError: if a value is outside its range.
    """

    relearning_epochs: int | None = field(
        default=None, metadata={"help": "Epochs between two re-learnings. By default 2/9 of all epochs."}
    )
    relearning_times: int = field(default=3, metadata={"help": "The largest number of re-learnings."})
    relearning_strength: float = field(
        default=3.0, metadata={"help": "lambda of re-learning: how much the pull grows with the gap of the purities."}
    )
    relearning_fraction: float = field(
        default=1.0, metadata={"help": "Share of the training rows whose embeddings are clustered, in (0, 1]."}
    )

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least(1, "relearning_epochs", "relearning_times")
        self.require_at_least(0, "relearning_strength")
        if not 0 < self.relearning_fraction <= 1:
            raise ValueError(f"Expected `relearning_fraction` in (0, 1], got {self.relearning_fraction}; correct it.")

    def hp_space(self, trial: Any) -> dict[str, Any]:
        """Add `relearning_strength` from 0.3 to 10."""
        found = trial.suggest_float("relearning_strength", 0.3, 10.0, log=True)
        return super().hp_space(trial) | {"relearning_strength": found}

    @property
    def hyper_parameters(self) -> dict[str, object]:
        return {
            "epochs between re-learnings": self.relearning_epochs or "2/9 of all",
            "most re-learnings": self.relearning_times,
            "λ, strength of re-learning": self.relearning_strength,
        } | super().hyper_parameters


class RelearningTrainer(PrototypeTrainer):
    """
    Trainer that diagnoses every few epochs how much each encoder memorises, and pulls it back accordingly. It clusters
    the embeddings of the training rows and those of the evaluation set by k-means with one cluster per class. The
    purity P of the clusters is the share of the samples in the most frequent class of their cluster. The gap
    g^m = |P^m_train - P^m_validation| gives the strength tanh(lambda g^m), with which the weights of encoder m become
    (1 - strength) current + strength initial. The initial weights are those with which the training begins, which for a
    pretrained encoder are the pretrained ones.

    The evaluation set is used in training, so another set must measure the final accuracy. Each re-learning logs
    `m_train_purity`, `m_validation_purity`, `m_purity_gap` and `m_relearning_strength` of each modality m. It takes
    place before an epoch, after the evaluation and the checkpoint of the epoch before, and never after the last epoch.
    A modality that fewer rows than classes have keeps its weights.

    One copy of the initial weights of the encoders' trained parameters is kept on the device, and is saved with each
    checkpoint. Under LoRA these are the small layers alone. The embeddings of both sets are kept on the CPU during a
    re-learning. The main process clusters them.

    Deviations from the paper and its code:

    * The first re-learning is after n epochs; the code counts from 0 and re-learns after n + 1, 2n + 1, ... epochs.
    * The interval is a share of the epochs by default, which the authors' script has: 20 of 90.
    * The best of ten runs of k-means is taken. Their number is scikit-learn's default in the code.
    * Training rows are embedded without the augmentation of the collator.

    As in the code, only trained parameters are pulled: the fusion head, a projection before it, frozen weights, the
    running statistics of batch norm and the state of the optimizer stay.

    Wei, Li, Feng, Hu, "Diagnosing and Re-learning for Balanced Multimodal Learning", ECCV 2024.

    Args:
        model (`MultimodalModel`): the model.
        args (`RelearningArguments`): the arguments.
        eval_dataset (`Dataset`): validation rows with labels, at least as many as classes. Not the test set.
        kwargs: everything else that [`PrototypeTrainer`] takes.

    Raises:
        ValueError: if the model is not a [`MultimodalModel`] that predicts one class, without one evaluation set that
            has a length, for a streaming training set, or under FSDP or DeepSpeed.
    """

    args_class = RelearningArguments
    needs_classes = True
    needs_one_class = True
    description = "Trained with [re-learning](https://arxiv.org/abs/2407.09705), which pulls encoders that memorise "
    description += "back to their initial weights"
    citation = """@inproceedings{wei2024diagnosing,
    title     = {Diagnosing and Re-learning for Balanced Multimodal Learning},
    author    = {Wei, Yake and Li, Siwei and Feng, Ruoxuan and Hu, Di},
    booktitle = {European Conference on Computer Vision (ECCV)},
    year      = {2024},
}"""

    def __init__(self, *args, **kwargs):
        self._initial: dict[str, torch.Tensor] = {}  # by modality and name, see `encoder_weights`
        # Before the callback that refreshes the prototypes, so that they belong to the re-learned encoders
        kwargs["callbacks"] = [Relearn(self), *(kwargs.get("callbacks") or [])]
        super().__init__(*args, **kwargs)

    def on_new_model(self, model: nn.Module) -> None:
        """Prepare the model. Raises `ValueError` if its encoders are unknown, or not whole in each process."""
        super().on_new_model(require_model(self, model))
        sharded = any(isinstance(parameter, DTensor) for parameter in model.parameters())
        if sharded or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(
                f"Expected a model with whole encoders for {type(self).__name__}, which keeps their initial weights, "
                "got FSDP or DeepSpeed; leave them out (DDP works), or use PMRTrainer, which trains with all of them."
            )

    def check_setup(self) -> None:
        """Raise `ValueError` for several labels and for datasets that the method cannot use, see the class."""
        super().check_setup()
        name, data = type(self).__name__, self.eval_dataset
        if self.problem_type == MULTI_LABEL:
            raise ValueError(
                f"Expected a model that predicts one class for {name}, which compares clusters with classes, got "
                f"problem_type={self.problem_type!r}; use another method, such as PMRTrainer."
            )
        if self.train_dataset is None:
            return
        if is_stream(self.train_dataset):
            raise ValueError(
                f"Expected a training set with a length for {name}, which embeds rows of it again, got a "
                f"{type(self.train_dataset).__name__}; pass such a dataset."
            )
        if data is None or isinstance(data, dict) or is_stream(data):
            raise ValueError(
                f"Expected one evaluation set with a length for {name}, which compares it with the training set, got "
                f"{type(data).__name__}; pass validation rows as `eval_dataset`, not the test set."
            )
        if len(data) < self.num_labels:
            raise ValueError(
                f"Expected at least as many rows in the evaluation set as the {self.num_labels} classes, whose "
                f"clusters {name} looks for, got {len(data)}; pass more validation rows."
            )

    def encoder_weights(self) -> dict[str, dict[str, nn.Parameter]]:
        """The trained parameters of each encoder, by modality and name."""
        backbones = self.unwrapped_model.backbones
        return {
            modality: {
                f"{modality}.{name}": parameter
                for name, parameter in backbones[modality].named_parameters()
                if parameter.requires_grad
            }
            for modality in self.modalities
        }

    def save_method_state(self, folder: str) -> None:
        """Save the initial weights of the encoders."""
        super().save_method_state(folder)
        if self.args.should_save:
            weights = {name: weight.contiguous() for name, weight in self._initial.items()}
            save_file(weights, os.path.join(folder, INITIAL_NAME))

    def load_method_state(self, checkpoint: str | None) -> None:
        """
        Load the initial weights of a checkpoint, or keep those with which the training begins.

        Raises:
            ValueError: if the checkpoint holds initial weights of other encoders.
        """
        super().load_method_state(checkpoint)
        current = {name: weight for weights in self.encoder_weights().values() for name, weight in weights.items()}
        if checkpoint is None:
            self._initial = {name: weight.detach().clone() for name, weight in current.items()}
            return
        file = os.path.join(checkpoint, INITIAL_NAME)
        loaded = load_file(file)
        expected, found = ({name: tuple(w.shape) for name, w in each.items()} for each in (current, loaded))
        if found != expected:
            differ = sorted(expected.keys() ^ found.keys()) or [n for n in expected if expected[n] != found[n]]
            raise ValueError(
                f"Expected the initial weights of this model's trained encoders in {file}, but {len(differ)} differ, "
                f"first {differ[0]}; resume with the model and the `freeze` of that run."
            )
        self._initial = {name: loaded[name].to(weight.device) for name, weight in current.items()}

    # ---- Re-learning ----

    def is_due(self, epoch: int) -> bool:
        """Whether the encoders are re-learned after this number of epochs."""
        every = self.args.relearning_epochs or max(1, round(2 / 9 * self.state.num_train_epochs))
        return epoch > 0 and epoch % every == 0 and epoch // every <= self.args.relearning_times

    def relearn(self) -> dict[str, float]:
        """
        Diagnose each modality, log what was found, and pull the encoders back. All processes do the same. No random
        state is changed.

        Returns:
            `dict[str, float]`: the entries of the log.

        Raises:
            ValueError: for labels that are not integers in 0..K-1.
            FloatingPointError: if the embeddings are not finite.
        """
        size, seed = len(self.train_dataset), self.args.seed + int(self.state.epoch or 0)
        order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
        rows = order[: math.ceil(self.args.relearning_fraction * size)].sort().values.tolist()
        training = embed_rows(self, self.train_dataset, rows)
        validation = embed_rows(self, self.eval_dataset, list(range(len(self.eval_dataset))))
        entries = decided_by_main(self.accelerator, lambda: self._diagnose(training, validation))
        self.log(dict(entries))
        with torch.no_grad():
            for modality, weights in self.encoder_weights().items():
                strength = entries.get(f"{modality}_relearning_strength", 0.0)
                for name, weight in weights.items():
                    weight.lerp_(self._initial[name], strength)
        return entries

    def _diagnose(self, training: EmbeddedRows, validation: EmbeddedRows) -> dict[str, float]:
        """The entries of the log for the embeddings of both sets."""
        clusters, entries = self.num_labels, {}
        for name in self.modalities:
            sets = {"train": training[name], "validation": validation[name]}
            few = {stage: len(labels) for stage, (_, labels) in sets.items() if len(labels) < clusters}
            if few:
                logger.warning(
                    f"Expected at least {clusters} rows with {name!r}, as many as classes, got {few}: its encoder "
                    "keeps its weights in this re-learning; set a larger `relearning_fraction`, or add rows."
                )
                continue
            found = {stage: cluster_purity(*values, clusters, self.args.seed) for stage, values in sets.items()}
            gap = abs(found["train"] - found["validation"])
            entries |= {f"{name}_{stage}_purity": value for stage, value in found.items()}
            entries[f"{name}_purity_gap"] = gap
            entries[f"{name}_relearning_strength"] = relearning_strength(gap, self.args.relearning_strength)
        return entries


class Relearn(TrainerCallback):
    """Calls `trainer.relearn()` before the epochs in which it is due."""

    def __init__(self, trainer: RelearningTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        epochs = state.num_train_epochs
        if not any(self.trainer.is_due(epoch) for epoch in range(1, epochs)) and state.is_world_process_zero:
            logger.warning(
                f"Expected a re-learning before the last epoch, got relearning_epochs={args.relearning_epochs} in "
                f"{epochs} epochs: the training is joint training; set fewer `relearning_epochs`, or train longer."
            )

    def on_epoch_begin(self, args, state, control, **kwargs):
        # This is also called when a run resumes within an epoch, which has been re-learned before.
        epoch = float(state.epoch or 0)
        if epoch.is_integer() and self.trainer.is_due(int(epoch)):
            self.trainer.relearn()


def relearning_strength(gap: float, strength: float) -> float:
    """The strength tanh(lambda g) of the pull, in [0, 1], for a gap g in [0, 1] and lambda = `strength`."""
    return math.tanh(strength * gap)
