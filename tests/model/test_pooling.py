"""From the output of an encoder to one embedding per sample: each kind of pooling, without the padding."""

import pytest
import torch
from helpers.tiny_encoders import FAMILIES, IMAGES, SPEECH, SPEECHES, TEXTS, WHISPER, build, inputs_for
from transformers import AutoModel, Data2VecAudioConfig, SEWConfig, Wav2Vec2Config, Wav2Vec2ConformerConfig
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling, MaskedLMOutput

from pmr_hf import MultimodalModel
from pmr_hf.model.pooling import encode, pool, token_mask


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


def test_frames_are_averaged_over_those_that_are_there():
    model = build(IMAGES["vit"])
    frames = torch.randn(2, 3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, True], [True, False, True]])
    inputs = {"pixel_values": frames, "frame_mask": mask}
    embeddings = encode("one", model.backbones["one"], inputs)
    each = [[model(one={"pixel_values": frame[None]}).embeddings["one"][0] for frame in clip] for clip in frames]
    torch.testing.assert_close(embeddings[0], torch.stack(each[0]).mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embeddings[1], (each[1][0] + each[1][2]) / 2, rtol=1e-4, atol=1e-5)


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


def test_a_backbone_whose_output_cannot_be_pooled():
    with pytest.raises(ValueError, match=r"Expected backbone 'text' to give `pooler_output`.*got \['logits'\]"):
        pool("text", MaskedLMOutput(logits=torch.zeros(2, 3, 9)))
