"""MLA: the modalities take turns to train their encoder and one shared head, whose gradient is projected."""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.fsdp import FSDPModule

from ..data.labels import NO_LABEL
from ..model.fusion import SharedFusion, entropy_weights
from ..model.missing_modalities import all_present, stack_masks
from ..model.modeling import MultimodalModel, MultimodalOutput
from ..model.targets import SINGLE_LABEL
from ..training.arguments import PrototypeTrainingArguments
from ..training.class_weights import weighted_cross_entropy
from ..training.prototype_trainer import PrototypeTrainer
from ..training.step_scales import modality_parameters
from .method_checks import require_known_loss, require_model


PROJECTION_NAME = "mla_projection.safetensors"


@dataclass
class MLATrainingArguments(PrototypeTrainingArguments):
    """
    Arguments of [`MLATrainer`]. The class adds `mla_alpha` to [`PrototypeTrainingArguments`].

    Args:
        mla_alpha (`float`, *optional*, defaults to `1.0`): alpha of the gradient projection, above 0. The smaller it
            is, the less the head changes for features like those it has already seen. A huge value turns the projection
            off. The authors' code lowers alpha from 0.1 to 0.01 in each epoch, for a P of norm 1 where ours has norm
            sqrt(D); for D = 512 this is from 2.3 to 0.23 here.

    Raises:
        ValueError: if a value is outside its range, or with `gradient_cosine_steps`.
    """

    mla_alpha: float = field(
        default=1.0, metadata={"help": "alpha of MLA: the smaller, the more the head keeps of what it has learned."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.mla_alpha <= 0:
            raise ValueError(f"Expected `mla_alpha` above 0, got {self.mla_alpha}; correct it.")
        if self.gradient_cosine_steps is not None:
            raise ValueError(
                "Expected no `gradient_cosine_steps` for MLATrainer, which never has the gradient of a fused loss, got "
                f"{self.gradient_cosine_steps}; leave it out."
            )

    def hp_space(self, trial: Any) -> dict[str, Any]:
        """Add `mla_alpha` from 0.1 to 10."""
        return super().hp_space(trial) | {"mla_alpha": trial.suggest_float("mla_alpha", 0.1, 10.0, log=True)}

    @property
    def hyper_parameters(self) -> dict[str, object]:
        return {"α of the gradient projection": self.mla_alpha} | super().hyper_parameters


class MLATrainer(PrototypeTrainer):
    """
    Trainer in which the modalities take turns. In each batch, modality after modality makes one optimizer step: for its
    own encoder, by the loss of the shared head on its embedding alone, and for the head. The gradient of the head's
    weight is multiplied by a matrix P (D, D), so that a step changes little of what the head makes of earlier features.

    P is at first the identity. After each turn, it becomes P - P h h^T P / (alpha + h^T P h), where h (D,) is the mean
    of what came into the head in this turn, and is scaled back to the norm of the identity. At test time, the logits of
    the modalities are averaged, each weighted by exp(-entropy), see [`SharedFusion`].

    Parameters of other modalities have no gradient in a turn, so that no optimizer moves them. One batch is one step of
    the schedule and of `max_steps`. `max_grad_norm` clips the gradient of each turn. Under gradient accumulation, the
    micro-batches are kept, and each turn goes through all of them; no encoder runs more often. Training logs contain
    `m_ce_loss`, the loss of a turn, and `m_fusion_weight`, the mean weight of the modality in the fusion. `loss` is the
    sum of the unimodal losses. `ce_loss` is the loss of the fused logits, which are computed from the logits of the
    turns. Evaluation adds `m_accuracy`, of the head on one modality.

    Deviations from the paper and its code:

    * The first turn of the training is not projected, and each later one is projected by the P of the turns before it.
      The code updates P with the features of a turn before it projects the gradient of the same turn.
    * alpha + h^T P h is a number. In the code it is a matrix, by which the update is divided element by element. The
      published code only projects the gradient of a parameter named `module.weight`, and its head has `weight`.
    * alpha is constant, and P has the Frobenius norm sqrt(D). In the code, alpha falls in each epoch and P has norm 1,
      which makes the steps of the head smaller.
    * The entropy of each sample weighs its logits, as in the paper. The code has one entropy per batch.
    * With `embedding_dim`, a linear layer of each modality lies before the head. It counts as a part of the encoder.
    * A sample that lacks a modality does not count in its turn. With momentum, a turn without any sample still
      moves the head and the projection before it, but no encoder.
    * The order of the turns is that of the modalities. The projection is exact under SGD; Adam divides the projected
      gradient by its scale, coordinate by coordinate.

    `modality_dropout` has no effect, since no turn sees two modalities.

    Zhang, Yoon, Bansal, Yao, "Multimodal Representation Learning by Alternating Unimodal Adaptation", CVPR 2024.

    Args:
        model (`MultimodalModel`): the model, with `fusion="shared"`.
        args (`MLATrainingArguments`): the arguments.
        kwargs: everything else that [`PrototypeTrainer`] takes, except `compute_loss_func`.

    Raises:
        ValueError: if the model is not a [`MultimodalModel`] with `fusion="shared"` that predicts one class, for a
            `compute_loss_func`, or for a sharded model (FSDP, DeepSpeed).
    """

    args_class = MLATrainingArguments
    needs_classes = True
    needs_one_class = True
    own_fusion = "shared"
    fusion_heads = (SharedFusion,)
    description = "Trained with [MLA](https://arxiv.org/abs/2311.10707), in which the modalities take turns to train "
    description += "one shared head"
    citation = """@inproceedings{zhang2024mla,
    title     = {Multimodal Representation Learning by Alternating Unimodal Adaptation},
    author    = {Zhang, Xiaohui and Yoon, Jaehong and Bansal, Mohit and Yao, Huaxiu},
    booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
    year      = {2024},
}"""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._kept: list[dict[str, Any]] = []  # the micro-batches of the next optimizer step

    def on_new_model(self, model: nn.Module) -> None:
        """Prepare the model. Raises `ValueError` if it is no [`MultimodalModel`]."""
        super().on_new_model(require_model(self, model))

    def check_setup(self) -> None:
        """Raise `ValueError` for what the class refuses, and for the errors of [`PrototypeTrainer`]."""
        require_known_loss(self)
        super().check_setup()
        model = self.unwrapped_model
        if self.problem_type != SINGLE_LABEL:
            raise ValueError(
                f"Expected a model that predicts one class for MLATrainer, whose fusion weighs the modalities by the "
                f"entropy of the classes, got problem_type={self.problem_type!r}; use another method."
            )
        if not isinstance(model.fusion, self.fusion_heads):
            raise ValueError(
                f"Expected a model with fusion='shared' for MLATrainer, one head that all modalities train, got "
                f"{model.config.fusion!r}; build it with `from_backbones(..., fusion='shared', embedding_dim=...)`."
            )
        if self.is_fsdp_enabled or self.is_deepspeed_enabled or isinstance(model, FSDPModule):
            raise ValueError(
                "Expected a whole model for MLATrainer, of which each turn trains a part, got FSDP or DeepSpeed; train "
                "with DDP."
            )

    # ---- Turns ----

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """
        Keep a micro-batch for later, or, if it is the last one of an optimizer step, train each modality on all that
        were kept. `Trainer` makes the optimizer step of the last modality. Returns the sum of the unimodal losses, or
        0 for a micro-batch that is kept.
        """
        self._kept.append(inputs)
        if not self.accelerator.sync_gradients:
            return torch.zeros((), device=self.args.device)
        batches, self._kept = [self._prepare_inputs(kept) for kept in self._kept], []
        for inputs in batches:
            self.require_labels(inputs)
        model.train()
        self.optimizer.train()  # a schedule-free one has two modes
        total, turns = torch.zeros((), device=self.args.device), []
        for number, name in enumerate(self.modalities, start=1):
            loss, outputs = self.take_turn(model, name, batches)
            total, turns = total + loss, [*turns, outputs]
            if number < len(self.modalities):
                if self.args.max_grad_norm > 0:
                    self._clip_grad_norm(model)
                self.optimizer.step()
                model.zero_grad()
        with torch.no_grad():
            for inputs, outputs in zip(self.marking_last(batches), zip(*turns, strict=True), strict=True):
                self.compute_loss(GivenOutput(self.unwrapped_model, self.join(outputs, inputs["labels"])), inputs)
        return total

    def marking_last(self, batches: list[dict[str, Any]]):
        """Go through micro-batches. Accelerate is told which is the last one, as `Trainer` does."""
        for number, inputs in enumerate(batches, start=1):
            self.accelerator.gradient_state._set_sync_gradients(number == len(batches))
            yield inputs

    def take_turn(
        self, model: nn.Module, name: str, batches: list[dict[str, Any]]
    ) -> tuple[torch.Tensor, list[MultimodalOutput]]:
        """
        Compute the gradients of a modality's turn, project that of the head's weight, and update P.

        Returns:
            The mean loss of the micro-batches, a scalar, and the detached output of the model for each of them.
        """
        head, loss, outputs = self.unwrapped_model.fusion.classifier, 0.0, []
        features = torch.zeros(head.in_features + 1, device=self.args.device)  # the sum, and the number of samples
        for inputs in self.marking_last(batches):
            labels = inputs["labels"]
            nothing = {"present": torch.zeros(len(labels), dtype=torch.bool, device=labels.device)}
            last = self.accelerator.sync_gradients
            with nullcontext() if last else self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    output = self.run_model(model, {name: inputs.get(name, nothing)})
                    counted = stack_masks(self.counted_samples(output, labels), [name], labels)[0]
                    own = self.unimodal_loss(name, output.logits, labels, counted) / len(batches)
                self.accelerator.backward(own)
            loss = loss + own.detach()
            embedding = output.embeddings[name].detach()
            features += self.sum_of_features(name, embedding, counted)
            present = None if output.present is None else {name: output.present[name]}
            outputs.append(MultimodalOutput(None, output.logits.detach(), {name: embedding}, present))
        parts = {*modality_parameters(self.unwrapped_model, name), *head.parameters()}
        for parameter in self.unwrapped_model.parameters():
            if parameter not in parts:  # momentum would move it even with a gradient of zero
                parameter.grad = None
        if head.weight.grad is not None:  # it is frozen otherwise
            head.weight.grad.copy_(head.weight.grad.float() @ self.projection)
        self.projection = updated_projection(
            self.projection, self.accelerator.reduce(features, "sum"), self.args.mla_alpha
        )
        return loss, outputs

    def unimodal_loss(
        self, name: str, logits: torch.Tensor, labels: torch.Tensor, counted: torch.Tensor
    ) -> torch.Tensor:
        """
        The cross entropy of logits (B, K), with `class_weights` and label smoothing, a mean over the samples of all
        processes that the mask `counted` (B,) marks. It is scaled for DDP, which averages gradients over the processes.
        """
        weights = torch.ones(self.num_labels, device=logits.device)
        weights = weights if self.class_weights is None else self.class_weights
        labels = torch.where(counted, labels, NO_LABEL)
        total, weight = weighted_cross_entropy(logits, labels, weights, self.args.label_smoothing_factor)
        self.track((f"{name}_{self.loss_name}",), total[None], weight[None])
        weight = self.accelerator.reduce(weight, "mean")
        return total / weight.clamp(min=torch.finfo(weight.dtype).tiny)

    @torch.no_grad()
    def sum_of_features(self, name: str, embedding: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
        """
        The sum of the head's inputs for embeddings (B, D_m), over the samples that count, followed by the number of
        these samples; (D + 1,) in fp32.
        """
        model = self.unwrapped_model
        if name in model.projections:
            embedding = model.projections[name](embedding.to(model.projections[name].weight.dtype))
        total = torch.where(counted[:, None], embedding.float(), 0).sum(0)
        return torch.cat([total, counted.float().sum()[None]])

    def join(self, outputs: tuple[MultimodalOutput, ...], labels: torch.Tensor) -> MultimodalOutput:
        """The output of a micro-batch with the fused logits, from its output (B, ...) in the turn of each modality."""
        names, fusion = self.modalities, self.unwrapped_model.fusion
        logits = torch.stack([output.logits for output in outputs])
        embeddings = {name: output.embeddings[name] for name, output in zip(names, outputs, strict=True)}
        given = {name: value for output in outputs for name, value in (output.present or {}).items()}
        present = all_present(names, labels) | given
        masks = stack_masks(present, names, labels)
        joined = MultimodalOutput(None, fusion.mean(logits, masks), embeddings, present)
        counted = stack_masks(self.counted_samples(joined, labels), names, labels)
        weights = torch.where(counted, entropy_weights(logits, masks), 0).sum(1)
        self.track(tuple(f"{name}_fusion_weight" for name in names), weights, counted.float().sum(1))
        return joined

    def modality_predictions(self, outputs: Any) -> dict[str, torch.Tensor]:
        """Add what the head predicts from each modality alone, as `m_accuracy`."""
        model, logits = self.unwrapped_model, outputs.logits
        present = outputs.present or all_present(self.modalities, logits)
        none = {name: torch.zeros_like(mask) for name, mask in present.items()}
        alone = {name: model.fuse_by_head(outputs.embeddings, none | {name: present[name]}) for name in self.modalities}
        return self.guesses("", alone, outputs) | super().modality_predictions(outputs)

    # ---- State ----

    def save_method_state(self, folder: str) -> None:
        """Save P."""
        super().save_method_state(folder)
        if self.args.should_save:
            save_file({"projection": self.projection}, Path(folder, PROJECTION_NAME))

    def load_method_state(self, checkpoint: str | None) -> None:
        """Load P from a checkpoint, or start with the identity."""
        super().load_method_state(checkpoint)
        self._kept = []
        width, device = self.unwrapped_model.fusion.classifier.in_features, self.args.device
        if checkpoint is None:
            self.projection = torch.eye(width, device=device)
        else:
            self.projection = load_file(Path(checkpoint, PROJECTION_NAME))["projection"].to(device)


class GivenOutput(nn.Module):
    """Takes the place of a model whose output for a batch is already known, and adds the loss to it."""

    def __init__(self, model: MultimodalModel, output: MultimodalOutput):
        super().__init__()
        self.loss_of, self.output = model.loss_of, output

    def forward(self, labels: torch.Tensor | None = None, **modalities: Mapping[str, torch.Tensor]) -> MultimodalOutput:
        loss = None if labels is None else self.loss_of(self.output.logits, labels)
        return MultimodalOutput(loss, self.output.logits, self.output.embeddings, self.output.present)


def updated_projection(projection: torch.Tensor, features: torch.Tensor, alpha: float) -> torch.Tensor:
    """
    P - P h h^T P / (alpha + h^T P h), scaled to the Frobenius norm sqrt(D) of the identity.

    Args:
        projection (`torch.Tensor`): P (D, D), symmetric.
        features (`torch.Tensor`): (D + 1,), the sum of N features and N, whose ratio is h.
        alpha (`float`): above 0.

    Returns:
        `torch.Tensor`: the new P (D, D); the old one if N is 0, or if a feature is not finite, as where fp16 skips a
        step.
    """
    total, count = features[:-1], features[-1]
    mean = total / count.clamp(min=1)
    gain = projection @ mean  # (D,)
    new = projection - torch.outer(gain, gain) / (alpha + mean @ gain)
    new = new * (math.sqrt(len(new)) / new.norm())
    return torch.where((count > 0) & new.isfinite().all(), new, projection)
