"""Load an encoder of any model family from a Hub name, a folder, a config or a model."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
    TimmWrapperModel,
)
from transformers.utils import logging

from .building_limits import MOST_MODULES, check_counts, limited_building, nested_fields
from .initialization import initialize


logger = logging.get_logger(__name__)

TIMM_SOURCES = ("hf-hub:", "hf_hub:", "local-dir:")  # prefixes of an architecture that timm reads from elsewhere
TIMM_FILES = ("checkpoint_path", "pretrained_cfg_overlay")  # arguments of `timm.create_model`


def load_backbone(
    name: str, backbone: str | os.PathLike | PreTrainedConfig | PreTrainedModel, initialization: str = "default"
) -> tuple[PreTrainedModel, PreTrainedConfig]:
    """
    Load the encoder of a modality, without a decoder or a task head.

    Args:
        name (`str`): the modality, for messages.
        backbone (`str | os.PathLike | PreTrainedConfig | PreTrainedModel`): a Hub name or local folder to load weights
            from, a config for new weights, or a loaded model. Only the vision tower of CLIP or SigLIP is used.
        initialization (`str`, *optional*, defaults to `"default"`): how new weights are drawn.

    Returns:
        `tuple[PreTrainedModel, PreTrainedConfig]`: the encoder, and the config to build it again.

    Raises:
        OSError: for a Hub name or folder without an encoder, or without its weights as safetensors.
        TypeError: for a backbone of another type.
        ValueError: for a model that `AutoModel` could not build again from its config, for a config that is refused,
            and for a source that lacks most of the weights.
    """
    if isinstance(backbone, PreTrainedModel):
        if one_encoder(name, backbone.config) is not backbone.config:
            backbone = backbone.get_submodule("vision_model")
        return _encoder(name, backbone), backbone.config
    if isinstance(backbone, PreTrainedConfig):
        config = one_encoder(name, backbone)
        return new_backbone(name, config, initialization), config
    if not isinstance(backbone, (str, os.PathLike)):
        raise TypeError(
            f"Expected the backbone of {name!r} to be a Hub name, a local folder, a config or a PreTrainedModel, got "
            f"{type(backbone).__name__}; wrap a timm model as TimmWrapperConfig(architecture=...), set `lora` to "
            "adapt an encoder with PEFT, compile the whole model, and give processors to MultimodalProcessor."
        )
    require_folder(name, backbone)
    check_weight_index(backbone)
    config = encoder_config(name, backbone)
    check_only_this_folder(name, config)
    # Load in fp32 even if the file is in half precision: `bf16=True` and the optimizer expect fp32 weights.
    settings: dict[str, Any] = {"output_loading_info": True, "trust_remote_code": False, "use_safetensors": True}
    try:
        with _encoder_building(name, config):
            model, loading = AutoModel.from_pretrained(backbone, config=config, dtype=torch.float32, **settings)
    except OSError as error:
        raise OSError(
            f"Expected the weights of the encoder of {name!r} as safetensors in {backbone}, but {error} If they are in "
            "a pickle (pytorch_model.bin), load the encoder yourself and pass it, or save it again."
        ) from error
    if len(loading["missing_keys"]) > len(model.state_dict()) // 2:
        raise ValueError(
            f"Expected {backbone} to hold the weights of a {type(model).__name__} for {name!r}, but "
            f"{len(loading['missing_keys'])} of {len(model.state_dict())} are missing; load its encoder yourself and "
            "pass the model."
        )
    if loading["missing_keys"]:
        logger.warning(
            f"The backbone of {name!r} has new weights, which {backbone} does not hold and training must learn: "
            f"{', '.join(sorted(loading['missing_keys']))}. If they belong to its pooler, pooling='cls' or 'mean' does "
            "not need them."
        )
    return _encoder(name, model), model.config


def require_folder(name: str, backbone: str | os.PathLike) -> None:
    """
    Raise `FileNotFoundError` if the encoder of the modality `name` is given by a path without a folder. A path is a
    `PathLike`, or starts with `/`, `.` or `~`, has more than one `/`, or has a backslash. Anything else may be a Hub
    name.
    """
    text = os.fspath(backbone)
    is_path = isinstance(backbone, os.PathLike) or text.startswith((".", "/", "~")) or "\\" in text
    if (is_path or text.count("/") > 1) and not os.path.isdir(backbone):
        found = "a file" if os.path.isfile(backbone) else "no folder"
        raise FileNotFoundError(
            f"Expected the folder of an encoder for {name!r} at {text}, found {found} there (from {os.getcwd()}); "
            "correct the path, or give a Hub name."
        )


def check_weight_index(folder: str | os.PathLike) -> None:
    """
    Raise `ValueError` if the index of the weights in a local folder names a file outside it, or has no `weight_map`.
    Nothing is checked for a Hub name.
    """
    for index in sorted(Path(folder).glob("*.index.json")):
        try:
            files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"Expected a `weight_map` of files in {index}, found none; download it again.") from error
        outside = sorted(str(file) for file in files if file != os.path.basename(str(file)) or "\\" in str(file))
        if outside:
            raise ValueError(
                f"Expected names of files beside {index}, got {outside[0]!r:.200}; correct the index, or do not load "
                "this folder."
            )


def encoder_config(name: str, backbone: str | os.PathLike) -> PreTrainedConfig:
    """
    Load the config of an encoder from its Hub name or local folder. Raises `OSError` if there is none, and `ValueError`
    if the encoder needs custom code, or if transformers, [`check_counts`] or [`one_encoder`] refuses the config.
    """
    try:
        check_counts(name, PreTrainedConfig.get_config_dict(backbone)[0])
        config = AutoConfig.from_pretrained(backbone, trust_remote_code=False)  # by default it would ask on stdin
    except OSError as error:
        raise OSError(
            f"Expected {backbone} to be the Hub name or the folder of an encoder for {name!r}, but {error} Correct the "
            "name, or give a local folder if this machine cannot reach the Hub."
        ) from error
    except Exception as error:  # transformers raises many types for a wrong value
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"Expected a backbone of transformers itself for {name!r}, but {backbone} comes with custom code, "
                "which is not run; read that code, load the encoder with `trust_remote_code=True` yourself and pass it."
            ) from error
        if isinstance(error, ValueError):
            raise
        raise ValueError(
            f"Expected {backbone} to hold the config of an encoder for {name!r}, but transformers refuses it "
            f"({error!r}); correct it."
        ) from error
    return one_encoder(name, config)


def one_encoder(name: str, config: PreTrainedConfig) -> PreTrainedConfig:
    """
    The config of a single encoder: the given config, or the config of the vision tower for models such as CLIP. Raises
    `ValueError` for other models with several encoders, such as CLAP, and for an encoder that `AutoModel` does not
    know.
    """
    towers = config.sub_configs.keys()
    if {"vision_config", "text_config"} <= towers:
        logger.info(f"Taking the vision tower of the {type(config).__name__} for {name!r}.")
        config = config.vision_config
    elif {"audio_config", "text_config"} <= towers:
        audio = type(config.audio_config)
        raise ValueError(
            f"Expected one encoder for {name!r}, got a {type(config).__name__} with several; pass the one that you "
            f"want as a loaded model, such as {audio.__name__.removesuffix('Config')}Model.from_pretrained(...), after "
            + _registration(config.audio_config)
        )
    if type(config) not in MODEL_MAPPING or config.model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"Expected a backbone for {name!r} that AutoModel can build, but it does not know {type(config).__name__}; "
            f"register it by {_registration(config)}"
        )
    return config


def model_classes(config: PreTrainedConfig) -> tuple[type[PreTrainedModel], ...]:
    """The classes that `AutoModel` may build from a config."""
    known = MODEL_MAPPING[type(config)]
    return tuple(known) if isinstance(known, (list, tuple)) else (known,)


def _registration(config: PreTrainedConfig) -> str:
    cls = type(config).__name__
    return (
        f"`AutoConfig.register({config.model_type!r}, {cls}, exist_ok=True)` and `AutoModel.register({cls}, "
        f"{cls.removesuffix('Config')}Model)`, wherever the result is loaded too."
    )


def check_only_this_folder(name: str, config: PreTrainedConfig) -> None:
    """
    Raise `ValueError` if the config of an encoder makes its class load something from elsewhere. An inner config may
    name custom code, and a class such as `VisionEncoderDecoderModel` would ask on stdin whether to run it. A config for
    timm may name another model or file, which timm would open.
    """
    whole = config.to_dict()
    for field, value, beside in nested_fields(whole):
        if field == "auto_map" and beside is not whole:
            raise ValueError(
                f"Expected a backbone of transformers itself for {name!r}, but a part of its "
                f"{type(config).__name__} comes with custom code, which is not run; read that code, load the "
                "encoder with `trust_remote_code=True` yourself, and pass it."
            )
        elsewhere = isinstance(value, str) and value.startswith(TIMM_SOURCES)
        if elsewhere or (field in TIMM_FILES and value):
            raise ValueError(
                f"Expected a config of {name!r} that names no other model or file, got {field}={value!r:.200}; "
                "give the name of that model as the backbone, or load it yourself and pass it."
            )


def new_backbone(name: str, config: PreTrainedConfig, initialization: str = "default") -> PreTrainedModel:
    """
    The encoder of the modality `name` with new weights, drawn by `initialization`, without the decoder that its
    `AutoModel` may have. Raises `ValueError` for a config from which none can be built.
    """
    check_only_this_folder(name, config)
    check_counts(name, config.to_dict())
    with _encoder_building(name, config):
        # The default dtype is the dtype of the whole model. A saved config may name an earlier dtype of the encoder.
        model = AutoModel.from_config(config, dtype=torch.get_default_dtype(), trust_remote_code=False)
    encoder = model.get_encoder() if config.is_encoder_decoder else model
    initialize(encoder, initialization)
    return encoder


def check_own_weights(backbones: Mapping[str, nn.Module]) -> None:
    """Raise `ValueError` if two encoders share weights, which could be neither saved nor trained apart."""
    owners: dict[int, str] = {}
    for name, backbone in backbones.items():
        for parameter in backbone.parameters():
            other = owners.setdefault(id(parameter), name)
            if other != name:
                raise ValueError(
                    f"Expected an encoder of its own for each modality, got one for {other!r} and {name!r}, whose "
                    "weights could be neither saved nor trained apart; give `copy.deepcopy(encoder)` to one of them."
                )


@contextmanager
def _encoder_building(name: str, config: PreTrainedConfig) -> Iterator[None]:
    """Build an encoder in this context. Raises `ValueError` if its config is too large, or does not work."""
    try:
        with limited_building(f"the encoder of {name!r}", MOST_MODULES):
            yield
    except (ValueError, ImportError, OSError):
        raise
    except Exception as error:  # transformers and torch raise many types for a wrong value
        raise ValueError(
            f"Expected a config from which the encoder of {name!r} can be built, got a {type(config).__name__} for "
            f"which {type(error).__name__} was raised: {str(error)[:300]}; correct the config."
        ) from error


def _encoder(name: str, model: PreTrainedModel) -> PreTrainedModel:
    if model._hf_peft_config_loaded:
        raise ValueError(
            f"Expected the encoder of {name!r} without adapters of PEFT, got a {type(model).__name__} after "
            "`add_adapter`, which its config cannot build again; give `lora` to `MultimodalModel.from_backbones`."
        )
    config, known = model.config, model_classes(model.config)
    if config.is_encoder_decoder:
        whole = isinstance(model.base_model, known)
        return model.base_model.get_encoder() if whole else model
    if isinstance(model, known):
        return model
    if isinstance(model.base_model, known):
        logger.info(f"Dropping the task head of {type(model).__name__} for {name!r}.")
        return model.base_model
    raise ValueError(
        f"Expected the backbone of {name!r} to be a {' or '.join(cls.__name__ for cls in known)}, which AutoModel "
        f"builds from a {type(config).__name__}, got {type(model).__name__}; pass its encoder."
    )


def embedding_width(name: str, backbone: PreTrainedModel) -> int:
    """The width D of an encoder's pooled embedding. Raises `ValueError` if its config does not state it."""
    if isinstance(backbone, TimmWrapperModel):
        return backbone.timm_model.head_hidden_size
    width = stated_width(backbone.config)
    if width is None:
        raise ValueError(
            f"Expected the config of backbone {name!r} ({type(backbone).__name__}) to state the width of its "
            "embedding, found no `hidden_size`; set `config.hidden_size` to the width of its pooled output."
        )
    return width


def stated_width(config: PreTrainedConfig) -> int | None:
    """The width of an encoder's embedding by its config, or `None` if it states none, as that of a timm encoder."""
    for field in ("hidden_size", "hidden_sizes", "hidden_dim"):
        width = getattr(config, field, None)
        if width:
            return width[-1] if isinstance(width, (list, tuple)) else width
    return None
