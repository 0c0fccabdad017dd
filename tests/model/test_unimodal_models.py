"""Finished models of one modality each, fused by the mean of their probabilities."""

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    DeiTConfig,
    DeiTForImageClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    HubertConfig,
    HubertForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    Wav2Vec2Config,
    Wav2Vec2ForSequenceClassification,
    WavLMConfig,
    WavLMForSequenceClassification,
    set_seed,
)

from pmr_hf import MultimodalModel, MultimodalPipeline, MultimodalProcessor, NumericConfig
from pmr_hf.model.unimodal_models import LINEAR_CLASSIFIERS


NAMES = ["cat", "dog", "owl"]
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = BertConfig(**SMALL, vocab_size=16, max_position_embeddings=16)
IDS = {"input_ids": torch.tensor([[2, 3, 4, 5], [6, 7, 0, 0]]), "attention_mask": torch.tensor([[1] * 4, [1, 1, 0, 0]])}
NUMBERS = {"values": torch.tensor([[1.0, -2.0], [0.5, 3.0]])}


def finished(name, backbone, names=NAMES, **kwargs):
    """A model of one modality, with large random weights and prototypes."""
    set_seed(len(name))
    id2label = dict(enumerate(names))
    model = MultimodalModel.from_backbones({name: backbone}, num_labels=len(names), id2label=id2label, **kwargs)
    for part in (*model.fusion.parameters(), *model.projections.parameters()):
        torch.nn.init.normal_(part)
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter)
    embeddings = {name: torch.randn(6, model.widths[name])}
    model.prototypes.momentum_update(model.prototypes.class_sums(embeddings, torch.arange(6) % len(names)), 0.0)
    return model.eval()


@torch.no_grad()
def test_normalized_embeddings_stay_normalized():
    text = finished("title", TEXT, normalize_embeddings=True)
    model = MultimodalModel.from_unimodal({"text": text})
    torch.testing.assert_close(model(text=IDS).logits.softmax(1), text(title=IDS).logits.softmax(1))


@torch.no_grad()
def test_a_calibrated_model_keeps_its_probabilities():
    text = finished("title", TEXT, calibration_temperature=2.5)
    model = MultimodalModel.from_unimodal({"text": text})
    torch.testing.assert_close(model(text=IDS).logits.exp(), (text(title=IDS).logits / 2.5).softmax(1))


@pytest.mark.parametrize("weights", [None, {"text": 0.9, "stats": 0.3}])
@torch.no_grad()
def test_the_answer_is_the_mean_of_the_models_probabilities_by_the_names_of_the_classes(weights, tmp_path):
    text = finished("title", TEXT, embedding_dim=6, pooling="mean", lora={"title": {"r": 2}})
    stats = finished("stats", NumericConfig(num_features=2, hidden_size=8), NAMES[::-1], fusion="sum")
    stats.save_pretrained(tmp_path / "stats")
    before = {key: value.clone() for key, value in text.state_dict().items()}
    model = MultimodalModel.from_unimodal({"text": text, "stats": tmp_path / "stats"}, weights)
    assert not model.training and model.config.modalities == ["text", "stats"]
    assert [model.config.id2label[k] for k in range(3)] == NAMES
    batch = {"text": IDS, "stats": NUMBERS}
    both = {"text": text(title=IDS), "stats": stats(stats=NUMBERS)}
    share = {name: (weights or {"text": 0.6, "stats": 0.6})[name] / 1.2 for name in both}
    found = model(**batch)
    by_text, by_stats = both["text"].logits.softmax(1), both["stats"].logits.softmax(1)
    prototypes = model.prototypes(found.embeddings)
    of_text, of_stats = text.prototypes(both["text"].embeddings), stats.prototypes(both["stats"].embeddings)
    for i in range(2):
        for k, label in enumerate(NAMES):
            other = NAMES[::-1].index(label)
            expected = share["text"] * by_text[i, k] + share["stats"] * by_stats[i, other]
            torch.testing.assert_close(found.logits[i, k].exp(), expected)
            torch.testing.assert_close(prototypes["text"][i, k], of_text["title"][i, k])
            torch.testing.assert_close(prototypes["stats"][i, k], of_stats["stats"][i, other])
    torch.testing.assert_close(model(text=IDS).logits.exp(), by_text)  # the modalities that a sample has
    assert all(torch.equal(before[key], value) for key, value in text.state_dict().items())
    model.save_pretrained(tmp_path / "fused")
    assert torch.equal(MultimodalModel.from_pretrained(tmp_path / "fused")(**batch).logits, found.logits)
    again = MultimodalModel.from_unimodal({"stats": MultimodalModel.from_unimodal({"text": stats})})
    torch.testing.assert_close(again(stats=NUMBERS).logits.exp(), by_stats)


def test_the_pipeline_answers_by_the_models_of_the_modalities_that_are_there(make_model, processor, digits):
    backbones = make_model().config.backbones
    image, text = (make_model(backbones={name: backbones[name]}).eval() for name in ("image", "text"))
    model = MultimodalModel.from_unimodal({"image": image, "text": text})
    pipe = MultimodalPipeline(model, processor, missing="fused")
    for values in ({"text": "the digit one"}, {"image": digits[0]["picture"]}):
        (name,) = values
        alone = MultimodalPipeline(
            {"image": image, "text": text}[name], MultimodalProcessor({name: processor.processors[name]})
        )
        for found, expected in zip(pipe(**values), alone(**values), strict=True):
            assert found == {"label": expected["label"], "score": pytest.approx(expected["score"], rel=1e-4)}


