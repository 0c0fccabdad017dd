"""The model: forward, loss, precision, and weights that survive building, saving and loading."""

import pytest
import torch
from helpers.digits import NUM_LABELS
from helpers.snapshots import changed, snapshot
from helpers.strategies import NAMES, SHAPES
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import (
    ASTConfig,
    AutoModel,
    BertConfig,
    CLIPVisionConfig,
    ConvNextConfig,
    Dinov2Config,
    DistilBertConfig,
    ResNetConfig,
    RobertaConfig,
    TimmWrapperConfig,
    ViTConfig,
)

from pmr_hf import CGMNISTConfig, CGMNISTModel, Fusion, MultimodalModel, NumericConfig, register_fusion
from pmr_hf.model.fusion import FUSIONS


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TEXT = SMALL | {"vocab_size": 20, "max_position_embeddings": 12, "pad_token_id": 0}
BACKBONES = {
    "vit": ViTConfig(image_size=8, patch_size=4, **SMALL),
    "dinov2": Dinov2Config(image_size=8, patch_size=4, **SMALL),
    "clip_vision": CLIPVisionConfig(image_size=8, patch_size=4, **SMALL),
    "resnet": ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1]),
    "convnext": ConvNextConfig(hidden_sizes=[4, 8], depths=[1, 1], num_stages=2, patch_size=2),
    "timm": TimmWrapperConfig(architecture="resnet10t"),
    "cg_mnist": CGMNISTConfig(num_channels=3, hidden_size=10),
    "bert": BertConfig(**TEXT),
    "roberta": RobertaConfig(**TEXT),
    "distilbert": DistilBertConfig(
        vocab_size=20, dim=16, n_layers=1, n_heads=2, hidden_dim=16, max_position_embeddings=12
    ),
    "ast": ASTConfig(num_mel_bins=8, max_length=16, patch_size=4, frequency_stride=4, time_stride=4, **SMALL),
}
TEXTS = ("bert", "roberta", "distilbert")


def inputs_of(name, batch=3):
    generator = torch.Generator().manual_seed(0)
    if name in TEXTS:
        ids = torch.randint(3, 20, (batch, 6), generator=generator)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if name == "ast":
        return {"input_values": torch.rand(batch, 16, 8, generator=generator)}
    size = 32 if name == "timm" else 8
    return {"pixel_values": torch.rand(batch, 3, size, size, generator=generator)}


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_gives_one_embedding_and_survives_saving(name, tmp_path):
    model = MultimodalModel.from_backbones({"first": BACKBONES[name]}, num_labels=3).eval()
    for buffer in model.prototypes.buffers():
        buffer.fill_(1)
    batch = {"first": inputs_of(name)}
    output = model(**batch, labels=torch.tensor([0, 1, 2]))
    assert output.embeddings["first"].shape == (3, model.prototypes.widths["first"])
    assert output.logits.shape == (3, 3) and output.loss.isfinite()
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert isinstance(loaded, MultimodalModel) and not loaded.training
    state, saved = loaded.state_dict(), model.state_dict()
    assert state.keys() == saved.keys()
    assert [key for key in state if not torch.equal(state[key], saved[key])] == []
    assert torch.equal(loaded(**batch).logits, output.logits)


def test_several_modalities_of_one_kind_in_the_order_given(make_model):
    image = CGMNISTConfig(num_channels=1, hidden_size=4)
    model = make_model(backbones={"second": image, "first": image})
    assert list(model.backbones) == list(model.fusion.widths) == list(model.prototypes.widths) == ["second", "first"]
    pixels = torch.rand(2, 1, 8, 8)
    output = model.eval()(second={"pixel_values": pixels}, first={"pixel_values": pixels})
    assert not torch.equal(output.embeddings["first"], output.embeddings["second"])


