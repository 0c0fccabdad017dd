"""A run stops when its loss or its weights are NaN or infinite."""

from pathlib import Path

import pytest
import torch
from helpers.snapshots import snapshot


def poison_after(trainer, step):
    """Set a weight to NaN at the end of the given step."""
    from transformers import TrainerCallback

    class Poison(TrainerCallback):
        def on_optimizer_step(self, args, state, control, **kwargs):
            if state.global_step == step - 1:
                with torch.no_grad():
                    next(trainer.model.parameters()).fill_(float("nan"))

    trainer.add_callback(Poison())


def test_a_loss_that_is_not_finite_stops_at_the_next_log_and_names_the_terms(make_trainer):
    trainer = make_trainer(logging_steps=3)
    poison_after(trainer, 4)
    with pytest.raises(FloatingPointError, match=r"at step 6, got ce_loss=nan, image_pce_loss=nan"):
        trainer.train()


@pytest.mark.parametrize("poisoned", [6, 7])
def test_no_checkpoint_that_is_not_finite_is_written(make_trainer, make_model, poisoned):
    """Without logs. If step 7 breaks the weights, the loss of step 8 is NaN; if step 8 does, only the weights are."""
    settings = {"logging_strategy": "no", "save_strategy": "steps", "save_steps": 4, "pmr_alpha": 0.5}
    trainer = make_trainer(**settings)
    poison_after(trainer, poisoned + 1)
    with pytest.raises(FloatingPointError, match="ce_loss=nan" if poisoned == 6 else "weights, first backbones"):
        trainer.train()
    folder = Path(trainer.args.output_dir)
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-4"]
    resumed = make_trainer(make_model(seed=5), **settings)
    resumed.train(resume_from_checkpoint=str(folder / "checkpoint-4"))
    assert resumed.state.global_step == 16


def test_training_goes_on_after_the_weights_are_mended(make_trainer):
    trainer = make_trainer(logging_strategy="no", save_strategy="steps", save_steps=4, num_train_epochs=1, optim="sgd")
    good = snapshot(trainer.model)
    poison_after(trainer, 2)
    with pytest.raises(FloatingPointError):
        trainer.train()
    trainer.model.load_state_dict(good)
    trainer.callback_handler.callbacks.pop()
    trainer.train()
    assert trainer.state.global_step == 8


def test_a_mask_of_minus_infinity_is_no_reason_to_stop(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.model.register_buffer("causal_mask", torch.full((2,), float("-inf")))
    trainer.save_model(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "model.safetensors").is_file()
