"""OGM and OGM-GE: the scales against the formula written with `math`, and the noise against its deviation."""

import math
import statistics

import pytest
import torch
from helpers.gradients import gradients_of_step, plain_gradients
from helpers.oracle import mean_probability
from helpers.snapshots import assert_equal_tensors, snapshot

from pmr_hf import OGMTrainer
from pmr_hf.methods.ogm import ogm_scales


@pytest.mark.parametrize("fusion", ["concat", "sum", "film", "gated", "attention", "late"])
def test_ogm_scales_the_gradient_of_the_dominant_encoder_alone(prepared, fusion):
    trainer, batch = prepared(OGMTrainer, fusion=fusion, ogm_alpha=0.7, modulation="gradient")
    with torch.no_grad():
        outputs = trainer.model(**batch)
        if fusion in ("concat", "sum"):
            logits = trainer.model.modality_logits(outputs.embeddings)
        else:
            logits = trainer.prototypes(outputs.embeddings)
    scores = {name: mean_probability(value, batch["labels"]) for name, value in logits.items()}
    expected = {}
    for name, other in (("image", "text"), ("text", "image")):
        ratio = scores[name] / scores[other]
        expected[name] = 1 - math.tanh(0.7 * ratio) if ratio > 1 else 1.0
    assert sorted(expected.values())[0] < 0.9 and sorted(expected.values())[1] == 1
    plain = plain_gradients(trainer.model, lambda outputs: outputs.loss, batch)
    found = gradients_of_step(trainer, batch)
    assert found.keys() == plain.keys()
    for name, gradient in found.items():
        modality = name.split(".")[1] if name.startswith("backbones.") else None
        torch.testing.assert_close(gradient, expected.get(modality, 1.0) * plain[name], atol=1e-6, rtol=1e-4)


def test_ogm_scales_of_three_modalities_and_of_absent_ones():
    scores = [0.6, 0.3, 0.2]
    found = ogm_scales(torch.tensor(scores), 0.5).tolist()
    assert found == pytest.approx([1 - math.tanh(0.5 * 0.6 / 0.25), 1, 1])
    some = ogm_scales(torch.tensor([0.6, 0.3, 0.0]), 0.5, torch.tensor([True, True, False])).tolist()
    assert some == pytest.approx([1 - math.tanh(0.5 * 2), 1, 1])
    assert ogm_scales(torch.tensor([0.6]), 0.5).tolist() == [1]
    assert ogm_scales(torch.tensor([0.0, 0.0]), 0.5).tolist() == [1, 1]
    assert ogm_scales(torch.tensor([1e30, 1e-30]), 2.0).tolist() == pytest.approx([1e-6, 1])


@pytest.mark.parametrize("alpha", [pytest.param(0.0, marks=pytest.mark.slow), 4.0])
def test_the_noise_has_the_deviation_of_the_gradient_and_is_the_same_in_each_run(make_trainer, make_model, alpha):
    """The deviation is that before scaling. After one step of SGD, the weights show the gradient that was applied."""

    def train(noise, seed=42, alpha=alpha):
        trainer = make_trainer(
            make_model(),
            cls=OGMTrainer,
            ogm_alpha=alpha,
            ogm_noise=noise,
            seed=seed,
            max_steps=1,
            optim="sgd",
            learning_rate=1.0,
            max_grad_norm=0.0,
            prototype_fraction=1.0,
            train_sampling_strategy="sequential",
            lr_scheduler_type="constant",
        )
        before = snapshot(trainer.model)
        trainer.train()
        return {
            name: before[name] - value for name, value in snapshot(trainer.model).items() if "prototypes" not in name
        }

    plain, noisy, again, other = train(False), train(True), train(True), train(True, seed=1)
    assert_equal_tensors(noisy, again)
    ratios = []
    unscaled = train(False, alpha=0.0)
    for name, gradient in unscaled.items():
        noise = noisy[name] - plain[name]
        if not name.startswith("backbones."):
            assert not noise.any(), name
        elif gradient.numel() >= 256 and gradient.std() > 1e-6:
            ratios.append((noise.std() / gradient.std()).item())
            assert not torch.equal(noisy[name], other[name])
    assert len(ratios) > 5 and 0.9 < statistics.mean(ratios) < 1.1, ratios


def test_a_failed_attempt_leaves_no_micro_batch_behind(make_trainer, make_model):
    """The noise of the next training does not see the scales of a step that was never made."""
    trainer = make_trainer(make_model(), cls=OGMTrainer, max_steps=1, ogm_noise=True, gradient_accumulation_steps=2)
    scales, counted = trainer.gradient_scales, []

    def fail_once(*args):
        counted.append(trainer.step_scales.mean is not None)
        result = scales(*args)
        if len(counted) == 1:
            raise RuntimeError("out of memory")
        return result

    trainer.gradient_scales = fail_once
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.train()
    trainer.step_scales.add(torch.full((2,), torch.nan))
    trainer.train()
    assert counted[1:] == [False, True]
