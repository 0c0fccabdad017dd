"""torch.export and ONNX for a fixed set of modalities: the logits are equal for batches of other sizes."""

import pytest
import torch
from transformers import (
    ASTConfig,
    BertConfig,
    ResNetConfig,
    TimmWrapperConfig,
    VideoMAEConfig,
    ViTConfig,
    Wav2Vec2Config,
    WhisperConfig,
)

from pmr_hf import CGMNISTConfig, ExportableModel, MultimodalModel, NumericConfig, TabularConfig


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def wav2vec2(norm):
    return Wav2Vec2Config(
        **SMALL,
        conv_dim=(16, 16),
        conv_kernel=(10, 3),
        conv_stride=(5, 2),
        num_feat_extract_layers=2,
        feat_extract_norm=norm,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )


VIT = ViTConfig(**SMALL, image_size=8, patch_size=4)
WHISPER = WhisperConfig(
    d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=32, num_mel_bins=8,
    max_source_positions=20, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=32, vocab_size=20,
    pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
)  # fmt: skip
# An encoder and the shapes of its inputs for one sample
ENCODERS = {
    "vit": (VIT, {"pixel_values": (3, 8, 8)}),
    "bert": (BertConfig(**SMALL, vocab_size=16), {"input_ids": (5,), "attention_mask": (5,)}),
    "ast": (
        ASTConfig(**SMALL, max_length=32, num_mel_bins=16, patch_size=8, frequency_stride=8, time_stride=8),
        {"input_values": (32, 16)},
    ),
    "resnet": (
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
        {"pixel_values": (3, 32, 32)},
    ),
    "timm": (TimmWrapperConfig(architecture="resnet18"), {"pixel_values": (3, 32, 32)}),
    "videomae": (
        VideoMAEConfig(**SMALL, image_size=16, patch_size=8, num_frames=2),
        {"pixel_values": (2, 3, 16, 16)},
    ),
    "whisper": (WHISPER, {"input_features": (8, 40)}),
    "speech": (wav2vec2("layer"), {"input_values": (400,), "attention_mask": (400,)}),
    "speech_group": (wav2vec2("group"), {"input_values": (400,)}),
    "gray": (CGMNISTConfig(num_channels=1, hidden_size=8), {"pixel_values": (1, 28, 28)}),
    "numbers": (NumericConfig(num_features=3, hidden_size=8), {"values": (3,)}),
    "table": (TabularConfig(1, [4, 3], hidden_size=8), {"values": (1,), "categories": (2,)}),
    "table_of_numbers": (TabularConfig(2, hidden_size=8), {"values": (2,), "categories": (0,)}),
    "table_of_categories": (TabularConfig(0, [5], hidden_size=8), {"values": (0,), "categories": (1,)}),
}


def batch(modalities, size):
    inputs = {}
    for name in modalities:
        inputs[name] = {}
        for key, shape in ENCODERS[name][1].items():
            whole = {"input_ids": torch.randint(16, (size, *shape)), "attention_mask": torch.ones(size, *shape).long()}
            whole["categories"] = torch.randint(3, (size, *shape))
            inputs[name][key] = whole[key] if key in whole else torch.randn(size, *shape)
        if "attention_mask" in inputs[name]:
            inputs[name]["attention_mask"][0, -2:] = 0
    return inputs


@pytest.mark.parametrize(
    ("modalities", "fusion"),
    [
        (("vit", "bert"), "concat"),
        (("whisper", "speech", "speech_group"), "sum"),
        pytest.param(("table", "table_of_numbers", "table_of_categories"), "concat", marks=pytest.mark.slow),
        (("numbers", "table"), "attention"),
        *(pytest.param(("numbers", "table"), fusion, marks=pytest.mark.slow) for fusion in ("late", "shared")),
        *(pytest.param(("vit", "bert"), fusion, marks=pytest.mark.slow) for fusion in ("sum", "film", "gated")),
        pytest.param(("numbers", "gray"), "concat", marks=pytest.mark.slow),
        pytest.param(("ast", "resnet"), "sum", marks=pytest.mark.slow),
        pytest.param(("timm", "videomae"), "sum", marks=pytest.mark.slow),
    ],
)
def test_logits_are_equal_for_other_batches(modalities, fusion, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    width = 6 if fusion == "shared" else None
    backbones = {name: ENCODERS[name][0] for name in (*modalities, "gray")}
    model = MultimodalModel.from_backbones(
        backbones, num_labels=4, fusion=fusion, embedding_dim=width
    )  # "gray" is missing
    torch.nn.init.normal_(model.absent["gray"])
    inputs = batch(modalities, 2)
    flat = ExportableModel(model, inputs)
    with torch.no_grad():
        program = torch.export.export(flat, flat.arguments(inputs), dynamic_shapes=flat.dynamic_shapes)
    torch.onnx.export(program, input_names=flat.input_names, output_names=["logits"]).save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for size in (1, 3, 7):
        other = batch(modalities, size)
        arguments = flat.arguments(other)
        with torch.no_grad():
            expected = model(**other).logits
            torch.testing.assert_close(program.module()(*arguments), expected, atol=1e-6, rtol=1e-5)
        named = {name: value.numpy() for name, value in zip(flat.input_names, arguments, strict=True)}
        (found,) = session.run(["logits"], named)
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-5, rtol=1e-4)


def test_inputs_that_cannot_be_exported_are_refused():
    model = MultimodalModel.from_backbones({"video": VIT, "speech": wav2vec2("group")}, num_labels=4)
    frames = {"pixel_values": torch.randn(2, 3, 3, 8, 8), "frame_mask": torch.ones(2, 3, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"'video' without a `frame_mask`.*use a video encoder"):
        ExportableModel(model, {"video": frames})
    with pytest.raises(ValueError, match=r"'speech' without an `attention_mask`.*give clips of one length"):
        ExportableModel(model, {"speech": batch(["speech"], 2)["speech"]})
    with pytest.raises(ValueError, match=r"two samples or more that have all.*got {'video': {'pixel_values': \(1, 3"):
        ExportableModel(model, {"video": {"pixel_values": torch.randn(1, 3, 8, 8)}})


def test_an_id_of_another_column_is_not_read_by_an_exported_table():
    model, inputs = MultimodalModel.from_backbones({"table": ENCODERS["table"][0]}, 2), batch(["table"], 2)
    flat = ExportableModel(model, inputs)
    with torch.no_grad():
        program = torch.export.export(flat, flat.arguments(inputs), dynamic_shapes=flat.dynamic_shapes).module()
    inputs["table"]["categories"][0, 0] = 4  # the first column has 0..3, and the embeddings of the second follow
    with pytest.raises(IndexError):
        program(*flat.arguments(inputs))
