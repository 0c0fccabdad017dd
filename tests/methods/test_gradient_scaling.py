"""What the methods that change the gradients of encoders have in common."""

import pytest
import torch
from helpers.all_methods import METHOD_CASES, METHOD_IDS, WITH_HEADS
from helpers.digits import batch_of
from helpers.gradients import gradients, gradients_of_step

from pmr_hf import AGMTrainer, GradientBoostTrainer, MMParetoTrainer, OGMTrainer


@pytest.mark.parametrize(("cls", "options"), METHOD_CASES, ids=METHOD_IDS)
def test_under_accumulation_each_micro_batch_has_its_own_scale(prepared, cls, options):
    trainer, _ = prepared(cls, **options)
    halves = [batch_of(trainer, rows) for rows in (range(8), range(20, 36))]
    alone = [gradients_of_step(trainer, half) for half in halves]
    if cls is AGMTrainer:
        trainer.loss_sums = None  # as before the first half
    trainer.model.zero_grad()
    for half in halves:
        trainer.compute_loss(trainer.model, half).backward()
    for name, gradient in gradients(trainer.model).items():
        torch.testing.assert_close(gradient, alone[0][name] + alone[1][name])


@pytest.mark.parametrize("cls", [OGMTrainer, GradientBoostTrainer, MMParetoTrainer])
def test_methods_with_hooks_refuse_torch_compile(make_trainer, make_model, cls):
    model = make_model(unimodal_heads=cls in WITH_HEADS)
    with pytest.raises(ValueError, match=f"a model in one piece for {cls.__name__}"):
        make_trainer(model, cls=cls, torch_compile=True)
