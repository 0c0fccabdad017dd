"""Labels of segments (B, T): each labelled one is to the method what a sample is; and the example that has them."""

import json
import sys
from pathlib import Path

import pytest
import torch
from helpers.media_files import write_ave
from torch import nn
from torch.nn import functional as F
from transformers import set_seed

from pmr_hf import MultimodalOutput, PMRTrainer, attach_prototypes
from pmr_hf.data.cg_mnist import COLORS
from pmr_hf.data.collator import integer_labels
from pmr_hf.training.prototype_trainer import by_segment


EXAMPLES = Path(__file__).parents[2] / "examples"
SEQUENCES, SEGMENTS, CLASSES = 16, 3, 4
WIDTHS = {"a": 5, "b": 7}


class Linear(nn.Module):
    """Encoders that see each segment, or each sample, by itself."""

    def __init__(self):
        super().__init__()
        self.encoders = nn.ModuleDict({name: nn.Linear(6, width) for name, width in WIDTHS.items()})
        self.head = nn.Linear(sum(WIDTHS.values()), CLASSES)

    def forward(self, a, b, labels):
        embeddings = {"a": self.encoders["a"](a), "b": self.encoders["b"](b)}
        logits = self.head(torch.cat(list(embeddings.values()), dim=-1))
        loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten())
        return MultimodalOutput(loss=loss, logits=logits, embeddings=embeddings)


def collate(rows):
    """Batches whose shorter sequences are filled up."""
    parts = {key: [torch.as_tensor(row[key]) for row in rows] for key in rows[0]}
    if parts["labels"][0].dim() == 0:
        return {key: torch.stack(values) for key, values in parts.items()}
    fill = {"a": 0.0, "b": 0.0, "labels": -100}
    return {
        key: nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=fill[key])
        for key, values in parts.items()
    }


