"""Prototypes from a dataset of their own: it is embedded, the training set is not, and what cannot be is refused."""

import pytest
import torch
from datasets import concatenate_datasets
from helpers import oracle
from helpers.digits import NUM_LABELS
from helpers.snapshots import assert_equal_tensors, snapshot

from pmr_hf import PMRTrainer, PrototypeTrainer


@pytest.fixture
def halves(digits):
    """The first 40 digits, to train on, and the other 24, which have all four classes."""
    return digits.select(range(40)), digits.select(range(40, 64))


def trainer_on(make_trainer, make_model, halves, **kwargs):
    train, reference = halves
    return make_trainer(
        make_model(), train_dataset=train, trainer_kwargs={"prototype_dataset": reference}, num_train_epochs=1, **kwargs
    )


@pytest.mark.parametrize("cls", [PMRTrainer, PrototypeTrainer])
def test_the_prototypes_are_the_class_means_of_that_dataset(make_trainer, make_model, halves, cls):
    trainer = trainer_on(make_trainer, make_model, halves, cls=cls)
    trainer.train()
    batch = trainer.data_collator(list(halves[1]))
    with torch.no_grad():
        embeddings = trainer.model.eval()(**batch).embeddings
    for name, values in embeddings.items():
        means = oracle.prototypes(values.tolist(), batch["labels"].tolist(), NUM_LABELS)
        torch.testing.assert_close(trainer.prototypes.mean(name), torch.tensor(means), atol=1e-5, rtol=1e-4)
        assert trainer.prototypes.count(name).sum() == len(halves[1])  # all of its rows, not a share


def test_the_training_set_is_not_embedded_for_them(make_trainer, make_model, halves):
    read = []

    class Noted(torch.utils.data.Dataset):
        def __init__(self, rows, name):
            self.rows, self.name = rows, name

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, i):
            read.append(self.name)
            return self.rows[i]

    noted = [Noted(half, name) for half, name in zip(halves, ("train", "reference"), strict=True)]
    trainer = trainer_on(make_trainer, make_model, noted)
    trainer.refresh_prototypes()
    assert set(read) == {"reference"} and len(read) == len(halves[1])


def test_a_resumed_run_has_the_same_weights(make_trainer, make_model, halves, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "no"}
    whole = trainer_on(make_trainer, make_model, halves, **options)
    whole.train()
    resumed = trainer_on(make_trainer, lambda: make_model(seed=1), halves, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    assert_equal_tensors(snapshot(whole.model), snapshot(resumed.model))


def test_what_is_refused(make_trainer, make_model, digits, halves):
    train, reference = halves
    rest = {"train_dataset": train, "num_train_epochs": 1}

    def refused(dataset, match, **kwargs):
        with pytest.raises(ValueError, match=match):
            make_trainer(make_model(), trainer_kwargs={"prototype_dataset": dataset}, **rest, **kwargs)

    refused(digits, "Expected a `prototype_dataset` of its own, got the evaluation dataset, whose labels would leak")
    refused(digits.select(range(64)), "got the evaluation dataset", eval_dataset=digits.select(range(64)))
    refused(reference, "got the held-out dataset", eval_dataset={"held-out": reference})
    refused(reference.remove_columns("caption"), r"Expected the dataset columns .*, but \['caption'\] are not among")
    two = reference.filter(lambda row: row["label"] < 2)
    refused(
        two, r"Expected rows of each of the 4 classes in the `prototype_dataset`, got none of \[2, 3\] \(2 classes\)"
    )
    refused(reference.to_iterable_dataset(), "Expected a `prototype_dataset` with a length, got a IterableDataset")
    refused(reference, "Expected `prototype_source='subset'` with a `prototype_dataset`", prototype_source="online")
    many = reference.cast_column("label", reference.features["label"]).map(lambda row: {"label": 3})
    wrong = concatenate_datasets([many.remove_columns("label").add_column("label", [7] * len(many))])
    refused(wrong, r"Expected labels in 0..3, got labels from 7 to 7")


def test_its_rows_are_not_evaluated(make_trainer, make_model, halves):
    trainer = trainer_on(make_trainer, make_model, halves)
    for evaluate in (trainer.evaluate, trainer.predict):
        with pytest.raises(ValueError, match="Expected a dataset that the prototypes were not taken from to evaluate"):
            evaluate(halves[1])
    assert "eval_accuracy" in trainer.evaluate()
