"""Whole runs with valuation: the rows of the batches, joint training where all contribute, resuming."""

import torch
from helpers.snapshots import assert_equal_tensors, snapshot

from pmr_hf import MultimodalCollator, PrototypeTrainer, ValuationTrainer
from pmr_hf.data.augmentation import CropAndFlip
from pmr_hf.methods.valuation import ROWS


def test_a_batch_tells_its_rows(make_trainer, digits, collator):
    trainer = make_trainer(cls=ValuationTrainer)
    collator = MultimodalCollator(collator.processor, collator.columns, augment={"image": CropAndFlip()}, num_labels=4)
    for each in (trainer.data_collator, collator):
        trainer.data_collator, seen = each, []
        for batch in trainer.get_train_dataloader():
            rows = batch[ROWS].tolist()
            assert batch["labels"].tolist() == digits[rows]["label"]
            seen += rows
        assert sorted(seen) == list(range(64)) != seen


def test_modalities_that_contribute_fully_train_as_joint(make_trainer, make_model, digits):
    warm = make_trainer(make_model(), cls=ValuationTrainer, num_train_epochs=8)
    warm.train()
    warm.value_rows()
    rows = (warm.contributions >= 1).all(0).nonzero()[:, 0].tolist()
    assert 16 < len(rows) < 64
    start = snapshot(warm.model)

    def trained(cls, rows):
        model = make_model(dropout=0.2)
        model.load_state_dict(start)
        trainer = make_trainer(model, cls=cls, train_dataset=digits.select(rows), num_train_epochs=1)
        trainer.train()
        return snapshot(model)

    assert_equal_tensors(trained(PrototypeTrainer, rows), trained(ValuationTrainer, rows))
    joint, valued = (
        trained(cls, range(64))["fusion.classifier.weight"] for cls in (PrototypeTrainer, ValuationTrainer)
    )
    assert not torch.equal(joint, valued)


def test_a_run_resumes_to_the_bit_before_at_and_after_a_valuation(make_trainer, make_model, tmp_path):
    def make(folder):
        model = make_model(dropout=0.2)
        settings = {"valuation_warmup_epochs": 1, "valuation_epochs": 2, "num_train_epochs": 4, "save_steps": 4}
        return make_trainer(
            model, cls=ValuationTrainer, output_dir=str(tmp_path / folder), save_strategy="steps", **settings
        )

    whole = make("whole")
    whole.train()
    logged = [("image_copies" in entry) for entry in whole.state.log_history if "ce_loss" in entry]
    assert logged == [False] * 8 + [True] * 24
    for step in (4, 8, 12, 20, 24):  # valued before steps 8 and 24
        again = make("again")
        again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert_equal_tensors(snapshot(whole.model), snapshot(again.model))
        assert torch.equal(whole.copies, again.copies)