def test_from_backbones_takes_folders_configs_and_models_with_their_weights(tmp_path):
    text, image = AutoModel.from_config(BACKBONES["bert"]), AutoModel.from_config(BACKBONES["vit"])
    text.save_pretrained(tmp_path / "text")
    expected = {name: value.clone() for name, value in image.state_dict().items()}
    model = MultimodalModel.from_backbones(
        {"text": str(tmp_path / "text"), "image": image, "new": BACKBONES["cg_mnist"]}, num_labels=3
    )
    for name, value in text.state_dict().items():
        assert torch.equal(model.backbones["text"].state_dict()[name], value), name
    for name, value in expected.items():
        assert torch.equal(model.backbones["image"].state_dict()[name], value), name
    assert isinstance(model.backbones["new"], CGMNISTModel)


def test_embedding_dim_projects_for_the_fusion_alone(make_model):
    model = make_model(embedding_dim=6, fusion="concat").eval()
    assert model.fusion.classifier.in_features == 12
    batch = {"image": {"pixel_values": torch.rand(2, 1, 8, 8)}, "text": {"input_ids": torch.tensor([[2, 3], [4, 5]])}}
    output = model(**batch)
    assert {name: value.shape[1] for name, value in output.embeddings.items()} == {"image": 16, "text": 12}
    torch.testing.assert_close(sum(model.modality_logits(output.embeddings).values()), output.logits)


def test_loss_is_the_cross_entropy_in_fp32(make_model):
    model = make_model().eval()
    batch = {"image": {"pixel_values": torch.rand(2, 1, 8, 8)}, "text": {"input_ids": torch.tensor([[2, 3], [4, 5]])}}
    labels = torch.tensor([1, 3])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**batch, labels=labels)
    assert output.logits.dtype == torch.bfloat16 and output.loss.dtype == torch.float32
    torch.testing.assert_close(output.loss, torch.nn.functional.cross_entropy(output.logits.float(), labels))


def test_prototypes_stay_fp32_when_the_weights_are_loaded_in_bf16(make_model, tmp_path):
    model = make_model()
    model.prototypes.mean("image").normal_()
    model.save_pretrained(tmp_path)
    loaded = MultimodalModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert loaded.fusion.classifier.weight.dtype == torch.bfloat16
    assert torch.equal(loaded.prototypes.mean("image"), model.prototypes.mean("image"))


def test_weights_that_are_given_are_kept(make_model):
    """Weights of a module that replaces one of an encoder, and weights that a user's head initialises."""
    text = AutoModel.from_config(BACKBONES["bert"])
    text.pooler.dense = torch.nn.Linear(16, 16)
    expected = text.pooler.dense.weight.clone()

    @register_fusion("zeros")
    class ZeroFusion(Fusion):
        def __init__(self, widths, num_labels):
            super().__init__()
            self.head = torch.nn.Linear(widths["text"], num_labels)
            torch.nn.init.zeros_(self.head.weight)

        def forward(self, embeddings):
            return self.head(embeddings["text"])

    model = make_model(backbones={"text": text}, fusion="zeros")
    FUSIONS.pop("zeros")
    assert torch.equal(model.backbones["text"].pooler.dense.weight, expected)
    assert model.fusion.head.weight.abs().max() == 0


def test_a_head_in_fp32_over_an_encoder_stored_in_bf16(tmp_path):
    AutoModel.from_config(BACKBONES["bert"]).to(torch.bfloat16).save_pretrained(tmp_path)
    by_name = MultimodalModel.from_backbones({"text": tmp_path}, num_labels=3)
    assert {parameter.dtype for parameter in by_name.parameters()} == {torch.float32}  # for training
    text = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    model = MultimodalModel.from_backbones({"text": text, "image": BACKBONES["vit"]}, num_labels=3)
    assert model.backbones["text"].dtype == torch.bfloat16 and model.fusion.classifier.weight.dtype == torch.float32
    output = model(text=inputs_of("bert"), image=inputs_of("vit"), labels=torch.tensor([0, 1, 2]))
    output.loss.backward()
    assert output.logits.dtype == torch.float32


def test_prototypes_stay_fp32_when_the_model_is_cast_or_moved(make_model):
    model = make_model()
    expected = model.prototypes.mean("image").normal_().clone()
    model.to(torch.bfloat16)
    assert model.fusion.classifier.weight.dtype == torch.bfloat16
    assert torch.equal(model.prototypes.mean("image"), expected)
    assert model.prototypes.state_dict()["image_seen"].dtype == torch.bool
    assert model.to("meta").prototypes.mean("image").is_meta


