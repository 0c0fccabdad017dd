"""`normalize_embeddings`: embeddings of one scale, wherever the model's embeddings come from."""

import pytest
import torch
from transformers import BertConfig

from pmr_hf import ExportableModel, MultimodalConfig, MultimodalModel, NumericConfig


IDS = {"input_ids": torch.tensor([[2, 3, 4], [5, 6, 0]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
PIXELS = {"pixel_values": torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))}
BATCH = {"image": PIXELS, "text": IDS}


def by_hand(values):
    centred = values - values.mean(1, keepdim=True)
    return centred / (centred.pow(2).mean(1, keepdim=True) + 1e-5).sqrt()


@torch.no_grad()
def test_embeddings_have_mean_0_and_variance_1_and_reach_prototypes_and_heads(make_model, tmp_path):
    plain = make_model(unimodal_heads=True).eval()
    model = make_model(unimodal_heads=True, normalize_embeddings=True).eval()
    raw, found = plain(**BATCH), model(**BATCH)
    for name in BATCH:
        torch.testing.assert_close(found.embeddings[name], by_hand(raw.embeddings[name]))
        torch.testing.assert_close(
            found.unimodal_logits[name], plain.unimodal_heads[name](by_hand(raw.embeddings[name]))
        )
    fused = torch.cat([by_hand(raw.embeddings[name]) for name in BATCH], 1)
    torch.testing.assert_close(found.logits, plain.fusion.classifier(fused))
    model.save_pretrained(tmp_path)
    assert torch.equal(MultimodalModel.from_pretrained(tmp_path)(**BATCH).logits, found.logits)
    flat = ExportableModel(model, BATCH)
    torch.testing.assert_close(flat(*flat.arguments(BATCH)), found.logits)


@torch.no_grad()
def test_the_scale_of_an_encoder_does_not_change_the_answer(make_model):
    """Ten times the last layer norm of the text encoder makes its embedding ten times as large."""
    plain, model = make_model(pooling="mean").eval(), make_model(normalize_embeddings=True, pooling="mean").eval()
    before = plain(**BATCH).logits, model(**BATCH).logits
    for each in (plain, model):
        for parameter in each.backbones["text"].encoder.layer[-1].output.LayerNorm.parameters():
            parameter.mul_(10)
    assert (plain(**BATCH).logits - before[0]).abs().max() > 0.1
    torch.testing.assert_close(model(**BATCH).logits, before[1], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_missing_embedding_stays_zero(make_model):
    batch = {"image": {**PIXELS, "present": torch.tensor([True, False])}, "text": IDS}
    model = make_model(normalize_embeddings=True).eval()
    embeddings = model(**batch).embeddings["image"]
    assert not embeddings[1].any()
    torch.testing.assert_close(embeddings[0], model(**BATCH).embeddings["image"][0])


def test_a_config_saved_before_has_none_and_other_values_are_refused():
    settings = MultimodalConfig({"text": BertConfig(hidden_size=16)}, normalize_embeddings=True).to_dict()
    assert MultimodalConfig.from_dict(settings).normalize_embeddings
    del settings["normalize_embeddings"]
    assert MultimodalConfig.from_dict(settings).normalize_embeddings is False
    with pytest.raises(ValueError, match="Expected `normalize_embeddings` to be True or False, got 'layer'"):
        MultimodalConfig({"text": BertConfig(hidden_size=16)}, normalize_embeddings="layer")
    with pytest.raises(ValueError, match=r"at least 8 numbers to normalize, got \{'stats': 4\}; widen these encoders"):
        MultimodalModel.from_backbones(
            {"stats": NumericConfig(num_features=2, hidden_size=4)}, 3, normalize_embeddings=True
        )
    assert MultimodalModel.from_backbones({"stats": NumericConfig(num_features=2, hidden_size=4)}, 3)
