"""Base of the methods that scale the gradient or the update of each encoder, and the hooks that scale gradients."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback
from transformers.training_args import OptimizerNames
from transformers.utils import logging

from ..model.modeling import MultimodalModel
from ..training.arguments import PrototypeTrainingArguments
from ..training.compiled_models import is_compiled
from ..training.prototype_terms import PrototypeTerms
from ..training.prototype_trainer import PrototypeTrainer
from ..training.step_scales import StepScales
from .method_checks import require_model


logger = logging.get_logger(__name__)

# Parts of the names of optimizers that update in the backward pass, or whose step is not proportional to the rate
NOT_PROPORTIONAL = ("lomo", "layerwise", "schedule_free")


@dataclass
class GradientScalingTrainingArguments(PrototypeTrainingArguments):
    """
    Arguments of [`GradientScalingTrainer`]. The class adds `modulation` to [`PrototypeTrainingArguments`].

    Args:
        modulation (`str`, *optional*, defaults to `None`): what the factors of the method multiply. `"gradient"` is the
            gradient that an encoder gets from the fused loss, as in the papers, which train with SGD. Adam and other
            adaptive optimizers divide by the size of the gradient, so that a constant factor cancels. `"update"` is the
            step of the optimizer for the encoder, under any optimizer whose step is proportional to the learning rate.
            By default it is `"gradient"` with `optim="sgd"`, and `"update"` otherwise.

    Raises:
        ValueError: for `"update"` and an `optim` whose step is not proportional to the learning rate.
    """

    modulation: str | None = field(
        default=None,
        metadata={
            "help": "What the factors of the method multiply: by default the gradient under SGD, else the update.",
            "choices": ["gradient", "update"],
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.modulation is None:
            self.modulation = "gradient" if self.optim == OptimizerNames.SGD else "update"
        optim = OptimizerNames(self.optim).value
        if self.modulation == "update" and any(part in optim for part in NOT_PROPORTIONAL):
            raise ValueError(
                f"Expected an `optim` whose step is proportional to the learning rate for modulation='update', got "
                f"{optim!r}; choose another `optim`, or set modulation='gradient'."
            )

    @property
    def hyper_parameters(self) -> dict[str, object]:
        return {"what is scaled in each encoder": self.modulation} | super().hyper_parameters


def scale_gradients(model: MultimodalModel, scales: Mapping[str, torch.Tensor]) -> None:
    """
    Make the model multiply the gradient that each embedding gets from the fusion head by a scalar.

    The gradient of an encoder is linear in the gradient of its embedding. The scalar therefore scales the whole
    gradient that the encoder gets from the fused loss.

    Args:
        model (`MultimodalModel`): the model.
        scales (`Mapping[str, torch.Tensor]`): scalars by modality, which the backward pass looks up. A modality without
            a scale keeps its gradient.
    """

    def scale_inputs(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        embeddings, *masks = inputs
        return {name: scaled_in_backward(values, name, scales) for name, values in embeddings.items()}, *masks

    model.fusion.register_forward_pre_hook(scale_inputs)


def scaled_in_backward(embedding: torch.Tensor, name: str, scales: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the embedding (B, D). The backward pass multiplies its gradient by `scales[name]`, if set by then."""
    if not embedding.requires_grad:
        return embedding
    embedding = embedding.view_as(embedding)  # other uses of the embedding keep their gradient
    embedding.register_hook(lambda gradient: gradient * scales[name] if name in scales else gradient)
    return embedding


class ForgetScales(TrainerCallback):
    """Clears `trainer.scales` after each micro-batch, so that the scales affect no later backward pass."""

    def __init__(self, trainer: PrototypeTrainer):
        self.trainer = trainer

    def on_substep_end(self, args, state, control, **kwargs):
        self.trainer.scales.clear()

    on_step_end = on_substep_end


