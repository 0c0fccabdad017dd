"""Encoders of any family: from a name to the encoder alone, and from its inputs to one embedding per sample."""

import os
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
from transformers.utils import ModelOutput, logging


logger = logging.get_logger(__name__)


def load_backbone(
    name: str, backbone: str | os.PathLike | PreTrainedConfig | PreTrainedModel
) -> tuple[PreTrainedModel, PreTrainedConfig]:
    """
    The encoder of a modality without decoder and task head, and the config that builds it again.

    Args:
        name (`str`): the modality, for messages.
        backbone (`str | os.PathLike | PreTrainedConfig | PreTrainedModel`): a Hub name or local folder (weights are
            loaded; of a CLIP or SigLIP, those of its vision tower), a config (weights are new), or a loaded model.

    Raises:
        TypeError: for a backbone of another type.
        ValueError: for a model that `AutoModel` could not build again from its config.
    """
    if isinstance(backbone, PreTrainedModel):
        if one_encoder(name, backbone.config) is not backbone.config:
            backbone = backbone.get_submodule("vision_model")
        return _encoder(name, backbone), backbone.config
    if isinstance(backbone, PreTrainedConfig):
        config = one_encoder(name, backbone)
        return new_backbone(config), config
    if not isinstance(backbone, (str, os.PathLike)):
        raise TypeError(
            f"Expected the backbone of {name!r} to be a Hub name, a local folder, a config or a PreTrainedModel, got "
            f"{type(backbone).__name__}; wrap a timm model as TimmWrapperConfig(architecture=...), and give `lora` for "
            "an encoder to adapt with PEFT."
        )
    config = encoder_config(name, backbone)
    # In fp32, whatever it is stored in: that is what `bf16=True` and the optimizer expect of weights to train.
    model, loading = AutoModel.from_pretrained(
        backbone, config=config, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
    )
    if len(loading["missing_keys"]) > len(model.state_dict()) // 2:
        raise ValueError(
            f"Expected {backbone} to hold the weights of a {type(model).__name__} for {name!r}, but "
            f"{len(loading['missing_keys'])} of {len(model.state_dict())} are not there; load its encoder yourself and "
            "pass the model."
        )
    if loading["missing_keys"]:
        logger.warning(
            f"The backbone of {name!r} has new weights, which {backbone} does not hold and training must learn: "
            f"{', '.join(sorted(loading['missing_keys']))}. If they are its pooler's, pooling='cls' or 'mean' does "
            "without."
        )
    return _encoder(name, model), model.config


def encoder_config(name: str, backbone: str | os.PathLike) -> PreTrainedConfig:
    """The config of a named encoder; raises as [`one_encoder`], and for code of its own."""
    try:
        config = AutoConfig.from_pretrained(backbone, trust_remote_code=False)  # by default it would ask on stdin
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"Expected a backbone of transformers itself for {name!r}, but {backbone} comes with code of its own, "
            "which is not run; read that code, load the encoder with `trust_remote_code=True` yourself, and pass it."
        ) from error
    return one_encoder(name, config)


def one_encoder(name: str, config: PreTrainedConfig) -> PreTrainedConfig:
    """
    The config, or of CLIP and its kin that of the vision tower. Raises `ValueError` for other pairs of encoders, such
    as CLAP, and for one that `AutoModel` does not know.
    """
    towers = config.sub_configs.keys()
    if {"vision_config", "text_config"} <= towers:
        logger.info(f"Taking the vision tower of the {type(config).__name__} for {name!r}.")
        config = config.vision_config
    elif {"audio_config", "text_config"} <= towers:
        audio = type(config.audio_config)
        raise ValueError(
            f"Expected one encoder for {name!r}, got a {type(config).__name__} with several; pass the one that you "
            f"mean as a loaded model, such as {audio.__name__.removesuffix('Config')}Model.from_pretrained(...), after "
            + _registration(config.audio_config)
        )
    if type(config) not in MODEL_MAPPING or config.model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"Expected a backbone for {name!r} that AutoModel can build, but it does not know {type(config).__name__}; "
            f"say which model it is by {_registration(config)}"
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


