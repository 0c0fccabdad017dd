"""Learning rates of single encoders."""

import pytest
import torch
from helpers.snapshots import snapshot
from transformers import TrainerCallback

from pmr_hf import MultimodalTrainer


class Rates(TrainerCallback):
    def __init__(self):
        self.seen = []

    def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
        self.seen.append(sorted({group["lr"] for group in optimizer.param_groups}))


def test_each_encoder_learns_at_its_own_rate(make_trainer, make_model):
    """A step of SGD without momentum moves the weights by rate x gradient."""
    kwargs = {"optim": "sgd", "max_steps": 1, "max_grad_norm": 0.0, "weight_decay": 0.0, "learning_rate": 0.1}
    steps = {}
    for name, rates in {"plain": None, "own": {"text": 0.4}}.items():
        trainer = make_trainer(make_model(), cls=MultimodalTrainer, modality_learning_rates=rates, **kwargs)
        before = snapshot(trainer.model)
        trainer.train()
        steps[name] = {key: tensor - before[key] for key, tensor in trainer.model.named_parameters()}
    for key, step in steps["plain"].items():
        factor = 4.0 if key.startswith("backbones.text") else 1.0
        torch.testing.assert_close(steps["own"][key], factor * step, rtol=1e-3, atol=1e-6)


def test_the_schedule_scales_all_rates_alike_and_every_weight_has_one(make_trainer):
    rates = Rates()
    trainer = make_trainer(
        modality_learning_rates='{"text": 1e-3, "image": 0.02}',
        weight_decay=0.1,
        num_train_epochs=1,
        trainer_kwargs={"callbacks": [rates]},
    )
    trainer.train()
    expected = [1e-3, 1e-2, 2e-2]
    assert rates.seen[0] == pytest.approx(expected) and rates.seen[4] == pytest.approx([rate / 2 for rate in expected])
    held = [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]
    assert len(held) == len(set(held)) == len(list(trainer.model.parameters()))
    assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == {0.0, 0.1}


def test_bad_learning_rates_are_refused(make_args, make_trainer):
    for wrong in ({"text": -1.0}, {"text": "fast"}, "[1]"):
        with pytest.raises(ValueError, match="Expected `modality_learning_rates` to map"):
            make_args(modality_learning_rates=wrong)
    with pytest.raises(ValueError, match=r"to name modalities among \['image', 'text'\], got \['sound'\]"):
        make_trainer(modality_learning_rates={"sound": 1.0})
    with pytest.raises(ValueError, match="Expected `modality_learning_rates` as JSON"):
        make_args(modality_learning_rates="text=1e-5")
