"""LoRA on single encoders: what it trains, and that it is saved, resumed and loaded."""

import pytest
import torch
from helpers.digits import NUM_LABELS
from helpers.snapshots import changed, snapshot
from transformers import AutoModel, BertConfig, TimmWrapperConfig, Wav2Vec2Config

from pmr_hf import MultimodalModel


LORA = {"text": {"r": 2, "lora_alpha": 4}}


def test_lora_trains_its_layers_head_and_nothing_else_of_the_encoder(make_trainer, make_model):
    trainer = make_trainer(make_model(lora=LORA), num_train_epochs=1)
    before = snapshot(trainer.model)
    trainer.train()
    moved = changed(before, trainer.model)
    text = {name for name in moved if name.startswith("backbones.text")}
    assert text and all("lora_" in name for name in text)
    assert {"fusion.classifier.weight", "prototypes.text_mean"} <= moved
    assert any(name.startswith("backbones.image") for name in moved)


def test_lora_starts_from_the_encoder_as_it_is(make_model, collator, digits):
    batch = collator([digits[i] for i in range(4)])
    plain, adapted = make_model().eval(), make_model(lora=LORA).eval()
    torch.testing.assert_close(adapted(**batch).embeddings, plain(**batch).embeddings)


@pytest.mark.parametrize(
    "kwargs",
    [pytest.param({}, marks=pytest.mark.slow), {"freeze": ["image"], "modality_learning_rates": {"text": 0.02}}],
)
def test_lora_is_saved_resumed_and_loaded(make_trainer, make_model, tmp_path, collator, digits, kwargs):
    kwargs = {"save_strategy": "steps", "save_steps": 6, "num_train_epochs": 2, **kwargs}
    whole = make_trainer(make_model(lora=LORA), output_dir=str(tmp_path / "whole"), **kwargs)
    whole.train()
    again = make_trainer(make_model(seed=1, lora=LORA), output_dir=str(tmp_path / "whole"), **kwargs)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], tensor, rtol=0, atol=0, msg=name)
    whole.save_model(str(tmp_path / "saved"))
    loaded = AutoModel.from_pretrained(tmp_path / "saved").eval()
    batch = collator([digits[i] for i in range(8)])
    expected, found = whole.model.eval()(**batch), loaded(**batch)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(loaded.prototypes.mean("text"), whole.model.prototypes.mean("text"))
    trainable = {name for name, parameter in loaded.named_parameters() if parameter.requires_grad}
    assert not any(name.startswith("backbones.text") and "lora_" not in name for name in trainable)


@pytest.mark.parametrize("family", ["bert", "wav2vec2", "timm"])
def test_lora_of_other_families(family):
    config = {
        "bert": BertConfig(hidden_size=8, num_attention_heads=1, num_hidden_layers=1, intermediate_size=8),
        "wav2vec2": Wav2Vec2Config(hidden_size=16, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8),
        "timm": TimmWrapperConfig(architecture="vit_tiny_patch16_224", model_args={"depth": 1}),
    }[family]
    model = MultimodalModel.from_backbones({"one": config}, num_labels=NUM_LABELS, lora={"one": {"r": 2}})
    trainable = [name for name, parameter in model.backbones.named_parameters() if parameter.requires_grad]
    assert trainable and all("lora_" in name for name in trainable)


def test_bad_lora(make_model):
    with pytest.raises(ValueError, match=r"Expected `lora` of 'text' to have arguments among .*, got \['rank'\] too"):
        make_model(lora={"text": {"rank": 2}})
    with pytest.raises(ValueError, match="Expected the LoRA of 'text' to find layers in a BertModel"):
        make_model(lora={"text": {"target_modules": ["nothing"]}})
    with pytest.raises(ValueError, match=r"Expected `lora` to name modalities among \['image', 'text'\]"):
        make_model(lora={"sound": {"r": 2}})


def test_gradient_checkpointing_changes_nothing(make_trainer, make_model):
    """With LoRA and with a frozen encoder, whose inputs need no gradient."""
    weights = {}
    for checkpointing in (False, True):
        trainer = make_trainer(
            make_model(lora=LORA), freeze=["image"], gradient_checkpointing=checkpointing, num_train_epochs=1
        )
        trainer.train()
        weights[checkpointing] = trainer.model.state_dict()
    for name, tensor in weights[False].items():
        torch.testing.assert_close(weights[True][name], tensor, rtol=1e-4, atol=1e-6, msg=name)
