"""Augmentation in the trainer: of training rows alone, and the same in any data worker and after resuming."""

import copy
import random
import re

import pytest
import torch
from helpers.digits import take_prototypes
from helpers.snapshots import assert_equal_tensors, snapshot, weights_of
from PIL import Image, ImageOps
from torchvision.transforms import v2

from pmr_hf import MultimodalCollator


CROP = {"image": v2.RandomResizedCrop(8)}


@pytest.fixture
def varying(make_trainer, make_model, collator):
    """A function that makes a trainer whose collator has `augment`; its keyword arguments are training arguments."""

    def make(augment, seed=0, dropout=0.2, **kwargs):
        trainer = make_trainer(make_model(seed=seed, dropout=dropout), **kwargs)
        trainer.data_collator = MultimodalCollator(collator.processor, collator.columns, augment=augment, num_labels=4)
        return trainer

    return make


def test_only_training_rows_are_varied(varying, make_trainer, processor, digits):
    """Inverted digits: evaluation and prototypes are those of the digits as they are."""
    inverted = []

    def invert(picture):
        inverted.append(picture)
        return ImageOps.invert(picture)

    trainer = varying({"image": invert}, eval_strategy="epoch", prototype_fraction=1.0)
    trainer.train()
    assert len(inverted) == 2 * 64  # of two epochs, beside two evaluations and three refreshes
    plain = make_trainer(trainer.model)
    assert trainer.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"]
    assert trainer.evaluate(digits)["eval_loss"] == plain.evaluate()["eval_loss"]
    expected = copy.deepcopy(trainer.model)
    take_prototypes(expected, processor, digits)
    torch.testing.assert_close(trainer.prototypes.mean("image"), expected.prototypes.mean("image"), rtol=0, atol=1e-5)


def test_each_row_is_drawn_anew_in_each_epoch(varying):
    draws = []

    def draw(picture):
        draws.append(torch.rand(()).item())
        return picture

    varying({"image": draw}).train()
    assert len(set(draws)) == 2 * 64


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_draws_change_neither_the_order_of_rows_nor_dropout(varying, make_trainer, make_model, digits, strategy):
    def draw(picture):
        torch.rand(3), random.random()
        return picture

    settings = {"train_sampling_strategy": strategy}
    rows = digits.add_column("length", [i % 7 for i in range(len(digits))])
    settings |= {"train_dataset": rows, "eval_dataset": rows}
    plain = make_trainer(make_model(dropout=0.2), **settings)
    plain.train()
    trainer = varying({"image": draw}, **settings)
    trainer.train()
    assert_equal_tensors(snapshot(trainer.model), snapshot(plain.model))


@pytest.mark.usefixtures("workers_end")
def test_workers_draw_as_the_training_process_does(varying):
    """Without dropout and shuffling, whose draws persistent workers shift from the second epoch on."""

    def weights(augment=CROP, **settings):
        trainer = varying(augment, dropout=0.0, train_sampling_strategy="sequential", **settings)
        trainer.train()
        return weights_of(trainer.model)

    alone = weights()
    assert not torch.equal(alone["fusion.classifier.weight"], weights({})["fusion.classifier.weight"])
    workers = weights(dataloader_num_workers=2, dataloader_persistent_workers=True)
    assert_equal_tensors(workers, alone)


@pytest.mark.slow
def test_a_list_of_rows_is_varied_like_a_dataset(varying, digits):
    found = []
    for rows in (digits, list(digits)):
        trainer = varying(CROP, train_dataset=rows, num_train_epochs=1)
        trainer.train()
        found.append(snapshot(trainer.model))
    assert_equal_tensors(*found)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_resumed_run_draws_as_the_uninterrupted_one(varying, workers):
    """8 steps an epoch: checkpoints in the middle of the first and the second epoch, and between them."""
    settings = {"save_strategy": "steps", "save_steps": 4, "dataloader_num_workers": workers}
    uninterrupted = varying(CROP, **settings)
    uninterrupted.train()
    for step in (4, 8, 12):
        resumed = varying(CROP, seed=99, **settings)
        resumed.train(resume_from_checkpoint=f"{uninterrupted.args.output_dir}/checkpoint-{step}")
        assert_equal_tensors(snapshot(resumed.model), snapshot(uninterrupted.model))


def test_resuming_with_another_transform_warns(varying, caplog):
    settings = {"save_strategy": "steps", "save_steps": 4, "max_steps": 4}
    varying(CROP, **settings).train()
    varying(CROP, **settings).train(resume_from_checkpoint=True)
    assert "with other arguments" not in caplog.text
    varying({"image": v2.RandomResizedCrop(8, scale=(0.5, 1))}, **settings).train(resume_from_checkpoint=True)
    assert re.search(r"Resuming from .* with other arguments \(augment: {'image': 'RandomResizedCrop\(", caplog.text)


def test_what_cannot_be_varied_is_refused(make_trainer, processor, collator, digits):
    augment = {"image": Image.Image.copy}
    cached = collator.cache(digits)
    collator.augment = augment
    with pytest.raises(ValueError, match=r"Expected a training set without cached features .* those of \['image'\]"):
        make_trainer(train_dataset=cached)
    with pytest.raises(ValueError, match=r"Expected a training set without cached features .* those of \['image'\]"):
        make_trainer(train_dataset=torch.utils.data.Subset(cached, range(64))).train()
    with pytest.raises(ValueError, match=r"Expected a map-style training set .*got a IterableDataset"):
        make_trainer(train_dataset=digits.to_iterable_dataset(), prototype_source="online", max_steps=4)
    assert make_trainer(eval_dataset=cached).evaluate()["eval_loss"] == make_trainer().evaluate()["eval_loss"]
