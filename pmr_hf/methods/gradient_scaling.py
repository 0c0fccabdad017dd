"""Base of the methods that scale the gradient of each encoder, and the hooks that do so."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from ..model.modeling import MultimodalModel
from ..training.compiled_models import is_compiled
from ..training.prototype_terms import PrototypeTerms
from ..training.prototype_trainer import PrototypeTrainer


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


class GradientScalingTrainer(PrototypeTrainer):
    """
    Base of the methods that scale the gradient that each encoder gets from the fused loss, in each micro-batch.

    A subclass overrides [`GradientScalingTrainer.gradient_scales`]. Training logs contain `m_gradient_scale` for each
    modality m.

    Raises:
        ValueError: if the model is not a [`MultimodalModel`], or is compiled or sharded, or predicts no classes.
    """

    needs_classes = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_callback(ForgetScales(self))

    def on_new_model(self, model: nn.Module) -> None:
        """Add the hooks that scale gradients. Raises `ValueError` for a model of another class, compiled or sharded."""
        super().on_new_model(model)
        self.scales: dict[str, torch.Tensor] = {}  # by modality, for the current micro-batch
        scale_gradients(require_hooks(self, model), self.scales)

    def gradient_scales(self, terms: PrototypeTerms, outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        """
        The factor (M,) for the gradient of each encoder, which must be the same in all processes. A subclass overrides
        this method. The arguments are those of [`PrototypeTrainer.method_loss`].
        """
        raise NotImplementedError

    def method_loss(
        self, loss: torch.Tensor, terms: PrototypeTerms, outputs: Any, labels: torch.Tensor
    ) -> torch.Tensor:
        """Set the scales for the backward pass, and return the loss unchanged."""
        names = self.modalities
        with torch.no_grad():
            scales = self.gradient_scales(terms, outputs, labels)
        self.scales.update(zip(names, scales, strict=True))
        self.track(tuple(f"{name}_gradient_scale" for name in names), scales, torch.ones_like(scales))
        return loss


def require_hooks(trainer: PrototypeTrainer, model: nn.Module) -> MultimodalModel:
    """Return the model. Raises `ValueError` if hooks on its modules would not see every gradient."""
    name = type(trainer).__name__
    if not isinstance(model, MultimodalModel):
        raise ValueError(
            f"Expected a MultimodalModel for {name}, got a {type(model).__name__}, whose gradients it cannot scale; "
            "PMRTrainer trains any model."
        )
    compiled = trainer.args.torch_compile or is_compiled(model)
    if compiled or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ValueError(
            f"Expected a model in one piece for {name}, since it scales gradients by hooks, got torch_compile, FSDP or "
            "DeepSpeed; leave these out (DDP works), or use PMRTrainer, which trains with all of them."
        )
    return model
