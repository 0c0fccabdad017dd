"""Each family of encoders from a tiny config: its embedding, under padding too, and saved and loaded again."""

import numpy as np
import pytest
import timm
import torch
from transformers import (
    ASTConfig,
    AutoModel,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    ClapAudioConfig,
    ClapConfig,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    Data2VecAudioConfig,
    Dinov2Config,
    DistilBertConfig,
    HubertConfig,
    ModernBertConfig,
    RobertaConfig,
    SEWConfig,
    SiglipVisionConfig,
    T5Config,
    TimmWrapperConfig,
    VideoMAEConfig,
    ViTConfig,
    Wav2Vec2Config,
    Wav2Vec2ConformerConfig,
    WavLMConfig,
    WhisperConfig,
    set_seed,
)
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling

from pmr_hf import MultimodalModel
from pmr_hf.model.pooling import encode, pool, token_mask


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
    "timm_mobilenet": TimmWrapperConfig(architecture="mobilenetv3_small_050"),  # pooled wider than its feature map
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


@pytest.mark.parametrize("family", FAMILIES)
def test_an_embedding_that_survives_saving(family, tmp_path):
    model = build(FAMILIES[family])
    inputs = inputs_for(family)
    output = model(one=inputs)
    assert output.embeddings["one"].shape == (2, model.prototypes.widths["one"]) and output.logits.shape == (2, 3)
    assert not torch.equal(*output.embeddings["one"])
    model.save_pretrained(tmp_path)
    set_seed(1)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert not any("decoder" in key for key in loaded.state_dict())
    weights = loaded.state_dict()
    assert not [key for key, value in model.state_dict().items() if not torch.equal(value, weights[key])]
    # Where weights lie in memory may decide how a convolution is computed.
    torch.testing.assert_close(loaded(one=inputs).embeddings["one"], output.embeddings["one"], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("pooling", ["auto", "cls", "mean", "max"])
@pytest.mark.parametrize("family", [*TEXTS, *SPEECHES])
def test_padding_does_not_change_an_embedding(family, pooling):
    model = build(FAMILIES[family], pooling=pooling)
    inputs = inputs_for(family)
    together = model(one=inputs).embeddings["one"]
    for i, length in enumerate(inputs["attention_mask"].sum(1)):
        alone = model(one={key: value[i : i + 1, :length] for key, value in inputs.items()}).embeddings["one"]
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-5)


def test_whisper_averages_over_the_clip_and_not_the_silence_after_it():
    model = build(WHISPER, pooling="mean")
    inputs = inputs_for("whisper")
    hidden = model.backbones["one"](inputs["input_features"]).last_hidden_state
    assert hidden.shape[1] == 10  # 7 of 20 frames are 4 of 10 tokens
    torch.testing.assert_close(model(one=inputs).embeddings["one"][1], hidden[1, :4].mean(0))


def test_the_mask_of_speech_tokens_is_that_of_the_encoder():
    backbone = build(SPEECHES["hubert"]).backbones["one"]
    for length in (10, 37, 50, 79, 80):
        mask = (torch.arange(80) < length).long()[None]
        tokens = backbone(torch.zeros(1, length)).last_hidden_state.shape[1]
        padded = backbone(torch.zeros(1, 80), attention_mask=mask).last_hidden_state.shape[1]
        assert token_mask(mask, padded, backbone.config).sum() == tokens


