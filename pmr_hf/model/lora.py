"""LoRA: the encoder stays frozen, and only the small layers that PEFT inserts are trained."""

from typing import Any

from torch import nn
from transformers import PreTrainedModel


def add_lora(name: str, backbone: PreTrainedModel, settings: dict[str, Any]) -> None:
    """
    Freeze an encoder and insert PEFT's LoRA layers in place.

    Args:
        name (`str`): the modality, for messages.
        backbone (`PreTrainedModel`): its encoder.
        settings (`dict`): arguments of `peft.LoraConfig`, such as `r`; `target_modules` is `"all-linear"` by default.

    Raises:
        ImportError: without `peft`.
        ValueError: for settings that `peft.LoraConfig` does not take, or if no layer matches `target_modules`.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError(f"Expected `peft` for the LoRA of {name!r}; install it: pip install peft.") from error
    try:
        config = LoraConfig(**{"target_modules": "all-linear", **settings})
    except TypeError as error:
        raise ValueError(
            f"Expected `lora` of {name!r} to be arguments of peft.LoraConfig, got {settings}; correct it."
        ) from error
    try:
        inject_adapter_in_model(config, backbone)
    except ValueError as error:
        raise ValueError(
            f"Expected the LoRA of {name!r} to find layers in a {type(backbone).__name__}, but {error} Name some of "
            "its modules in `target_modules`."
        ) from error
    train_lora_only(backbone)


def train_lora_only(backbone: nn.Module) -> None:
    """Freeze all parameters except the LoRA layers. A loaded encoder has only trainable parameters."""
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_("lora_" in name)