class ForgetStepScales(TrainerCallback):
    """Clears `trainer.step_scales` after each optimizer step."""

    def __init__(self, trainer: PrototypeTrainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.step_scales.clear()


class GradientScalingTrainer(PrototypeTrainer):
    """
    Base of the methods that scale the gradient that each encoder gets from the fused loss, or the step that the
    optimizer makes for it, see `modulation` of [`GradientScalingTrainingArguments`].

    A subclass overrides [`GradientScalingTrainer.gradient_scales`]. Training logs contain `m_gradient_scale` or
    `m_update_scale` for each modality m.

    With `modulation="gradient"`, each micro-batch has its own factors. With `"update"`, the factor of an optimizer step
    is the mean over its micro-batches. It multiplies the whole step of the encoder, of its projection, and of the
    vector that replaces its absent embeddings: what they learn from other losses, momentum of earlier steps, and the
    decoupled weight decay of AdamW, which is proportional to the learning rate too. The state of the optimizer, the
    clipping of gradients, the schedule and the logged learning rate do not see the factor. Each step waits for the
    device once, to read the factors.

    Raises:
        ValueError: if the model is not a [`MultimodalModel`], or predicts no classes. With `modulation="gradient"`, if
            it is compiled or sharded. With `"update"`, when training begins, for an optimizer that the trainer has not
            created.
    """

    args_class = GradientScalingTrainingArguments
    needs_classes = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_callback(ForgetScales(self))
        self.add_callback(ForgetStepScales(self))

    def on_new_model(self, model: nn.Module) -> None:
        """Add the hooks that scale gradients. Raises `ValueError` for a model of another class, compiled or sharded."""
        super().on_new_model(model)
        self.scales: dict[str, torch.Tensor] = {}  # by modality, for the current micro-batch
        self.step_scales = StepScales()
        self.scales_optimizer = False
        if self.args.modulation == "gradient":
            scale_gradients(require_hooks(self, model), self.scales)
        else:
            require_model(self, model)

    def create_optimizer(self, *args, **kwargs) -> torch.optim.Optimizer:
        """The optimizer of the base class. With `modulation="update"`, each encoder has parameter groups of its own."""
        is_new, name = self.optimizer is None, type(self).__name__
        optimizer = super().create_optimizer(*args, **kwargs)
        modulation = self.args.modulation
        if modulation == "gradient" and not isinstance(optimizer, torch.optim.SGD):
            logger.warning_once(
                f"{name} scales gradients (modulation='gradient'), but {type(optimizer).__name__} may divide by their "
                "size, so that the factors change little; set modulation='update', or train with optim='sgd'."
            )
        elif is_new:
            logger.info(f"{name} scales the {modulation} of each encoder (modulation={modulation!r}).")
        if modulation == "update" and is_new:
            self.step_scales.apply_to(optimizer, self.unwrapped_model)
            self.scales_optimizer = True
        return optimizer

    def load_method_state(self, checkpoint: str | None) -> None:
        """
        Forget the micro-batches of an attempt that failed, as with `auto_find_batch_size`. Raises `ValueError` with
        `modulation="update"` for an optimizer of the user or of the DeepSpeed configuration.
        """
        super().load_method_state(checkpoint)
        self.step_scales.clear()
        if self.args.modulation == "update" and not self.scales_optimizer:
            raise ValueError(
                "Expected an optimizer that the trainer creates, with parameter groups for each encoder, for "
                f"modulation='update', got a {type(self.optimizer).__name__} in `optimizers` or of DeepSpeed; set "
                "`optim` or `optimizer_cls_and_kwargs`, or modulation='gradient'."
            )

    def gradient_scales(self, terms: PrototypeTerms, outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        """
        The factor (M,) for the gradient or the update of each encoder, which must be the same in all processes. A
        subclass overrides this method. The arguments are those of [`PrototypeTrainer.method_loss`].
        """
        raise NotImplementedError

    def method_loss(
        self, loss: torch.Tensor, terms: PrototypeTerms, outputs: Any, labels: torch.Tensor
    ) -> torch.Tensor:
        """Set the scales for the backward pass or the optimizer step, and return the loss unchanged."""
        names = self.modalities
        with torch.no_grad():
            scales = self.gradient_scales(terms, outputs, labels)
        self.scales.update(zip(names, scales, strict=True))
        self.step_scales.add(scales)
        self.track(tuple(f"{name}_{self.args.modulation}_scale" for name in names), scales, torch.ones_like(scales))
        return loss


def require_hooks(trainer: PrototypeTrainer, model: nn.Module) -> MultimodalModel:
    """Return the model. Raises `ValueError` if hooks on its modules would not see every gradient."""
    name, model = type(trainer).__name__, require_model(trainer, model)
    compiled = trainer.args.torch_compile or is_compiled(model)
    if compiled or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ValueError(
            f"Expected a model in one piece for {name}, since it scales gradients by hooks, got torch_compile, FSDP or "
            "DeepSpeed; leave these out (DDP works), or use PMRTrainer, which trains with all of them."
        )
    return model
