import copy
import re

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image

from pmr_hf.reporting.model_card import plot_dynamics


@pytest.fixture
def history():
    entries = []
    for epoch in (1.0, 2.0):
        entry = {"epoch": epoch, "step": int(8 * epoch), "ce_loss": 1.0, "rho": 0.5 * epoch}
        for i, name in enumerate(["image", "text", "audio"]):
            entry |= {f"{name}_score": 0.2 + 0.1 * i, f"{name}_pce_weight": 0.3 * i, f"{name}_per_weight": 0.5}
        entries.append(entry)
        entries.append({"epoch": epoch, "step": int(8 * epoch), "eval_loss": 1.0, "eval_accuracy": 0.4 * epoch})
    return entries


@pytest.mark.parametrize("modalities", [["image"], ["image", "text"], ["image", "text", "audio"]])
def test_a_plot_for_any_number_of_modalities_that_leaves_the_log_alone(history, modalities, tmp_path):
    before = copy.deepcopy(history)
    plot_dynamics(history, modalities, tmp_path / "plot.png")
    assert history == before
    pixels = np.asarray(Image.open(tmp_path / "plot.png").convert("RGB"))
    assert pixels.shape[1] > 1000
    # a line of the first modality's colour was drawn
    blue = np.array([31, 119, 180])
    assert (np.abs(pixels.astype(int) - blue).sum(2) < 10).any()


def test_the_card_holds_what_was_measured(make_trainer, digits, tmp_path):
    trainer = make_trainer(num_train_epochs=1, eval_strategy="epoch", pmr_alpha=1.25)
    trainer.train()
    metrics = trainer.evaluate(digits.select(range(20)), metric_key_prefix="test")
    trainer.create_model_card(dataset="two digits", license="apache-2.0")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    results = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert results["accuracy, all modalities fused"] == round(metrics["test_accuracy"], 4)
    assert results["accuracy of text alone, by its prototypes"] == round(metrics["test_text_prototype_accuracy"], 4)
    assert card.data.eval_results[0].dataset_name == "two digits" and card.data.license == "apache-2.0"
    assert "| α, weight of the prototypical cross entropy | 1.25 |" in card.text
    assert "(training_dynamics.png)" in card.text and (tmp_path / "out" / "training_dynamics.png").is_file()


def test_the_cards_code_runs_as_printed(make_trainer, digits, tmp_path, monkeypatch, capsys):
    trainer = make_trainer(num_train_epochs=1)
    trainer.train()
    trainer.save_model()
    trainer.create_model_card(model_name="out")
    code = ModelCard.load(tmp_path / "out" / "README.md").text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(code, {})
    assert re.fullmatch(r"LABEL_\d\nimage LABEL_\d\ntext LABEL_\d\n", capsys.readouterr().out)
