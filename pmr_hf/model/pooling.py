"""Encode and pool one embedding per sample. The embedding does not depend on the other samples of the batch."""

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.utils import ModelOutput

from .channels_last import in_channels_last


def encode(
    name: str,
    backbone: nn.Module,
    inputs: dict[str, torch.Tensor],
    pooling: str = "auto",
    channels_last: bool = False,
) -> torch.Tensor:
    """
    Compute one embedding per sample, (B, D), which does not depend on the other samples of the batch.

    Args:
        name (`str`): the modality, for messages.
        backbone (`torch.nn.Module`): its encoder.
        inputs (`dict[str, torch.Tensor]`): the encoder's keyword arguments. With a `frame_mask` (B, T) bool,
            `pixel_values` are frames (B, T, C, H, W). Each frame is encoded alone, and the embedding is the mean over
            the frames in the mask.
        pooling (`str`, *optional*, defaults to `"auto"`): see [`pool`].
        channels_last (`bool`, *optional*, defaults to `False`): whether the encoder reads pictures in the channels-last
            memory format, which changes only the rounding and the time.

    Raises:
        ValueError: if the encoder's output cannot be pooled, see [`pool`].
    """
    inputs = {key: value.to(backbone.dtype) if value.is_floating_point() else value for key, value in inputs.items()}
    if "frame_mask" in inputs:
        mask = inputs["frame_mask"].bool()
        frames = encode(name, backbone, {"pixel_values": inputs["pixel_values"][mask]}, pooling, channels_last)
        return _mean_of_frames(frames, mask)
    if channels_last:
        inputs = {key: in_channels_last(value) for key, value in inputs.items()}
    mask = inputs.get("attention_mask")
    config = backbone.config
    if "conv_stride" in config and "input_values" in inputs:
        if mask is not None and not ignores_padding(config) and not mask.all():
            lengths = mask.sum(1).tolist()
            clips = [inputs["input_values"][i : i + 1, :length] for i, length in enumerate(lengths)]
            return torch.cat([encode(name, backbone, {"input_values": clip}, pooling) for clip in clips])
        tokens = int(_convolved(torch.tensor(inputs["input_values"].shape[1]), config))
        if backbone.training and tokens <= config.mask_time_length:  # SpecAugment raises for clips this short
            mask_time = torch.zeros(len(inputs["input_values"]), tokens, dtype=torch.bool)
            inputs["mask_time_indices"] = mask_time.to(inputs["input_values"].device)
    output = run_encoder(name, backbone, inputs)
    hidden = output.get("last_hidden_state")
    if mask is not None and hidden is not None and hidden.dim() == 3 and pooling != "cls":
        mask = token_mask(mask, hidden.shape[1], config)
    return pool(name, output, pooling, mask)


def run_encoder(name: str, backbone: nn.Module, inputs: dict[str, torch.Tensor]) -> ModelOutput:
    """Run an encoder. Raises `ValueError` with the modality if its batch norm gets a single sample in training."""
    try:
        return backbone(**inputs)
    except ValueError as error:
        if "Expected more than 1 value per channel when training" not in str(error):
            raise
        raise ValueError(
            f"Expected at least 2 samples with {name!r} in a batch to train on, since the encoder has batch norm, got "
            f"1; use a larger batch with `dataloader_drop_last=True`, freeze the encoder with `freeze=[{name!r}]`, or "
            "use an encoder without batch norm."
        ) from error


def _mean_of_frames(frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean (B, D) over the frames that `mask` (B, T) keeps, from their embeddings `frames` (all kept frames, D)."""
    rows = mask.nonzero()[:, 0]
    sums = frames.new_zeros(len(mask), frames.shape[1]).index_add(0, rows, frames)
    return sums / mask.sum(1, keepdim=True).clamp(min=1)


def token_mask(mask: torch.Tensor, tokens: int, config: PreTrainedConfig) -> torch.Tensor:
    """
    The mask (B, tokens) of an encoder's output tokens, from the mask (B, T) of its inputs.

    Speech encoders return fewer tokens than they read. In wav2vec 2.0, HuBERT and similar models, the convolutions in
    the config shorten the sequence; Whisper halves it. For other encoders, and if the lengths are equal, the mask is
    returned unchanged.
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
    Whether an attention mask makes a speech encoder ignore padding.

    The mask is not enough if a group norm averages over time (wav2vec 2.0 base, HuBERT base), if the encoder has an
    adapter, or if the convolutions of the model family see the padding. [`encode`] gives such an encoder one clip at a
    time.
    """
    families = ("hubert", "unispeech", "unispeech-sat", "wav2vec2", "wavlm")
    adapter = getattr(config, "add_adapter", False)
    return config.model_type in families and config.feat_extract_norm == "layer" and not adapter


def pool(name: str, output: ModelOutput, pooling: str = "auto", mask: torch.Tensor | None = None) -> torch.Tensor:
    """
    Pool an encoder's output into one embedding per sample, (B, D).

    Args:
        name (`str`): the modality, for messages.
        output (`ModelOutput`): has `pooler_output`, or a `last_hidden_state` with tokens (B, T, D), a feature map
            (B, D, H, W) or vectors (B, D).
        pooling (`str`, *optional*, defaults to `"auto"`): `"cls"` takes the first token. `"mean"` and `"max"` are taken
            over the tokens in the mask, or over all positions of a feature map. `"auto"` takes the encoder's own
            `pooler_output` if there is one, else `"mean"`.
        mask (`torch.Tensor`, *optional*): (B, T), nonzero where there is a token.

    Raises:
        ValueError: if the output has neither of these, or does not fit the mask or the pooling.
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
