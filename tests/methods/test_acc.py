"""Acceleration: the weights of PMR's prototypical cross entropy scale the gradient of each encoder."""

import torch
from helpers.gradients import gradients_of_step, plain_gradients
from helpers.oracle import mean_probability

from pmr_hf import GradientBoostTrainer


def test_acc_scales_by_the_weights_of_pmr(prepared):
    trainer, batch = prepared(GradientBoostTrainer, modulation="gradient")
    with torch.no_grad():
        logits = trainer.prototypes(trainer.model(**batch).embeddings)
    scores = {name: mean_probability(value, batch["labels"]) for name, value in logits.items()}
    expected = {name: 1 + min(max(max(scores.values()) / score - 1, 0), 1) for name, score in scores.items()}
    assert max(expected.values()) > 1.05
    plain = plain_gradients(trainer.model, lambda outputs: outputs.loss, batch)
    for name, gradient in gradients_of_step(trainer, batch).items():
        modality = name.split(".")[1] if name.startswith("backbones.") else None
        torch.testing.assert_close(gradient, expected.get(modality, 1.0) * plain[name], atol=1e-6, rtol=1e-4)
