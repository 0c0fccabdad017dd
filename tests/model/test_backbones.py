"""Each family of encoders from a tiny config: its embedding, and how it is built, saved and loaded."""

import numpy as np
import pytest
import timm
import torch
from helpers.tiny_encoders import FAMILIES, IMAGE, SPEECHES, TEXT, TEXTS, build, inputs_for
from transformers import (
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
    ResNetConfig,
    TimmWrapperConfig,
    ViTConfig,
    set_seed,
)

from pmr_hf import MultimodalModel


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_gives_an_embedding_that_survives_saving(family, tmp_path):
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


@pytest.mark.parametrize("fusion", ["concat", "sum", "film", "gated", "attention", "late"])
def test_six_modalities_of_unequal_widths_are_fused(fusion):
    widths = np.arange(6) * 2 + 8
    backbones = {f"view{i}": BertConfig(**{**TEXT, "hidden_size": int(width)}) for i, width in enumerate(widths)}
    inputs = {name: inputs_for("bert") for name in backbones}
    for embedding_dim in (None, 10):
        model = MultimodalModel.from_backbones(backbones, num_labels=3, fusion=fusion, embedding_dim=embedding_dim)
        output = model(**inputs, labels=torch.tensor([0, 2]))
        output.loss.backward()
        assert output.logits.shape == (2, 3) and [e.shape[1] for e in output.embeddings.values()] == widths.tolist()


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


def test_a_backbone_of_another_type():
    import timm

    with pytest.raises(TypeError, match="wrap a timm model as TimmWrapperConfig"):
        MultimodalModel.from_backbones({"image": timm.create_model("resnet10t")}, num_labels=3)


def test_a_backbone_that_does_not_tell_its_width():
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1])
    backbone = MultimodalModel.from_backbones({"image": config}, num_labels=3).backbones["image"]
    backbone.config.hidden_sizes = None
    with pytest.raises(ValueError, match=r"found no `hidden_size`; set `config.hidden_size`"):
        MultimodalModel.from_backbones({"image": backbone}, num_labels=3)
