"""New weights drawn as the authors of PMR draw theirs; pretrained weights untouched."""

import math

import pytest
import torch
from torch import nn
from transformers import BertConfig, ResNetConfig, set_seed

from pmr_hf import CGMNISTConfig, MultimodalConfig, MultimodalModel


BACKBONES = {
    "gray": CGMNISTConfig(num_channels=1),
    "picture": ResNetConfig(layer_type="basic", embedding_size=64, hidden_sizes=[64, 128], depths=[1, 1]),
}


def build(initialization, **kwargs):
    set_seed(0)
    return MultimodalModel.from_backbones(BACKBONES, num_labels=10, initialization=initialization, **kwargs)


def test_each_kind_of_layer_has_the_deviation_of_the_authors_formula():
    """Convolutions: sqrt(2 / (out * k * k)). Linear layers: sqrt(2 / (in + out)), no bias. Batch norm: 1 and 0."""
    model = build("kaiming", fusion="gated", embedding_dim=256, unimodal_heads=True)
    layers = {nn.Conv2d: 0, nn.Linear: 0, nn.BatchNorm2d: 0}
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            out, _, height, width = module.weight.shape
            expected = math.sqrt(2 / (out * height * width))
        elif isinstance(module, nn.Linear):
            assert module.bias is None or not module.bias.any()
            expected = math.sqrt(2 / (module.in_features + module.out_features))
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()
            layers[nn.BatchNorm2d] += 1
            continue
        else:
            continue
        layers[type(module)] += 1
        count = module.weight.numel()  # a deviation of n draws is within 4 / sqrt(2 n) of its own
        assert module.weight.std().item() == pytest.approx(expected, rel=4 / math.sqrt(2 * count))
        assert abs(module.weight.mean().item()) < 4 * expected / math.sqrt(count)
    assert min(layers.values()) >= 5, layers


def test_the_default_draws_as_before():
    set_seed(0)
    plain = MultimodalModel.from_backbones(BACKBONES, num_labels=10)
    for name, value in build("default").state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name
    assert not torch.equal(build("kaiming").fusion.classifier.weight, plain.fusion.classifier.weight)


def test_pretrained_weights_are_untouched_and_new_ones_are_drawn(tmp_path):
    plain = build("default")
    plain.backbones["picture"].save_pretrained(tmp_path)
    set_seed(0)
    mixed = {"gray": BACKBONES["gray"], "picture": str(tmp_path)}
    model = MultimodalModel.from_backbones(mixed, num_labels=10, initialization="kaiming")
    for name, value in plain.backbones["picture"].state_dict().items():
        assert torch.equal(model.backbones["picture"].state_dict()[name], value), name
    weight = model.backbones["gray"].convolutions[3].weight  # torch draws it with sqrt(1 / (3 * 64 * 9))
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.05)


def test_a_saved_model_keeps_its_weights(tmp_path):
    model = build("kaiming")
    model.save_pretrained(tmp_path)
    loaded = MultimodalModel.from_pretrained(tmp_path)
    assert loaded.config.initialization == "kaiming"
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_what_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"Expected `initialization` to be one of \('default', 'kaiming'\), got 'he'"):
        MultimodalConfig(backbones={"gray": CGMNISTConfig()}, initialization="he")
    with pytest.raises(ValueError, match="Expected `initialization` to be one of"):
        build("he")
    pretrained = build("default").backbones["gray"]
    with pytest.raises(ValueError, match="Expected an encoder with new weights for initialization='kaiming', got pre"):
        MultimodalModel.from_backbones({"gray": pretrained}, num_labels=10, initialization="kaiming")


def test_embeddings_of_tokens_keep_their_own_initialisation():
    set_seed(0)
    config = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    model = MultimodalModel.from_backbones({"text": config}, num_labels=2, initialization="kaiming")
    words = model.backbones["text"].embeddings.word_embeddings.weight[1:]
    assert words.std().item() == pytest.approx(config.initializer_range, rel=0.1)
