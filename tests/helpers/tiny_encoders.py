"""Each family of encoders: a tiny config, inputs for it, and a model with this encoder alone."""

import torch
from transformers import (
    ASTConfig,
    BertConfig,
    CLIPVisionConfig,
    Dinov2Config,
    DistilBertConfig,
    HubertConfig,
    ModernBertConfig,
    RobertaConfig,
    SiglipVisionConfig,
    T5Config,
    TimmWrapperConfig,
    VideoMAEConfig,
    ViTConfig,
    Wav2Vec2Config,
    WavLMConfig,
    WhisperConfig,
    set_seed,
)

from pmr_hf import MultimodalModel


TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
IMAGE = {"image_size": 8, "patch_size": 4, **TINY}
TEXT = {"vocab_size": 20, "max_position_embeddings": 20, "pad_token_id": 0, **TINY}
SPEECH = {
    "conv_dim": [8, 8],
    "conv_kernel": [4, 3],
    "conv_stride": [3, 2],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    **TINY,
}
WHISPER = WhisperConfig(
    d_model=16,
    encoder_layers=1,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=24,
    num_mel_bins=6,
    max_source_positions=10,
    vocab_size=20,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    decoder_start_token_id=1,
)
SPECIAL = {"cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}

IMAGES = {
    "vit": ViTConfig(**IMAGE),
    "dinov2": Dinov2Config(mlp_ratio=2, **IMAGE),
    "clip_vision": CLIPVisionConfig(**IMAGE),
    "siglip_vision": SiglipVisionConfig(**IMAGE),
    "timm_resnet": TimmWrapperConfig(architecture="resnet10t"),
    "timm_vit": TimmWrapperConfig(
        architecture="vit_tiny_patch16_224", model_args={"img_size": 32, "embed_dim": 12, "depth": 1, "num_heads": 2}
    ),
    "timm_mobilenet": TimmWrapperConfig(
        architecture="mobilenetv3_small_050"
    ),  # its pooled output is wider than its feature map
}
TEXTS = {
    "bert": BertConfig(**TEXT),
    "distilbert": DistilBertConfig(vocab_size=20, dim=16, n_layers=2, n_heads=2, hidden_dim=24, pad_token_id=0),
    "roberta": RobertaConfig(**{**TEXT, "pad_token_id": 1}),
    "modernbert": ModernBertConfig(**TEXT, **SPECIAL, global_attn_every_n_layers=2, local_attention=4),
    "t5": T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, vocab_size=20),
}
SPEECHES = {
    "wav2vec2_group_norm": Wav2Vec2Config(feat_extract_norm="group", **SPEECH),
    "wav2vec2_layer_norm": Wav2Vec2Config(feat_extract_norm="layer", do_stable_layer_norm=True, **SPEECH),
    "hubert": HubertConfig(feat_extract_norm="layer", **SPEECH),
    "wavlm": WavLMConfig(feat_extract_norm="group", **SPEECH),
}


def build(config, **kwargs):
    set_seed(0)
    return MultimodalModel.from_backbones({"one": config}, num_labels=3, **kwargs).eval()


def inputs_for(family):
    generator = torch.Generator().manual_seed(0)
    if family in IMAGES:
        size = 32 if family.startswith("timm") else 8
        return {"pixel_values": torch.randn(2, 3, size, size, generator=generator)}
    if family in TEXTS:
        mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
        return {"input_ids": torch.randint(3, 20, (2, 6), generator=generator) * mask, "attention_mask": mask}
    if family in SPEECHES:
        mask = (torch.arange(80) < torch.tensor([[80], [50]])).long()
        return {"input_values": torch.randn(2, 80, generator=generator) * mask, "attention_mask": mask}
    if family == "whisper":
        mask = (torch.arange(20) < torch.tensor([[20], [7]])).long()
        return {"input_features": torch.randn(2, 6, 20, generator=generator), "attention_mask": mask}
    if family == "ast":
        return {"input_values": torch.randn(2, 24, 16, generator=generator)}
    return {"pixel_values": torch.randn(2, 4, 3, 8, 8, generator=generator)}


FAMILIES = {
    **IMAGES,
    **TEXTS,
    **SPEECHES,
    "whisper": WHISPER,
    "ast": ASTConfig(max_length=24, num_mel_bins=16, patch_size=8, frequency_stride=8, time_stride=8, **TINY),
    "videomae": VideoMAEConfig(image_size=8, patch_size=4, num_channels=3, num_frames=4, tubelet_size=2, **TINY),
}
