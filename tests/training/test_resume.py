"""Resuming, with a ViT backbone, dropout, and a model that was initialised from another seed."""

import shutil

import pytest
import torch
from helpers.snapshots import assert_equal_tensors, snapshot, weights_of
from transformers import Trainer, TrainingArguments


OTHER_SEED = 99
SETTINGS = {"num_train_epochs": 3, "eval_strategy": "no", "save_strategy": "steps", "save_steps": 4}


@pytest.mark.parametrize("source", ["subset", "online"])
@pytest.mark.parametrize(
    "refresh_steps", [pytest.param(None, marks=pytest.mark.slow), 3, pytest.param(4, marks=pytest.mark.slow)]
)
def test_resumed_weights_and_prototypes_are_the_uninterrupted_ones(make_trainer, make_model, source, refresh_steps):
    """24 steps, 8 per epoch, a checkpoint every 4: at the end or in the middle of an epoch, at a refresh or not."""
    settings = SETTINGS | {"prototype_source": source, "prototype_refresh_steps": refresh_steps}
    uninterrupted = make_trainer(make_model(dropout=0.2), **settings)
    uninterrupted.train()
    for step in (4, 8, 12, 16, 20, 24):
        resumed = make_trainer(make_model(seed=OTHER_SEED, dropout=0.2), **settings)
        resumed.train(resume_from_checkpoint=f"{uninterrupted.args.output_dir}/checkpoint-{step}")
        assert_equal_tensors(snapshot(resumed.model), snapshot(uninterrupted.model))


def test_resume_in_the_middle_of_gradient_accumulation_epochs(make_trainer, make_model):
    settings = SETTINGS | {"gradient_accumulation_steps": 3, "save_steps": 2, "per_device_train_batch_size": 4}
    trainer = make_trainer(make_model(dropout=0.2), **settings)
    trainer.train()
    for step in (2, 6, 8):
        resumed = make_trainer(make_model(seed=OTHER_SEED, dropout=0.2), **settings)
        resumed.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-{step}")
        assert_equal_tensors(snapshot(resumed.model), snapshot(trainer.model))


def test_plain_trainer_resumes_to_the_bit_too(make_model, make_args, digits, collator):
    """The control: this model in plain `Trainer`. It would fail if weights were saved under legacy names."""

    def trainer_of(model):
        args = make_args(TrainingArguments, remove_unused_columns=False, **SETTINGS)
        return Trainer(model=model, args=args, train_dataset=digits, data_collator=collator)

    trainer = trainer_of(make_model(dropout=0.2))
    trainer.train()
    resumed = trainer_of(make_model(seed=OTHER_SEED, dropout=0.2))
    resumed.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-12")
    assert_equal_tensors(snapshot(resumed.model), snapshot(trainer.model))


def test_the_best_model_is_loaded_whole_also_after_resuming(make_trainer, make_model, tmp_path):
    settings = SETTINGS | {
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
        "metric_for_best_model": "accuracy",
        "greater_is_better": False,  # so that an early model is the best
    }
    trainer = make_trainer(make_model(dropout=0.2), output_dir=str(tmp_path / "first"), **settings)
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert not best.endswith("checkpoint-24")  # otherwise the last weights would pass

    from pmr_hf import MultimodalModel

    saved = MultimodalModel.from_pretrained(best).state_dict()
    weights = weights_of(trainer.model)
    assert_equal_tensors(weights, {name: saved[name] for name in weights})
    # ... and the prototypes are those of the best encoders, not of the last ones
    assert not torch.equal(trainer.prototypes.mean("image"), saved["prototypes.image_mean"])

    shutil.copytree(tmp_path / "first", tmp_path / "second")
    resumed = make_trainer(make_model(seed=OTHER_SEED, dropout=0.2), output_dir=str(tmp_path / "second"), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "second" / "checkpoint-8"))
    assert_equal_tensors(snapshot(resumed.model), snapshot(trainer.model))