def test_gradient_checkpointing_reaches_the_backbones(make_model):
    model = make_model().train()
    batch = {"image": {"pixel_values": torch.rand(2, 1, 8, 8)}, "text": {"input_ids": torch.tensor([[2, 3], [4, 5]])}}
    labels = torch.tensor([1, 3])
    model(**batch, labels=labels).loss.backward()
    plain = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    assert all(backbone.is_gradient_checkpointing for backbone in model.backbones.values())
    model(**batch, labels=labels).loss.backward()
    for name, parameter in model.named_parameters():
        if name in plain:
            torch.testing.assert_close(parameter.grad, plain[name])


def test_num_labels(make_model):
    assert make_model().config.num_labels == NUM_LABELS


def test_loading_in_bf16_reaches_the_encoders(tmp_path):
    AutoModel.from_config(BACKBONES["bert"]).save_pretrained(tmp_path / "bert")  # whose config says float32
    model = MultimodalModel.from_backbones({"text": tmp_path / "bert"}, num_labels=3)
    model.save_pretrained(tmp_path / "saved")
    loaded = MultimodalModel.from_pretrained(tmp_path / "saved", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    assert loaded.prototypes.mean("text").dtype == torch.float32


def test_an_encoder_in_half_precision_takes_inputs_in_full():
    image = AutoModel.from_config(BACKBONES["vit"]).to(torch.bfloat16)
    model = MultimodalModel.from_backbones({"image": image}, num_labels=3)
    assert model(image=inputs_of("vit")).logits.dtype == torch.float32


@pytest.fixture(scope="module")
def model():
    configs = {"image": NumericConfig(num_features=3, hidden_size=4), "text": NumericConfig(num_features=2)}
    return MultimodalModel.from_backbones(configs, num_labels=4).eval()


INPUTS = st.dictionaries(
    st.sampled_from(["values", "present", "attention_mask"]), SHAPES.map(torch.zeros) | st.sampled_from([None, [0.0]])
)


@given(
    st.dictionaries(NAMES, INPUTS | SHAPES.map(torch.zeros) | st.sampled_from([None, [[0.0] * 3]]), max_size=3),
    st.none() | SHAPES.map(torch.zeros),
)
@example({"image": {"values": torch.zeros(4, 3)}}, torch.zeros(3))
@example({"image": {"values": torch.zeros(4, 3)}}, torch.zeros(4, 1))
@example({"image": {"values": torch.zeros(4, 2)}}, None)
@example({"image": {"values": torch.zeros(4, 3), "present": torch.ones(4, 2)}}, None)
@example({"image": torch.zeros(4, 3)}, None)
def test_a_model_given_other_inputs_stops_with_a_sentence(model, inputs, labels):
    for dtype in (torch.long, torch.float32, torch.int32):
        y = None if labels is None else labels.to(dtype)
        try:
            output = model(labels=y, **inputs)
        except ValueError as error:
            assert str(error).startswith("Expected ")
        else:
            assert labels is None or (dtype == torch.long and (output.loss.isfinite() or len(labels) == 0))
            assert output.logits.isfinite().all()


def test_a_frozen_encoder_stays_in_evaluation_mode():
    model = MultimodalModel.from_backbones(
        {"gray": CGMNISTConfig(num_channels=1), "colored": CGMNISTConfig()}, num_labels=2
    )
    model.freeze(["gray"])
    before = snapshot(model)
    model.train()(**{name: {"pixel_values": torch.rand(4, c, 8, 8)} for name, c in (("gray", 1), ("colored", 3))})
    assert changed(before, model) == {f"backbones.colored.norm.{key}" for key in ("running_mean", "running_var")} | {
        "backbones.colored.norm.num_batches_tracked"
    }
    with pytest.raises(ValueError, match=r"Expected `freeze` to name modalities among \['gray', 'colored'\]"):
        model.freeze(["sound"])
