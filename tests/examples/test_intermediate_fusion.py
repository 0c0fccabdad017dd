"""PMR on models that fuse inside their encoders: the modules against ones worked by hand, and the script."""

import json
import sys

import pytest
import torch
from helpers.scripts import load_example
from transformers import set_seed

from pmr_hf import PMRTrainer, attach_prototypes


@pytest.fixture(scope="module")
def script():
    return load_example("intermediate_fusion")


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    gray, colored = (torch.randn(6, channels, 8, 8, generator=generator) for channels in (1, 3))
    return {"gray": {"pixel_values": gray}, "colored": {"pixel_values": colored}, "labels": torch.arange(6)}


def test_mmtm_channel_by_channel(script):
    set_seed(0)
    mmtm = script.MMTM({"a": 4, "b": 8})
    features = {"a": torch.randn(2, 4, 3, 3), "b": torch.randn(2, 8, 5, 5)}
    found = mmtm(features)
    for i in range(2):
        means = [features[name][i, c].mean() for name, count in (("a", 4), ("b", 8)) for c in range(count)]
        squeezed = (mmtm.squeeze.weight @ torch.stack(means) + mmtm.squeeze.bias).clamp(min=0)
        assert len(squeezed) == 3
        for name, count in (("a", 4), ("b", 8)):
            for c in range(count):
                excitation = mmtm.excite[name].weight[c] @ squeezed + mmtm.excite[name].bias[c]
                expected = 2 / (1 + (-excitation).exp()) * features[name][i, c]
                torch.testing.assert_close(found[name][i, c], expected)


@pytest.mark.parametrize("fusion", ["mmtm", "centralnet"])
def test_with_nothing_to_exchange_the_encoders_run_as_alone(script, batch, fusion):
    """An excitation of 0 multiplies by 1, and no encoder reads the central network."""
    set_seed(0)
    model = script.MODELS[fusion](script.IntermediateFusionConfig(hidden_size=16, num_labels=10)).eval()
    if fusion == "mmtm":
        for module in model.exchange:
            for layer in module.excite.values():
                torch.nn.init.zeros_(layer.weight)
                torch.nn.init.zeros_(layer.bias)
    output = model(**batch)
    for name, encoder in model.encoders.items():
        torch.testing.assert_close(output.embeddings[name], encoder(**batch[name]).pooler_output)
    assert output.logits.shape == (6, 10)


def test_centralnet_layer_by_layer(script, batch):
    set_seed(0)
    model = script.CentralNetModel(script.IntermediateFusionConfig(hidden_size=16, num_labels=10)).eval()
    torch.nn.init.normal_(model.weights)
    w = model.weights
    g, c = (model.encoders[name].run_stage(0, batch[name]["pixel_values"]) for name in ("gray", "colored"))
    center = w[0, 1] * g + w[0, 2] * c
    for stage in (1, 2, 3):
        g, c = model.encoders["gray"].run_stage(stage, g), model.encoders["colored"].run_stage(stage, c)
        center = (
            w[stage, 0] * model.central.convolutions[stage](center).clamp(min=0) + w[stage, 1] * g + w[stage, 2] * c
        )
    z = {name: model.encoders[name](**batch[name]).pooler_output for name in ("gray", "colored")}
    center = w[4, 0] * model.central.linear(center.mean((2, 3))) + w[4, 1] * z["gray"] + w[4, 2] * z["colored"]
    torch.testing.assert_close(model(**batch).logits, model.classifier(center))


@pytest.mark.parametrize("fusion", ["mmtm", "centralnet"])
def test_the_terms_of_pmr_reach_the_slow_encoder(script, batch, make_args, fusion):
    set_seed(0)
    model = script.MODELS[fusion](script.IntermediateFusionConfig(hidden_size=16, num_labels=10))
    attach_prototypes(model, {"gray": 16, "colored": 16}, num_labels=10)
    trainer = PMRTrainer(model=model, args=make_args(pmr_alpha=2.0))
    embeddings = model(**batch).embeddings
    model.prototypes.momentum_update(model.prototypes.class_sums(embeddings, batch["labels"]), 0.0)
    model.prototypes.mean("gray").mul_(0.1)  # gray is far from its prototypes, and so the slow one
    model.train()
    outputs = model(**batch)
    terms = trainer.prototype_terms(outputs.embeddings, batch["labels"])
    trainer.method_loss(torch.tensor(0.0), terms, outputs, batch["labels"]).backward()
    assert terms.pce_weights[0] > 0 and terms.pce_weights[1] == 0
    assert model.encoders["gray"].convolutions[0].weight.grad.abs().sum() > 0


def test_the_script(script, tmp_path, monkeypatch, capsys):
    arguments = ["--fusion", "centralnet", "--num_train_epochs", "1", "--max_train_samples", "128", "--use_cpu"]
    monkeypatch.setattr(sys, "argv", ["intermediate_fusion.py", "--output_dir", str(tmp_path), *arguments])
    script.main()
    metrics = json.loads((tmp_path / "test_results.json").read_text())
    assert f"fused                         {metrics['test_accuracy']:.3f}" in capsys.readouterr().out
    assert "test_gray_prototype_accuracy" in metrics and (tmp_path / "model.safetensors").is_file()