def test_pooling_by_hand():
    hidden = torch.tensor([[[1.0, -1.0], [3.0, -5.0], [100.0, 100.0]]])
    output = BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=torch.tensor([[7.0, 7.0]]))
    mask = torch.tensor([[1, 1, 0]])
    expected = {"auto": [7, 7], "cls": [1, -1], "mean": [2, -3], "max": [3, -1]}
    for pooling, values in expected.items():
        assert pool("text", output, pooling, mask).tolist() == [values]
    assert pool("text", BaseModelOutput(last_hidden_state=hidden), "auto", mask).tolist() == [[2, -3]]
    assert pool("text", BaseModelOutput(last_hidden_state=hidden[:, 0])).tolist() == [[1, -1]]
    convolutional = BaseModelOutputWithPooling(pooler_output=torch.ones(2, 5, 1, 1))
    assert torch.equal(pool("image", convolutional), torch.ones(2, 5))
    feature_map = BaseModelOutputWithPooling(last_hidden_state=torch.arange(8.0).reshape(1, 2, 2, 2))
    assert pool("image", feature_map, "mean").tolist() == [[1.5, 5.5]]
    assert pool("image", feature_map, "max").tolist() == [[3, 7]]
    with pytest.raises(ValueError, match="that matches its attention mask"):
        pool("text", output, "mean", torch.ones(1, 9))
    with pytest.raises(ValueError, match="pooling='cls'"):
        pool("image", feature_map, "cls")


def test_pooling_is_saved_and_checked(tmp_path):
    backbones = {"image": IMAGES["vit"], "text": TEXTS["bert"]}
    model = MultimodalModel.from_backbones(backbones, num_labels=3, pooling={"text": "max"})
    model.save_pretrained(tmp_path)
    assert AutoModel.from_pretrained(tmp_path).config.pooling == {"image": "auto", "text": "max"}
    with pytest.raises(ValueError, match="Expected `pooling` to be one of"):
        MultimodalModel.from_backbones(backbones, num_labels=3, pooling={"text": "first"})
    with pytest.raises(ValueError, match="Expected `pooling` to name modalities among"):
        MultimodalModel.from_backbones(backbones, num_labels=3, pooling={"audio": "cls"})


@pytest.mark.parametrize("architecture", ["resnet18", "efficientnet_lite0", "convnext_atto", "mobilenetv4_conv_small"])
def test_the_width_of_a_timm_model(architecture):
    peer = timm.create_model(architecture, num_classes=0).eval()
    model = build(TimmWrapperConfig(architecture=architecture))
    pixels = torch.zeros(1, 3, 64, 64)
    assert model.prototypes.widths["one"] == peer(pixels).shape[1]
    assert model(one={"pixel_values": pixels}).embeddings["one"].shape == peer(pixels).shape


def test_a_task_head_is_dropped():
    classifier = BertForSequenceClassification(TEXTS["bert"])
    model = MultimodalModel.from_backbones({"text": classifier}, num_labels=3)
    assert type(model.backbones["text"]) is BertModel and model.backbones["text"] is classifier.bert


def test_the_vision_tower_of_clip_by_name(tmp_path):
    config = CLIPConfig(vision_config=CLIPVisionConfig(**IMAGE), text_config=CLIPTextConfig(**TEXT), projection_dim=8)
    clip = CLIPModel(config).eval()
    clip.save_pretrained(tmp_path)
    model = build(str(tmp_path))
    inputs = inputs_for("clip_vision")
    expected = clip.vision_model(**inputs).pooler_output
    torch.testing.assert_close(model(one=inputs).embeddings["one"], expected, rtol=0, atol=0)


def test_new_weights_are_named(tmp_path, caplog):
    BertModel(TEXTS["bert"], add_pooling_layer=False).save_pretrained(tmp_path)
    build(str(tmp_path))
    assert "'one' has new weights" in caplog.text and "pooler.dense.weight" in caplog.text
    caplog.clear()
    BertModel(TEXTS["bert"]).save_pretrained(tmp_path)
    build(str(tmp_path))
    assert "new weights" not in caplog.text


def test_a_model_that_automodel_does_not_know():
    with pytest.raises(ValueError, match=r"does not know ClapAudioConfig; .*AutoModel.register\(ClapAudioConfig"):
        build(ClapAudioConfig())


