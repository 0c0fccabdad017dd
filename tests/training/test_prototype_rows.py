"""Which rows prototypes are taken from: a share of all, and enough of each class with each modality."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import set_seed

from pmr_hf import (
    MultimodalCollator,
    MultimodalModel,
    MultimodalProcessor,
    NumericConfig,
    NumericProcessor,
    PMRTrainer,
)
from pmr_hf.training.prototype_rows import LEAST_ROWS, PrototypeRows, rank_in_class


def collator_of(names):
    processor = MultimodalProcessor({name: NumericProcessor([0.0], [1.0]) for name in names})
    return MultimodalCollator(processor, {name: [name] for name in names})


def table(classes, size, missing=0.0, seed=0):
    """Random classes of `size` rows; `b` is missing in a share of the rows."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, size).tolist()
    b = [None if generator.random() < missing else 1.0 for _ in labels]
    return Dataset.from_dict({"a": [1.0] * size, "b": b, "label": labels})


def counts_of(rows, drawn, column):
    """By class, how many of the drawn rows have a value in this column."""
    return [
        sum(rows[i]["label"] == k and rows[i][column] is not None for i in drawn)
        for k in range(1 + max(row["label"] for row in rows))
    ]


@pytest.mark.parametrize("seed", range(12))
def test_each_class_has_enough_rows_with_each_modality(seed):
    rows = list(table(20, 1000, missing=0.3, seed=seed))
    drawn = PrototypeRows(rows, collator_of("ab")).draw(0.1, seed)
    assert len(drawn) == len(set(drawn)) < 700
    for column in "ab":
        every = counts_of(rows, range(len(rows)), column)
        found = counts_of(rows, drawn, column)
        assert all(count >= min(LEAST_ROWS, whole) for count, whole in zip(found, every, strict=True))


def test_a_share_that_has_enough_of_each_class_stays_as_it_was_drawn():
    rows = table(2, 2000)
    expected = torch.randperm(2000, generator=torch.Generator().manual_seed(7))[:200].tolist()
    assert PrototypeRows(rows, collator_of("ab")).draw(0.1, 7) == expected


def test_without_the_classes_enough_rows_for_all_of_them_are_drawn():
    """With a collate function of the user's own, the labels are not known."""
    rows = table(4, 1000)
    assert len(PrototypeRows(rows, list, 4).draw(0.01, 0)) == 4 * LEAST_ROWS
    assert len(PrototypeRows(rows, list, 4).draw(0.2, 0)) == 200
    assert len(PrototypeRows(rows.select(range(30)), list, 4).draw(0.1, 0)) == 30


def test_classes_of_few_rows_are_taken_whole_and_rare_modalities_are_found():
    labels = [0] * 500 + [1] * 7
    b = [1.0 if i in (3, 400) else None for i in range(500)] + [None] * 7
    rows = Dataset.from_dict({"a": [1.0] * 507, "b": b, "label": labels}).shuffle(seed=1)
    drawn = PrototypeRows(rows, collator_of("ab")).draw(0.1, 0)
    assert counts_of(rows, drawn, "b") == [2, 0]
    assert counts_of(rows, drawn, "a")[1] == 7


def test_segments_count_by_their_labels():
    labels = [[0, 0, -100]] * 300 + [[1, 0, 0]] * 30
    rows = Dataset.from_dict({"a": [1.0] * 330, "label": labels})
    collator = collator_of("a")
    collator.segments = True
    drawn = PrototypeRows(rows, collator).draw(0.05, 0)
    assert sum(i >= 300 for i in drawn) == LEAST_ROWS


def test_rows_that_are_only_known_once_read_are_drawn_without_regard_to_classes():
    rows = table(20, 100).with_transform(lambda batch: batch)
    expected = torch.randperm(100, generator=torch.Generator().manual_seed(3))[:10].tolist()
    assert PrototypeRows(rows, collator_of("ab")).draw(0.1, 3) == expected


def test_the_rank_in_the_class():
    assert rank_in_class(np.array([4, 1, 4, 4, 0, 1])).tolist() == [0, 0, 1, 2, 0, 1]
    assert rank_in_class(np.array([], dtype=np.int64)).tolist() == []


class Noted(PMRTrainer):
    """Keeps the terms of the last step."""

    def method_loss(self, loss, terms, outputs, labels):
        self.terms = terms
        return super().method_loss(loss, terms, outputs, labels)


@pytest.fixture
def step_of_two_encoders(make_args):
    """
    The terms of one step on two modalities with the same values, but for noise in `b`, and with the same encoders. The
    modality `b` is missing in each row of the last class.
    """

    def make(classes, source, noise=0.0):
        set_seed(0)
        labels = torch.arange(150) % classes
        a = torch.randn(150, 3) + 2 * torch.randn(classes, 3)[labels]
        b = a + noise * torch.randn(150, 3)
        rows = [
            {"a": x.tolist(), "b": None if y == classes - 1 else z.tolist(), "label": y}
            for x, z, y in zip(a, b, labels.tolist(), strict=True)
        ]
        encoder = NumericConfig(num_features=3, hidden_size=8, dropout=0.0)
        model = MultimodalModel.from_backbones({"a": encoder, "b": encoder}, num_labels=classes)
        model.backbones["b"].load_state_dict(model.backbones["a"].state_dict())
        processor = MultimodalProcessor({name: NumericProcessor([0.0] * 3, [1.0] * 3) for name in "ab"})
        trainer = Noted(
            model=model,
            args=make_args(Noted.args_class, prototype_source=source, learning_rate=0.0, num_train_epochs=1),
            train_dataset=Dataset.from_list(rows),
            data_collator=MultimodalCollator(processor, {"a": "a", "b": "b"}),
        )
        trainer.train()
        trainer.compute_loss(model.train(), trainer.data_collator(rows))
        return trainer

    return make


@pytest.mark.parametrize("source", ["subset", "online"])
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_identical_modalities_are_balanced_though_one_lacks_a_class(step_of_two_encoders, classes, source):
    """Their scores are means over the same samples, among the same classes."""
    trainer = step_of_two_encoders(classes, source)
    assert trainer.prototypes.stacked_seen().sum(1).tolist() == [classes, classes - 1]
    scores, pce_weights, per_weights = trainer.terms.scores, trainer.terms.pce_weights, trainer.terms.per_weights
    assert (scores[0] / scores[1]).item() == pytest.approx(1.0, abs=1e-5)
    assert [*pce_weights.tolist(), *per_weights.tolist()] == pytest.approx([0.0] * 4, abs=1e-5)


@pytest.mark.parametrize("source", ["subset", "online"])
@pytest.mark.parametrize("classes", [3, 4])
def test_the_worse_modality_is_accelerated_though_it_lacks_a_class(step_of_two_encoders, classes, source):
    terms = step_of_two_encoders(classes, source, noise=4.0).terms
    assert terms.scores[0] > 1.05 * terms.scores[1]
    assert terms.pce_weights[1] > 0.05 and terms.pce_weights[0] == 0