@pytest.fixture(scope="module")
def sequences():
    """Sequences of three segments, of which one, a different one each time, has no label."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i in range(SEQUENCES):
        labels = torch.randint(CLASSES, (SEGMENTS,), generator=generator)
        labels[i % SEGMENTS] = -100
        a, b = (torch.randn(SEGMENTS, 6, generator=generator) + labels[:, None].clamp(min=0) * k for k in (0.2, 2.0))
        rows.append({"a": a, "b": b, "labels": labels})
    return rows


def labelled(rows):
    return [
        {key: row[key][t] for key in row} for row in rows for t in range(len(row["labels"])) if row["labels"][t] >= 0
    ]


def trained(make_args, rows, batch, epochs=3, **kwargs):
    set_seed(0)
    model = Linear()
    attach_prototypes(model, WIDTHS, CLASSES)
    settings = {"num_train_epochs": epochs, "train_sampling_strategy": "sequential", "optim": "sgd"}
    settings |= {"prototype_fraction": 1.0, "pmr_alpha": 2.0, "pmr_mu": 0.1, "per_device_train_batch_size": batch}
    args = make_args(**(settings | kwargs))
    trainer = PMRTrainer(model=model, args=args, train_dataset=rows, eval_dataset=rows, data_collator=collate)
    trainer.train()
    return trainer


@pytest.mark.parametrize("source", ["subset", "online"])
def test_training_on_segments_is_training_on_each_labelled_one(make_args, sequences, source):
    trainers = [
        trained(make_args, sequences, batch=4, prototype_source=source),
        trained(make_args, labelled(sequences), batch=8, prototype_source=source),
    ]
    states = [trainer.model.state_dict() for trainer in trainers]
    assert states[0]["prototypes.a_count"].sum() == len(labelled(sequences))
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-4, atol=1e-6)
    logs = [[entry for entry in trainer.state.log_history if "ce_loss" in entry] for trainer in trainers]
    assert any(entry.get("a_pce_weight", 0) > 0 for entry in logs[0])  # so that the terms had a part in the weights
    for one, other in zip(*logs, strict=True):
        for key in ("ce_loss", "rho", "a_score", "b_score", "a_pce_loss", "b_entropy", "a_pce_weight"):
            assert (key in one) == (key in other)  # online has no terms in the first epoch
            assert one.get(key, 0) == pytest.approx(other.get(key, 0), rel=1e-4), key
    metrics = [trainer.evaluate() for trainer in trainers]
    for key in ("eval_accuracy", "eval_macro_f1", "eval_a_prototype_accuracy", "eval_b_prototype_accuracy"):
        assert metrics[0][key] == pytest.approx(metrics[1][key]), key


def test_sequences_of_several_lengths_are_measured_by_their_labelled_segments(make_args, sequences):
    rows = [{key: values[: 1 + i % SEGMENTS] for key, values in row.items()} for i, row in enumerate(sequences[:15])]
    trainer = trained(make_args, rows, batch=3, epochs=1, per_device_eval_batch_size=2)
    metrics = trainer.evaluate()
    segments = labelled(rows)
    with torch.no_grad():
        output = trainer.model(**collate(segments))
    labels = torch.stack([row["labels"] for row in segments])
    accuracy = (output.logits.argmax(1) == labels).double().mean().item()
    assert 0 < accuracy < 1 and metrics["eval_accuracy"] == pytest.approx(accuracy)
    alone = trainer.model.prototypes(output.embeddings)
    for name, logits in alone.items():
        expected = (logits.argmax(1) == labels).double().mean().item()
        assert metrics[f"eval_{name}_prototype_accuracy"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0, 1], [2]], r"as many labels of segments for each sample, got \[1, 2\]; fill up with -100"),
        ([[0, -100], [9, 1]], r"labels in 0..3, got labels from 0 to 9"),
        ([[0, -1], [2, 1]], r"labels in 0..3, got labels from -1 to 2"),
        ([0, -100], r"labels in 0..3, got labels from -100 to 0"),
        ([[[0]], [[1]]], "integer labels"),
    ],
)
def test_labels_that_are_none_of_segments(labels, message):
    with pytest.raises(ValueError, match=message):
        integer_labels(labels, CLASSES, segments=True)


def test_labels_of_segments():
    assert integer_labels([[0, -100], [3, 1]], CLASSES, segments=True).tolist() == [[0, -100], [3, 1]]
    assert integer_labels([[-100, -100]], CLASSES, segments=True).tolist() == [[-100, -100]]


def test_a_list_of_labels_for_a_model_of_whole_samples_stops_before_training(make_trainer, digits):
    one_hot = digits.remove_columns("label").add_column(
        "label", [[int(k == y) for k in range(4)] for y in digits["label"]]
    )
    with pytest.raises(ValueError, match=r"Expected integer labels 0..K-1, got \[1, 0, 0, 0\]"):
        make_trainer(train_dataset=one_hot)


@pytest.mark.parametrize(("embedding", "labels"), [((4, 3, 5), (4,)), ((4, 5), (4, 3)), ((4, 2, 5), (4, 3))])
def test_embeddings_that_are_not_one_for_each_label(embedding, labels):
    """Of tokens beside labels of samples, of samples beside one-hot labels, of other segments."""
    with pytest.raises(ValueError, match=r"got embeddings {'a': .*} and labels .*; pool embeddings of tokens"):
        by_segment({"a": torch.zeros(embedding)}, torch.zeros(labels, dtype=torch.long), None)


def test_data_without_any_label_have_no_accuracy(make_args, sequences):
    trainer = trained(make_args, sequences, batch=4, epochs=1)
    rows = [row | {"labels": torch.full_like(row["labels"], -100)} for row in sequences]
    assert not [key for key in trainer.evaluate(rows) if "accuracy" in key or "f1" in key]


# ---- The example ----


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(EXAMPLES))
    import event_localisation

    sys.path.remove(str(EXAMPLES))
    return event_localisation


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
    found = script.cut(spectrogram, 5)  # two steps each, the last two are left over
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
        color = colored.sum((1, 2)) / gray.sum((1, 2))  # (10, 3), what each picture was multiplied by
        means += [(events[0], color[t]) for t in range(first, first + len(events))]
    colors = torch.tensor(COLORS / 255)
    nearest = [(colors - color).norm(dim=1).argmin().item() for _, color in means]
    assert sum(a == b for (a, _), b in zip(means, nearest, strict=True)) > 0.8 * len(means)


def test_the_seconds_of_ave(script, tmp_path):
    data, names = script.seconds_of_ave(write_ave(tmp_path))
    assert names[0] == "Church bell" and names[-1] == "background" and len(names) == 6
    assert data["train"]["label"][0] == [5, 5, 5, 0, 0, 0, 0, 5, 5, 5]  # from second 3 to 7
    assert data["validation"]["label"][0] == [0] * 10


@pytest.mark.parametrize("source", ["digits", "ave"])
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
