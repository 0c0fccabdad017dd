"""Uniform weights: the gradients are those of the sum of all losses, written with explicit loops."""

import pytest
import torch
from helpers.all_methods import batch_of_three
from helpers.gradients import gradients_of_step, plain_gradients

from pmr_hf import UniformTrainer


@pytest.mark.parametrize("fusion", ["concat", "attention"])
def test_uniform_adds_the_loss_of_each_head_with_weight_1(make_args, make_model_of_three, fusion):
    model = make_model_of_three(unimodal_heads=True, fusion=fusion)
    trainer = UniformTrainer(model=model, args=make_args(UniformTrainer.args_class))
    model.train()
    batch = batch_of_three(0)  # three of the eight samples have `b`

    def total(outputs):
        loss = outputs.loss
        for name, rows in {"a": range(8), "b": range(3), "c": range(8)}.items():
            for row in rows:
                probabilities = outputs.unimodal_logits[name][row].softmax(0)
                loss = loss - probabilities[batch["labels"][row]].log() / len(rows)
        return loss

    plain, found = plain_gradients(model, total, batch), gradients_of_step(trainer, batch)
    assert plain.keys() == found.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4, msg=name)
