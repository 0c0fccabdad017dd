"""The cosine between the fused and the unimodal gradient (the paper's Fig. 2c)."""

from functools import partial

import numpy as np
import pytest
from helpers.gradients import gradients_of_step, plain_gradients
from helpers.snapshots import assert_equal_tensors, snapshot
from torch.nn import functional as F

from pmr_hf import MMParetoTrainer, PrototypeTrainer


def test_gradient_cosines_against_gradients_taken_one_by_one(prepared):
    trainer, batch = prepared(PrototypeTrainer, gradient_cosine_steps=3)

    def own_loss(outputs, name):
        return F.cross_entropy(trainer.prototypes(outputs.embeddings)[name], batch["labels"])

    fused = plain_gradients(trainer.model, lambda outputs: outputs.loss, batch)
    gradients_of_step(trainer, batch)
    logs = trainer.summarize(trainer.term_sums.totals(trainer.accelerator))
    for modality in ("image", "text"):
        own = plain_gradients(trainer.model, partial(own_loss, name=modality), batch)
        names = [name for name in own if name.startswith(f"backbones.{modality}.") and name in fused]
        f, u = (np.concatenate([part[name].numpy().ravel() for name in names]) for part in (fused, own))
        expected = f @ u / np.linalg.norm(f) / np.linalg.norm(u)
        assert logs[f"{modality}_gradient_cosine"] == pytest.approx(expected, abs=1e-4)


def test_encoders_that_are_not_trained_have_no_gradients_to_compare(make_trainer, make_model):
    frozen = {"freeze": ["image", "text"]}
    trainer = make_trainer(cls=PrototypeTrainer, gradient_cosine_steps=1, num_train_epochs=1, **frozen)
    trainer.train()
    assert not any("cosine" in key for entry in trainer.state.log_history for key in entry)
    with pytest.raises(ValueError, match="Expected an encoder that is trained, got none; leave one out of `freeze`"):
        make_trainer(make_model(unimodal_heads=True), cls=MMParetoTrainer, **frozen)


def test_gradient_cosines_are_logged_now_and_then_and_change_nothing(make_trainer):
    trainers = [make_trainer(cls=PrototypeTrainer, gradient_cosine_steps=steps) for steps in (None, 4)]
    for trainer in trainers:
        trainer.train()
    assert_equal_tensors(*(snapshot(trainer.model) for trainer in trainers))
    logged = [entry["step"] for entry in trainers[1].state.log_history if "image_gradient_cosine" in entry]
    assert logged == [1, 5, 9, 13]
    assert not any("image_gradient_cosine" in entry for entry in trainers[0].state.log_history)
    with pytest.raises(ValueError, match="`gradient_cosine_steps` to be at least 1"):
        make_trainer(cls=PrototypeTrainer, gradient_cosine_steps=0)