PICTURES = {"pixel_values": torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
CLIPS = {
    "input_values": torch.randn(2, 400, generator=torch.Generator().manual_seed(0)),
    "attention_mask": (torch.arange(400) < torch.tensor([[400], [300]])).long(),
}
PATCHES = {"image_size": 32, "patch_size": 8}
SPEECH = SMALL | {
    "conv_dim": (16, 16), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_feat_extract_layers": 2,
    "feat_extract_norm": "layer", "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
}  # fmt: skip
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1]}
CLASSIFIERS = {
    BertForSequenceClassification: (TEXT, IDS),
    ConvNextForImageClassification: (ConvNextConfig(**STAGES, num_stages=2), PICTURES),
    DeiTForImageClassification: (DeiTConfig(**SMALL, **PATCHES), PICTURES),
    HubertForSequenceClassification: (HubertConfig(**SPEECH), CLIPS),
    ResNetForImageClassification: (ResNetConfig(**STAGES, embedding_size=8, layer_type="basic"), PICTURES),
    SwinForImageClassification: (
        SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4),
        PICTURES,
    ),
    ViTForImageClassification: (ViTConfig(**SMALL, **PATCHES), PICTURES),
    Wav2Vec2ForSequenceClassification: (Wav2Vec2Config(**SPEECH), CLIPS),
    WavLMForSequenceClassification: (WavLMConfig(**SPEECH), CLIPS),
}


def task_model(cls, config):
    set_seed(0)
    config = type(config)(**config.to_diff_dict() | {"id2label": dict(enumerate(NAMES))})
    model = cls(config).eval()
    for name, parameter in model.named_parameters():
        if name.startswith(("classifier.", "projector.")):
            torch.nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize("cls", CLASSIFIERS, ids=lambda cls: cls.__name__)
@torch.no_grad()
def test_a_classifier_of_transformers_gives_its_probabilities(cls, tmp_path):
    config, inputs = CLASSIFIERS[cls]
    alone = task_model(cls, config)
    alone.save_pretrained(tmp_path)
    expected = alone(**inputs).logits.log_softmax(1)
    assert expected.std(0).max() > 0.01  # the samples differ
    for source in (alone, tmp_path):
        model = MultimodalModel.from_unimodal({"one": source})
        torch.testing.assert_close(model(one=inputs).logits, expected, atol=1e-4, rtol=1e-4)
    model.save_pretrained(tmp_path / "again")
    again = MultimodalModel.from_pretrained(tmp_path / "again")
    assert not again.missing_weights and torch.equal(again(one=inputs).logits, model(one=inputs).logits)


def test_each_class_of_transformers_is_tested():
    assert {cls.__name__ for cls in CLASSIFIERS} == set(LINEAR_CLASSIFIERS)


def test_what_cannot_be_fused_is_refused(tmp_path):
    numbers = NumericConfig(num_features=2, hidden_size=8)
    stats, text = finished("stats", numbers), finished("title", TEXT)

    def fuse(model, message, weights=None, error=ValueError):
        with pytest.raises(error, match=message):
            MultimodalModel.from_unimodal({"stats": stats, "text": model}, weights)

    fuse(finished("title", TEXT, ["cat", "dog", "cow"]), r"model of 'text' to have the names.*'owl'\], got .*'cow'")
    fuse(finished("title", TEXT, ["cat", "dog"]), "model of 'text' to have the names of the first model")
    fuse(
        finished("title", TEXT, normalize_embeddings=True),
        r"same `normalize_embeddings` to fuse, got \{'stats': False, ",
    )
    fuse(
        finished("title", TEXT, fusion="attention"), "linear head of fusion 'concat', 'sum' or 'late', got 'attention'"
    )
    both = MultimodalModel.from_unimodal({"stats": stats, "text": text})
    fuse(both, r"one modality for 'text' that answers by its head, got modalities \['stats', 'text'\]")
    fuse(finished("title", TEXT, answer="prototypes"), "answer='prototypes'; train one modality alone, or set")
    labels = MultimodalModel.from_backbones({"title": TEXT}, 3, problem_type="multi_label_classification")
    fuse(labels, "one label per sample, got problem_type='multi_label_classification'")
    fuse(5, "model of 'text' as a Hub name, a local folder or a loaded model, got int", error=TypeError)
    fuse(tmp_path / "none", "folder of an encoder for 'text'", error=FileNotFoundError)
    config = DistilBertConfig(dim=16, n_heads=2, n_layers=1, hidden_dim=16, vocab_size=16, num_labels=3)
    DistilBertForSequenceClassification(config).save_pretrained(tmp_path)
    fuse(tmp_path, "logits are linear in an embedding, got DistilBertForSequenceClassification; give its encoder to")
    weighted = task_model(Wav2Vec2ForSequenceClassification, Wav2Vec2Config(**SPEECH, use_weighted_layer_sum=True))
    fuse(weighted, "model of 'text' to classify its last layer, got use_weighted_layer_sum=True")
    unfinished = task_model(ViTForImageClassification, ViTConfig(**SMALL, **PATCHES))
    kept = {key: value for key, value in unfinished.state_dict().items() if key != "classifier.bias"}
    unfinished.save_pretrained(tmp_path / "unfinished", state_dict=kept)
    fuse(tmp_path / "unfinished", r"lacks the weights \['classifier.bias'\]; train it")
    for weights in ({"text": 1.0}, {"text": 1.0, "stats": 0.0}, {"text": 1.0, "stats": float("nan")}):
        fuse(text, r"`weights` to be a positive number for each of \['stats', 'text'\]", weights)
    text.missing_weights = ["fusion.classifier.weight"]
    fuse(text, r"finished model of 'text', but it lacks the weights \['fusion.classifier.weight'\]")
    with pytest.raises(ValueError, match="at least one finished model"):
        MultimodalModel.from_unimodal({})
