"""LoRA: the encoder stays frozen, and only the small layers that PEFT inserts are trained."""

import math
import re
from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import PreTrainedModel


NAME = re.compile(r"[A-Za-z_0-9]+(\.[A-Za-z_0-9]+)*")
LARGEST_RANK = 10**5
STARTS = (True, False, "gaussian", "orthogonal", "olora", "pissa")  # values of `init_lora_weights`


def is_whole(value: Any, least: int, most: int) -> bool:
    """Whether a value is an integer in least..most."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_rank(value: Any) -> bool:
    return is_whole(value, 1, LARGEST_RANK)


def _is_scale(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def _are_names(value: Any) -> bool:
    return isinstance(value, (list, tuple, set)) and all(map(_is_name, value))


def _by_name(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(_is_name(key) and holds(each) for key, each in value.items())


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _are_layers(value: Any) -> bool:
    layers = value if isinstance(value, list) else [value]
    return all(is_whole(layer, 0, LARGEST_RANK) for layer in layers)


# The arguments of `peft.LoraConfig` that a config may hold. A saved model may be a stranger's, so none of them can name
# code to import, repeat layers or iterate without end, and modules are named, not matched by regular expressions.
FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "r": (f"a rank in 1..{LARGEST_RANK}", _is_rank),
    "lora_alpha": ("a positive number", _is_scale),
    "lora_dropout": ("a number in [0, 1)", lambda value: isinstance(value, (int, float)) and 0 <= value < 1),
    "target_modules": (
        "'all-linear' or a list of names of modules",
        lambda value: value == "all-linear" or (_are_names(value) and len(value) > 0),
    ),
    "exclude_modules": ("a list of names of modules", _are_names),
    "rank_pattern": ("a dict of ranks by names of modules", _by_name(_is_rank)),
    "alpha_pattern": ("a dict of positive numbers by names of modules", _by_name(_is_scale)),
    "layers_to_transform": ("a number of a layer, or a list of them", _are_layers),
    "layers_pattern": ("a name, or a list of names", lambda value: _is_name(value) or _are_names(value)),
    "use_rslora": ("True or False", _is_bool),
    "use_dora": ("True or False", _is_bool),
    "fan_in_fan_out": ("True or False", _is_bool),
    "init_lora_weights": (f"one of {STARTS}", lambda value: isinstance(value, (bool, str)) and value in STARTS),
}


def check_lora(name: str, settings: Any) -> None:
    """Raise `ValueError` unless `settings` of the modality `name` are arguments of LoRA within their ranges."""
    if not isinstance(settings, dict):
        raise ValueError(
            f"Expected `lora` of {name!r} to be a dict such as {{'r': 8}}, got {settings!r:.80}; correct it."
        )
    unknown = [field for field in settings if field not in FIELDS]
    if unknown:
        raise ValueError(
            f"Expected `lora` of {name!r} to have arguments among {list(FIELDS)}, got {unknown[:5]} too; remove "
            "them, or insert the layers yourself and pass the encoder."
        )
    for field, value in settings.items():
        expected, holds = FIELDS[field]
        if not holds(value):
            raise ValueError(
                f"Expected `{field}` in the `lora` of {name!r} to be {expected}, got {value!r:.80}; correct it."
            )


def add_lora(name: str, backbone: PreTrainedModel, settings: dict[str, Any]) -> None:
    """
    Freeze an encoder and insert PEFT's LoRA layers in place.

    Args:
        name (`str`): the modality, for messages.
        backbone (`PreTrainedModel`): its encoder.
        settings (`dict`): arguments of `peft.LoraConfig` among `FIELDS`, such as `r`; `target_modules` is
            `"all-linear"` by default.

    Raises:
        ImportError: without `peft`.
        ValueError: if no layer has a name of `target_modules`.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError(f"Expected `peft` for the LoRA of {name!r}; install it: pip install peft.") from error
    config = LoraConfig(**{"target_modules": "all-linear", **settings})
    try:
        inject_adapter_in_model(config, backbone)
    except ValueError as error:
        raise ValueError(
            f"Expected the LoRA of {name!r} to find layers in a {type(backbone).__name__}, but {error} Name some of "
            "its modules in `target_modules`."
        ) from error
    train_lora_only(backbone)


def train_lora_only(backbone: nn.Module) -> None:
    """Freeze all parameters except the LoRA layers. After loading, all parameters are trainable."""
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_("lora_" in name)
