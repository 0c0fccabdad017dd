"""Checks of the model and the loss that several methods need."""

from torch import nn

from ..model.fusion import FUSIONS, Fusion
from ..model.modeling import MultimodalModel
from ..model.targets import MULTI_LABEL, REGRESSION
from ..training.prototype_trainer import PrototypeTrainer


def reason_against(method: type[PrototypeTrainer], problem_type: str, fusion: type[Fusion]) -> str | None:
    """Why a method trains no model of this problem type and with this fusion head, or `None` if it trains one."""
    if problem_type == REGRESSION and method.needs_classes:
        return "a regression has no class prototypes"
    if problem_type == MULTI_LABEL and method.needs_one_class:
        return "it needs one class per sample"
    if not issubclass(fusion, method.fusion_heads):
        heads = [name for name, head in FUSIONS.items() if issubclass(head, method.fusion_heads)]
        return f"it takes the fusion head {' or '.join(heads)}"
    return None


def require_model(trainer: PrototypeTrainer, model: nn.Module) -> MultimodalModel:
    """Return the model. Raises `ValueError` if it is not a [`MultimodalModel`], whose parts are known."""
    if not isinstance(model, MultimodalModel):
        raise ValueError(
            f"Expected a MultimodalModel for {type(trainer).__name__}, got a {type(model).__name__}, whose encoders "
            "and fusion head it does not know; PMRTrainer trains any model, also on labels of segments (B, T)."
        )
    return model


def require_fusion_head(trainer: PrototypeTrainer, model: nn.Module) -> MultimodalModel:
    """
    Return the model. Raises `ValueError` if its fusion head cannot be run again, outside of its `forward`: if it is not
    a [`MultimodalModel`], or under DeepSpeed, which may share out the weights of the head.
    """
    name, model = type(trainer).__name__, require_model(trainer, model)
    if trainer.is_deepspeed_enabled:
        raise ValueError(
            f"Expected a model with a whole fusion head for {name}, which runs it again in each step, got DeepSpeed; "
            "leave it out (DDP and FSDP2 work), or use PMRTrainer."
        )
    return model


def require_no_dropout(method: type[PrototypeTrainer], modality_dropout: float) -> None:
    """Raise `ValueError` for modality dropout with a method that does not take it."""
    if modality_dropout > 0 and not method.takes_dropout:
        raise ValueError(
            f"Expected modality_dropout=0 for {method.__name__}, which trains each modality apart, got "
            f"{modality_dropout}; leave it out."
        )


def require_known_loss(trainer: PrototypeTrainer) -> None:
    """Raise `ValueError` for a `compute_loss_func`, which cannot be computed again for other fused logits."""
    if trainer.compute_loss_func is not None:
        raise ValueError(
            f"Expected the loss of the model for {type(trainer).__name__}, which computes it again for other logits, "
            "got a `compute_loss_func`; leave it out, or set `class_weights`."
        )
