"""AGM: the response of each modality, and the scales that follow from it, against explicit loops."""

import itertools
import math

import pytest
import torch
from helpers.all_methods import batch_of_three
from helpers.digits import batch_of
from helpers.gradients import gradients_of_step, plain_gradients
from torch.nn import functional as F

from pmr_hf import AGMTrainer
from pmr_hf.methods.agm import agm_scales


def test_agm_scales_by_the_lead_over_the_average_lead(prepared):
    """In the third batch, with the responses of the two modalities worked by hand."""
    trainer, _ = prepared(AGMTrainer, fusion="film", agm_alpha=4.0, modulation="gradient")
    parts = (range(8), range(20, 30), range(30, 46))
    batches = [batch_of(trainer, rows) for rows in parts]
    losses = []
    for batch in batches:
        with torch.no_grad():
            outputs = trainer.model(**batch)
            z, absent = outputs.embeddings, {name: v.expand(len(batch["labels"]), -1) for name, v in absent_of(trainer)}
            both = trainer.model.fusion(z)
            image = trainer.model.fusion({"image": z["image"], "text": absent["text"]})
            text = trainer.model.fusion({"image": absent["image"], "text": z["text"]})
        own = {"image": (image + both - text) / 2, "text": (text + both - image) / 2}
        losses.append({name: F.cross_entropy(value, batch["labels"]).item() for name, value in own.items()})
    plain = plain_gradients(trainer.model, lambda outputs: outputs.loss, batches[2])
    found = [gradients_of_step(trainer, batch) for batch in batches][2]
    expected = {}
    average = {name: (losses[0][name] + losses[1][name]) / 2 for name in losses[0]}
    for name, other in (("image", "text"), ("text", "image")):
        now, before = (math.exp(values[other] - values[name]) for values in (losses[2], average))
        expected[name] = math.exp(-4.0 * (now - before))
    assert abs(expected["image"] - 1) > 0.01
    for name, gradient in found.items():
        modality = name.split(".")[1] if name.startswith("backbones.") else None
        torch.testing.assert_close(gradient, expected.get(modality, 1.0) * plain[name], atol=1e-6, rtol=1e-3)


def absent_of(trainer):
    return trainer.model.absent.items()


def test_agm_scales_of_three_modalities_and_of_absent_ones():
    losses, average = [1.0, 2.0, 1.5], [1.2, 1.8, 1.6]
    found = agm_scales(torch.tensor(losses), torch.tensor(average), 0.5).tolist()
    for m in range(3):
        now, before = (
            math.exp(sum(values[i] for i in range(3) if i != m) / 2 - values[m]) for values in (losses, average)
        )
        assert found[m] == pytest.approx(math.exp(-0.5 * (now - before)), rel=1e-5)
    known = torch.tensor([True, True, False])
    found = agm_scales(torch.tensor(losses), torch.tensor(average), 0.5, known).tolist()
    assert found[0] == pytest.approx(math.exp(-0.5 * (math.exp(1.0) - math.exp(0.6))), rel=1e-5) and found[2] == 1
    assert agm_scales(torch.tensor([1.0]), torch.tensor([3.0]), 0.5).tolist() == [1]
    wild = agm_scales(torch.tensor([0.0, 1e6]), torch.tensor([1e6, 0.0]), 1.0)
    assert wild.isfinite().all() and (wild >= 0).all()


@pytest.mark.parametrize("fusion", ["gated", "attention"])
def test_agm_of_three_modalities_of_which_some_are_missing(make_args, make_model_of_three, fusion):
    """In the second batch. Each response is the mean over the orders in which the modalities can join."""
    model = make_model_of_three(fusion=fusion)
    trainer = AGMTrainer(model=model, args=make_args(AGMTrainer.args_class, agm_alpha=4.0, modulation="gradient"))
    batches, losses = [batch_of_three(0), batch_of_three(1)], []
    model.train()
    for batch in batches:
        labels = batch["labels"]
        has = {name: batch[name].get("present", torch.ones(8, dtype=torch.bool)) for name in "abc"}
        with torch.no_grad():
            z = model(**batch).embeddings

            def fused(names, z=z, has=has):
                if not names:
                    return 0.0
                parts = {m: has[m] & (m in names) for m in "abc"}
                masks = (parts,) if fusion == "attention" else ()
                logits = model.fusion({m: torch.where(parts[m][:, None], z[m], model.absent[m]) for m in "abc"}, *masks)
                return torch.stack(
                    [row if any(parts[m][i] for m in names) else 0 * row for i, row in enumerate(logits)]
                )

            own = dict.fromkeys("abc", 0.0)
            for order in itertools.permutations("abc"):
                for place, name in enumerate(order):
                    own[name] = own[name] + (fused(order[: place + 1]) - fused(order[:place])) / 6
        losses.append({m: F.cross_entropy(own[m][has[m]], labels[has[m]]).item() for m in "abc"})
    plain = plain_gradients(model, lambda outputs: outputs.loss, batches[1])
    found = [gradients_of_step(trainer, batch) for batch in batches][1]
    expected = {}
    for m in "abc":
        now, before = (math.exp(sum(s[o] for o in "abc" if o != m) / 2 - s[m]) for s in (losses[1], losses[0]))
        expected[m] = math.exp(-4.0 * (now - before))
    assert all(abs(scale - 1) > 0.01 for scale in expected.values())
    for name, gradient in found.items():
        part, modality = name.split(".")[:2]
        scale = expected[modality] if part in ("backbones", "absent") else 1.0
        torch.testing.assert_close(gradient, scale * plain[name], atol=1e-6, rtol=1e-3)
