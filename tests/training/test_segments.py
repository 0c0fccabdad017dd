"""Labels of segments (B, T): the method treats each labelled segment as it treats a sample."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import set_seed

from pmr_hf import MultimodalOutput, PMRTrainer, attach_prototypes
from pmr_hf.training.segments import by_segment


SEQUENCES, SEGMENTS, CLASSES = 16, 3, 4
WIDTHS = {"a": 5, "b": 7}


class Linear(nn.Module):
    """A model whose encoders read each segment, or each sample, on its own."""

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
    """Stack rows; pad the shorter sequences, and their labels with -100."""
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
    """Sequences of three segments; in each, one segment in turn has no label."""
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
    assert any(entry.get("a_pce_weight", 0) > 0 for entry in logs[0])  # so the terms changed the weights
    for one, other in zip(*logs, strict=True):
        for key in ("ce_loss", "rho", "a_score", "b_score", "a_pce_loss", "b_entropy", "a_pce_weight"):
            assert (key in one) == (key in other)  # with "online" there are no terms in the first epoch
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


def test_a_list_of_labels_for_a_model_of_whole_samples_stops_before_training(make_trainer, digits):
    one_hot = digits.remove_columns("label").add_column(
        "label", [[int(k == y) for k in range(4)] for y in digits["label"]]
    )
    said = (
        r"Expected integer labels 0..K-1, got \[1, 0, 0, 0\] .*; labels of segments \(B, T\) need a model that is not"
    )
    with pytest.raises(ValueError, match=said):
        make_trainer(train_dataset=one_hot)


@pytest.mark.parametrize(("embedding", "labels"), [((4, 3, 5), (4,)), ((4, 5), (4, 3)), ((4, 2, 5), (4, 3))])
def test_embeddings_that_are_not_one_for_each_label(embedding, labels):
    """Token embeddings with sample labels, sample embeddings with one-hot labels, and another number of segments."""
    with pytest.raises(ValueError, match=r"got embeddings {'a': .*} and labels .*; pool embeddings of tokens"):
        by_segment({"a": torch.zeros(embedding)}, torch.zeros(labels, dtype=torch.long), None)


def test_data_without_any_label_have_no_accuracy(make_args, sequences):
    trainer = trained(make_args, sequences, batch=4, epochs=1)
    rows = [row | {"labels": torch.full_like(row["labels"], -100)} for row in sequences]
    assert not [key for key in trainer.evaluate(rows) if "accuracy" in key or "f1" in key]
