"""MMPareto: the blend of the fused and the unimodal gradient against a search over all blends."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from helpers.gradients import gradients_of_step, plain_gradients
from torch.nn import functional as F

from pmr_hf import MMParetoTrainer
from pmr_hf.methods.mmpareto import pareto_weights


@pytest.mark.parametrize("fusion", ["concat", "attention"])
def test_mmpareto_blends_the_gradients_of_each_encoder(prepared, fusion):
    trainer, batch = prepared(MMParetoTrainer, fusion=fusion)
    model, labels = trainer.model, batch["labels"]
    fused = plain_gradients(model, lambda outputs: outputs.loss, batch)

    def own_loss(outputs, name):
        return F.cross_entropy(outputs.unimodal_logits[name], labels)

    unimodal = {name: plain_gradients(model, partial(own_loss, name=name), batch) for name in ("image", "text")}
    found = gradients_of_step(trainer, batch)
    for modality, own in unimodal.items():
        names = [name for name in fused if name.startswith(f"backbones.{modality}.") and name in own]
        f, u = (np.concatenate([part[name].numpy().ravel() for name in names]) for part in (fused, own))
        candidates = np.linspace(0, 1, 100_001)
        lengths = (
            candidates**2 * (f @ f) + 2 * candidates * (1 - candidates) * (f @ u) + (1 - candidates) ** 2 * (u @ u)
        )
        weight = 0.5 if f @ u > 0 else candidates[lengths.argmin()]
        blend = 2 * weight * f + 2 * (1 - weight) * u
        blend *= 1.5 * max(1, np.linalg.norm(f + u) / np.linalg.norm(blend))
        np.testing.assert_allclose(np.concatenate([found[name].numpy().ravel() for name in names]), blend, atol=1e-5)
        head = f"unimodal_heads.{modality}.weight"
        torch.testing.assert_close(found[head], own[head])
    torch.testing.assert_close(found["fusion.classifier.weight"], fused["fusion.classifier.weight"])


@pytest.mark.parametrize("angle", [30, 89, 91, 120, 175, 180])
@pytest.mark.parametrize("length", [0.1, 1.0, 10.0])
def test_pareto_weights_of_two_vectors(angle, length):
    f, u = np.array([1.0, 0.0]), length * np.array([math.cos(math.radians(angle)), math.sin(math.radians(angle))])
    weight, factor = (value.item() for value in pareto_weights(torch.tensor([[f @ f, u @ u, f @ u]])))
    blend = weight * f + (1 - weight) * u
    if angle < 90:
        assert weight == 0.5 and factor == pytest.approx(1.5)
        return
    # The shortest blend opposes neither gradient.
    assert blend @ f >= -1e-6 and blend @ u >= -1e-6
    others = [np.linalg.norm(w * f + (1 - w) * u) for w in np.linspace(0, 1, 1001)]
    assert np.linalg.norm(blend) <= min(others) + 1e-6
    if np.linalg.norm(blend) > 1e-3:
        longest = max(np.linalg.norm(f + u), np.linalg.norm(2 * blend))
        assert factor * np.linalg.norm(2 * blend) == pytest.approx(1.5 * longest, rel=1e-3)


def test_pareto_weights_where_a_gradient_is_zero_or_both_cancel():
    """The arguments are |g^f|^2, |g^u|^2 and g^f . g^u. A gradient beside one of zero counts once, times 1.5."""
    weight, factor = pareto_weights(torch.tensor([[0.0, 9.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    assert (2 * weight).tolist() == [1, 1, 1] and factor.tolist() == pytest.approx([1.5, 1.5, 1.5])
    for length in (1.0, 3.0, 10.0):
        weight, factor = pareto_weights(torch.tensor([[1.0, length**2, -length]]))
        assert weight.item() == pytest.approx(length / (1 + length)) and 1.5 <= factor.item() < 3000
