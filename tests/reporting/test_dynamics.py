import copy

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pmr_hf.reporting.dynamics import evaluations_of, plot_accuracy, plot_dynamics


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


def test_each_of_several_evaluation_sets_has_its_line(make_trainer, digits, tmp_path):
    sets = {"clean": digits.select(range(20)), "image": digits.select(range(20, 64))}  # also a modality's name
    trainer = make_trainer(eval_dataset=sets, eval_strategy="epoch")
    trainer.train()
    axes = Figure().subplots()
    evaluations = evaluations_of(trainer.state.log_history)
    plot_accuracy(axes, evaluations, {"image": "blue", "text": "orange"})
    lines = {line.get_label(): line.get_ydata().tolist() for line in axes.get_lines()}
    for name in sets:
        logged = [entry[f"eval_{name}_accuracy"] for entry in trainer.state.log_history if f"eval_{name}_loss" in entry]
        assert len(logged) == 2 and lines[f"{name}, fused"] == logged
    assert len(lines) == 2
    trainer.create_model_card()
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| accuracy, all modalities fused, on clean | {lines['clean, fused'][-1]:.4f} |" in card
