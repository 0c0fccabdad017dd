"""Audio-visual event localisation: the model against one worked segment by segment, the data, and the script."""

import json
import sys

import pytest
import torch
from helpers.media_files import write_ave
from helpers.scripts import load_example
from transformers import set_seed

from pmr_hf.data.cg_mnist import COLORS


@pytest.fixture(scope="module")
def script():
    return load_example("event_localisation")


def test_the_model_segment_by_segment(script):
    set_seed(0)
    model = script.LocalisationModel(script.LocalisationConfig(hidden_size=8, num_labels=5)).eval()
    batch = {name: torch.randn(2, 10, channels, 8, 8) for name, channels in (("gray", 1), ("colored", 3))}
    output = model(**{name: {"pixel_values": values} for name, values in batch.items()})
    assert output.logits.shape == (2, 10, 5)
    for name, values in batch.items():
        for i in range(2):
            features = torch.stack([model.encoders[name](values[i, t][None]).pooler_output[0] for t in range(10)])
            expected, _ = model.memories[name](features[None])
            torch.testing.assert_close(output.embeddings[name][i], expected[0], atol=1e-5, rtol=1e-4)
    together = torch.cat([output.embeddings["gray"], output.embeddings["colored"]], dim=2)
    torch.testing.assert_close(output.logits[1, 3], model.classifier(together[1, 3]))


def test_a_spectrogram_is_cut_along_time(script):
    spectrogram = torch.arange(24.0).view(1, 1, 2, 12)
    found = script.cut(spectrogram, 5)  # two steps each; the last two steps are left over
    assert found.shape == (1, 5, 1, 2, 2)
    assert found[0, 1, 0].tolist() == [[2.0, 3.0], [14.0, 15.0]]


def test_events_are_digits_in_their_colour_between_background(script):
    data = script.digit_sequences(seed=0)
    assert {name: len(rows) for name, rows in data.items()} == {"train": 600, "validation": 150, "test": 200}
    means = []
    for row in data["train"].select(range(60)):
        events = [label for label in row["label"] if label != 10]
        assert 3 <= len(events) <= 8 and len(set(events)) == 1
        first = row["label"].index(events[0])
        assert row["label"][first : first + len(events)] == events  # in one piece
        gray, colored = torch.tensor(row["gray"]).double(), torch.tensor(row["colored"]).double()
        assert gray.shape == (10, 8, 8, 1) and colored.shape == (10, 8, 8, 3)
        color = colored.sum((1, 2)) / gray.sum((1, 2))  # (10, 3): the color of each picture
        means += [(events[0], color[t]) for t in range(first, first + len(events))]
    colors = torch.tensor(COLORS / 255)
    nearest = [(colors - color).norm(dim=1).argmin().item() for _, color in means]
    assert sum(a == b for (a, _), b in zip(means, nearest, strict=True)) > 0.8 * len(means)


def test_the_seconds_of_ave(script, tmp_path):
    data, names = script.seconds_of_ave(write_ave(tmp_path))
    assert names[0] == "Church bell" and names[-1] == "background" and len(names) == 6
    assert data["train"]["label"][0] == [5, 5, 5, 0, 0, 0, 0, 5, 5, 5]  # from second 3 to 7
    assert data["validation"]["label"][0] == [0] * 10


@pytest.mark.parametrize("source", ["digits", pytest.param("ave", marks=pytest.mark.slow)])
def test_the_script(script, source, tmp_path, monkeypatch, capsys):
    arguments = ["--num_train_epochs", "1", "--use_cpu", "--output_dir", str(tmp_path / "out")]
    if source == "digits":
        whole = script.digit_sequences
        few = {"train": 24, "validation": 8, "test": 8}
        small = lambda seed: {name: rows.select(range(few[name])) for name, rows in whole(seed).items()}  # noqa: E731
        monkeypatch.setattr(script, "digit_sequences", small)
    else:
        arguments += ["--data_dir", str(write_ave(tmp_path)), "--per_device_train_batch_size", "4"]
    monkeypatch.setattr(sys, "argv", ["event_localisation.py", *arguments])
    script.main()
    metrics = json.loads((tmp_path / "out" / "test_results.json").read_text())
    assert f"fused                         {metrics['test_accuracy']:.3f}" in capsys.readouterr().out
    name = "gray" if source == "digits" else "audio"
    assert f"test_{name}_prototype_accuracy" in metrics and (tmp_path / "out" / "model.safetensors").is_file()