def test_frames_are_averaged_over_those_that_are_there():
    model = build(IMAGES["vit"])
    frames = torch.randn(2, 3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, True], [True, False, True]])
    inputs = {"pixel_values": frames, "frame_mask": mask}
    embeddings = encode("one", model.backbones["one"], inputs)
    each = [[model(one={"pixel_values": frame[None]}).embeddings["one"][0] for frame in clip] for clip in frames]
    torch.testing.assert_close(embeddings[0], torch.stack(each[0]).mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embeddings[1], (each[1][0] + each[1][2]) / 2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fusion", ["concat", "sum", "film", "gated"])
def test_six_unequal_widths_fuse_at_one(fusion):
    widths = np.arange(6) * 2 + 8
    backbones = {f"view{i}": BertConfig(**{**TEXT, "hidden_size": int(width)}) for i, width in enumerate(widths)}
    inputs = {name: inputs_for("bert") for name in backbones}
    for embedding_dim in (None, 10):
        model = MultimodalModel.from_backbones(backbones, num_labels=3, fusion=fusion, embedding_dim=embedding_dim)
        output = model(**inputs, labels=torch.tensor([0, 2]))
        output.loss.backward()
        assert output.logits.shape == (2, 3) and [e.shape[1] for e in output.embeddings.values()] == widths.tolist()


OTHER_SPEECH = {
    "data2vec": Data2VecAudioConfig(**{**SPEECH, "conv_pos_kernel_size": 3, "num_conv_pos_embeddings": 2}),
    "conformer": Wav2Vec2ConformerConfig(feat_extract_norm="layer", conv_depthwise_kernel_size=3, **SPEECH),
    "adapter": Wav2Vec2Config(feat_extract_norm="layer", add_adapter=True, num_adapter_layers=1, **SPEECH),
    "sew": SEWConfig(feat_extract_norm="layer", squeeze_factor=2, **SPEECH),
}


@pytest.mark.parametrize("family", OTHER_SPEECH)
def test_speech_encoders_that_see_padding_read_clips_one_by_one(family):
    model = build(OTHER_SPEECH[family])
    inputs = inputs_for("hubert")
    together = model(one=inputs).embeddings["one"]
    for i, length in enumerate(inputs["attention_mask"].sum(1)):
        alone = model(one={"input_values": inputs["input_values"][i : i + 1, :length]}).embeddings["one"]
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["wav2vec2_group_norm", "wav2vec2_layer_norm", "hubert", "wavlm"])
def test_clips_too_short_for_masking_over_time_can_be_trained_on(family):
    assert SPEECHES[family].mask_time_prob > 0 and SPEECHES[family].mask_time_length == 10
    model = build(SPEECHES[family]).train()
    mask = (torch.arange(50) < torch.tensor([[50], [30]])).long()  # 8 tokens
    output = model(one={"input_values": torch.randn(2, 50), "attention_mask": mask}, labels=torch.tensor([0, 1]))
    output.loss.backward()


@pytest.mark.parametrize("kind", ["config", "model"])
def test_the_vision_tower_of_a_clip_config_or_model(kind):
    config = CLIPConfig(vision_config=CLIPVisionConfig(**IMAGE), text_config=CLIPTextConfig(**TEXT), projection_dim=8)
    model = build(CLIPModel(config) if kind == "model" else config)
    assert model.config.backbones["one"].model_type == "clip_vision_model"
    assert model(one=inputs_for("clip_vision")).embeddings["one"].shape == (2, 16)


def test_clap_is_refused_by_name_too(tmp_path):
    config = ClapConfig(audio_config={"spec_size": 8}, text_config={})
    config.save_pretrained(tmp_path)
    for backbone in (str(tmp_path), config):
        with pytest.raises(ValueError, match=r"got a ClapConfig with several; pass .* such as ClapAudioModel"):
            build(backbone)


def test_a_checkpoint_of_another_model(tmp_path):
    BertModel(TEXTS["bert"]).save_pretrained(tmp_path)
    ViTConfig(**IMAGE).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="to hold the weights of a ViTModel for 'one', but"):
        build(str(tmp_path))