def new_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    """An encoder with new weights, without the decoder that its `AutoModel` may have."""
    # A saved config may name the dtype that its encoder once had, in place of this model's.
    model = AutoModel.from_config(config, dtype=torch.get_default_dtype())
    return model.get_encoder() if config.is_encoder_decoder else model


def _encoder(name: str, model: PreTrainedModel) -> PreTrainedModel:
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
    """Width of a backbone's pooled embedding; raises `ValueError` if its config does not tell."""
    if isinstance(backbone, TimmWrapperModel):
        return backbone.timm_model.head_hidden_size
    for field in ("hidden_size", "hidden_sizes", "hidden_dim"):
        width = getattr(backbone.config, field, None)
        if width:
            return width[-1] if isinstance(width, (list, tuple)) else width
    raise ValueError(
        f"Expected the config of backbone {name!r} ({type(backbone).__name__}) to tell the width of its embedding, "
        "found no `hidden_size`; set `config.hidden_size` to the width of its pooled output."
    )


def encode(name: str, backbone: nn.Module, inputs: dict[str, torch.Tensor], pooling: str = "auto") -> torch.Tensor:
    """
    One embedding per sample, (B, D), which does not depend on what the sample is batched with.

    Args:
        name (`str`): the modality, for messages.
        backbone (`torch.nn.Module`): its encoder.
        inputs (`dict[str, torch.Tensor]`): the encoder's keyword arguments. Images with a `frame_mask` (B, T) bool are
            frames (B, T, C, H, W), encoded one by one; their mean is the embedding.
        pooling (`str`, *optional*, defaults to `"auto"`): see [`pool`].
    """
    inputs = {key: value.to(backbone.dtype) if value.is_floating_point() else value for key, value in inputs.items()}
    if "frame_mask" in inputs:
        mask = inputs["frame_mask"].bool()
        frames = pool(name, backbone(pixel_values=inputs["pixel_values"][mask]), pooling)  # (all frames, D)
        rows = mask.nonzero()[:, 0]
        sums = frames.new_zeros(len(mask), frames.shape[1]).index_add(0, rows, frames)
        return sums / mask.sum(1, keepdim=True).clamp(min=1)
    mask = inputs.get("attention_mask")
    config = backbone.config
    if "conv_stride" in config and "input_values" in inputs:
        if mask is not None and not ignores_padding(config) and not mask.all():
            lengths = mask.sum(1).tolist()
            clips = [inputs["input_values"][i : i + 1, :length] for i, length in enumerate(lengths)]
            return torch.cat([encode(name, backbone, {"input_values": clip}, pooling) for clip in clips])
        tokens = int(_convolved(torch.tensor(inputs["input_values"].shape[1]), config))
        if backbone.training and tokens <= config.mask_time_length:  # too short for SpecAugment, which would stop here
            mask_time = torch.zeros(len(inputs["input_values"]), tokens, dtype=torch.bool)
            inputs["mask_time_indices"] = mask_time.to(inputs["input_values"].device)
    output = backbone(**inputs)
    hidden = output.get("last_hidden_state")
    if mask is not None and hidden is not None and hidden.dim() == 3 and pooling != "cls":
        mask = token_mask(mask, hidden.shape[1], config)
    return pool(name, output, pooling, mask)


def token_mask(mask: torch.Tensor, tokens: int, config: PreTrainedConfig) -> torch.Tensor:
    """
    The mask of an encoder's inputs (B, T) as the mask of its output tokens (B, tokens), where it shortens them.

    Speech encoders do: wav2vec 2.0, HuBERT and their kin by the convolutions that their config lists, Whisper by half.
    A mask of another length is returned as it is.
    """
    if mask.shape[1] == tokens:
        return mask
    lengths = mask.sum(1)
    if config.model_type == "whisper":
        lengths = (lengths - 1) // 2 + 1
    elif "conv_stride" in config:
        lengths = _convolved(lengths, config)
    else:
        return mask
    return torch.arange(tokens, device=mask.device) < lengths.clamp(min=1)[:, None]


def _convolved(lengths: torch.Tensor, config: PreTrainedConfig) -> torch.Tensor:
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        lengths = (lengths - kernel) // stride + 1
    return lengths


def ignores_padding(config: PreTrainedConfig) -> bool:
    """
    Whether a speech encoder's mask hides padding from it. It does not where a group norm averages over time (wav2vec
    2.0 and HuBERT base), nor in families whose convolutions see the padding: these read their clips one by one.
    """
    families = ("hubert", "unispeech", "unispeech-sat", "wav2vec2", "wavlm")
    adapter = getattr(config, "add_adapter", False)
    return config.model_type in families and config.feat_extract_norm == "layer" and not adapter


def pool(name: str, output: ModelOutput, pooling: str = "auto", mask: torch.Tensor | None = None) -> torch.Tensor:
    """
    One embedding per sample, (B, D), of an encoder's output.

    Args:
        name (`str`): the modality, for messages.
        output (`ModelOutput`): with `pooler_output`, or a `last_hidden_state` of tokens (B, T, D), a feature map
            (B, D, H, W) or vectors (B, D).
        pooling (`str`, *optional*, defaults to `"auto"`): `"cls"` takes the first token, `"mean"` and `"max"` go over
            the tokens in the mask or all positions of a map, and `"auto"` takes the encoder's own `pooler_output` if it
            has one, else `"mean"`.
        mask (`torch.Tensor`, *optional*): (B, T), nonzero where there is a token.

    Raises:
        ValueError: if the output has neither, or does not fit the mask or the pooling.
    """
    if pooling == "auto" and output.get("pooler_output") is not None:
        return output["pooler_output"].flatten(1)  # some convolutional encoders give (B, D, 1, 1)
    hidden = output.get("last_hidden_state")
    shape = None if hidden is None else tuple(hidden.shape)
    if hidden is not None and hidden.dim() == 2 and pooling != "cls":
        return hidden
    if hidden is not None and hidden.dim() == 4 and pooling != "cls":
        return hidden.amax((2, 3)) if pooling == "max" else hidden.mean((2, 3))
    if hidden is not None and hidden.dim() == 3:
        if pooling == "cls":
            return hidden[:, 0]
        if mask is None:
            return hidden.amax(1) if pooling == "max" else hidden.mean(1)
        if mask.shape == hidden.shape[:2]:
            kept = mask.bool()[:, :, None]
            if pooling == "max":
                return hidden.masked_fill(~kept, torch.finfo(hidden.dtype).min).amax(1)
            return torch.where(kept, hidden, 0).sum(1) / kept.sum(1).clamp(min=1)
    found = f"{list(output)} with `last_hidden_state` {shape} and a mask {None if mask is None else tuple(mask.shape)}"
    if pooling == "cls":
        raise ValueError(
            f"Expected backbone {name!r} to give tokens (batch, tokens, width) for pooling='cls', got {found}; use "
            "'auto' or 'mean'."
        )
    raise ValueError(
        f"Expected backbone {name!r} to give `pooler_output` or a `last_hidden_state` of shape (batch, tokens, width) "
        f"that matches its attention mask, got {found}; use an encoder without its task head, or pooling='cls'."
    )


def add_lora(name: str, backbone: PreTrainedModel, settings: dict[str, Any]) -> None:
    """
    Freeze an encoder and put PEFT's LoRA layers into it, in place.

    Args:
        name (`str`): the modality, for messages.
        backbone (`PreTrainedModel`): its encoder.
        settings (`dict`): arguments of `peft.LoraConfig`, such as `r`; `target_modules` is `"all-linear"` by default.

    Raises:
        ImportError: without `peft`.
        ValueError: for settings that are none of `peft.LoraConfig`'s.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError(f"Expected `peft` for the LoRA of {name!r}; install it: pip install peft.") from error
    try:
        config = LoraConfig(**{"target_modules": "all-linear", **settings})
    except TypeError as error:
        raise ValueError(f"Expected `lora` of {name!r} to be arguments of peft.LoraConfig, got {settings}.") from error
    try:
        inject_adapter_in_model(config, backbone)
    except ValueError as error:
        raise ValueError(
            f"Expected the LoRA of {name!r} to find layers in a {type(backbone).__name__}, but {error} Name some of "
            "its modules as `target_modules`."
        ) from error
    train_lora_only(backbone)


def train_lora_only(backbone: nn.Module) -> None:
    """Freeze what is not of LoRA; loading weights has made all of it trainable."""
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_("lora_" in name)
