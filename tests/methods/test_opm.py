"""OPM: the probabilities against the formula written with `math`, and the draws against explicit loops."""

import math

import pytest
import torch
from helpers.fusing import logits_of_sample
from helpers.gradients import gradients_of_step, plain_gradients
from helpers.oracle import mean_probability

from pmr_hf import OPMTrainer
from pmr_hf.methods.opm import drop_probabilities


def test_drop_probabilities():
    found = drop_probabilities(torch.tensor([0.6, 0.3, 0.2]), 0.4, 0.5).tolist()
    assert found == pytest.approx([0.4 * (1 + 0.5 * math.tanh(0.6 / 0.25 - 1)), 0, 0])
    some = drop_probabilities(torch.tensor([0.6, 0.3, 0.0]), 0.4, 0.5, torch.tensor([True, True, False])).tolist()
    assert some == pytest.approx([0.4 * (1 + 0.5 * math.tanh(1)), 0, 0])
    assert drop_probabilities(torch.tensor([0.6]), 0.4, 0.5).tolist() == [0]
    assert drop_probabilities(torch.tensor([0.4, 0.4]), 0.4, 0.5).tolist() == [0, 0]
    assert drop_probabilities(torch.tensor([1.0, 1e-3]), 0.9, 5.0).tolist() == [1, 0]


@pytest.mark.parametrize("fusion", ["concat", "film", "attention"])
def test_opm_drops_the_dominant_modality_of_the_samples_that_are_drawn(prepared, fusion):
    trainer, batch = prepared(OPMTrainer, fusion=fusion, opm_base=0.6, opm_lambda=0.2, opm_share=1.0)
    model, labels = trainer.model, batch["labels"]
    with torch.no_grad():
        embeddings = model(**batch).embeddings
        logits = model.modality_logits(embeddings) if fusion == "concat" else trainer.prototypes(embeddings)
    scores = {name: mean_probability(value, labels) for name, value in logits.items()}
    expected = {}
    for name, other in (("image", "text"), ("text", "image")):
        ratio = scores[name] / scores[other]
        expected[name] = 0.6 * (1 + 0.2 * math.tanh(ratio - 1)) if ratio > 1 else 0.0
    numbers = trainer.draw(16)
    trainer.load_method_state(None)
    drawn = {name: row < expected[name] for name, row in zip(("image", "text"), numbers, strict=True)}
    assert 0 < sum(mask.sum() for mask in drawn.values()) < 16

    def loss(outputs):
        total = 0.0
        for row in range(16):
            z = {name: values[row] for name, values in outputs.embeddings.items()}
            fused = logits_of_sample(model, z, [name for name in z if not drawn[name][row]])
            total = total - fused.log_softmax(0)[labels[row]] / 16
        return total

    model.zero_grad()
    loss(model(**batch)).backward()
    plain = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    for name, gradient in gradients_of_step(trainer, batch).items():
        if name in plain:  # else that of a vector that no sample needs
            torch.testing.assert_close(gradient, plain[name], atol=1e-6, rtol=1e-4, msg=name)


def test_a_sample_keeps_its_last_modality(prepared):
    trainer, batch = prepared(OPMTrainer, opm_base=1.0, opm_share=1.0)
    for name in ("image", "text"):  # the first eight samples have one modality
        batch[name]["present"] = torch.tensor([row % 2 == (name == "text") for row in range(8)] + [True] * 8)
    kept = {}
    fuse = trainer.model.fuse_by_head

    def remember(embeddings, present=None):
        kept.update(present)
        return fuse(embeddings, present)

    trainer.model.fuse_by_head = remember
    trainer.compute_loss(trainer.model, batch)
    for name in ("image", "text"):
        assert torch.equal(kept[name][:8], batch[name]["present"][:8])
    assert sorted([kept["image"][8:].sum().item(), kept["text"][8:].sum().item()]) == [0, 8]


def test_some_batches_are_left_alone_and_the_draws_repeat(prepared):
    trainer, _ = prepared(OPMTrainer, opm_share=0.7, gradient_accumulation_steps=2)
    draws = []
    for step in range(200):
        trainer.state.global_step = step
        draws += [trainer.draw(4), trainer.draw(4)]
    alone = [bool((draw == 1).all()) for draw in draws]
    assert 0.2 < sum(alone) / 400 < 0.4
    rest = [draw for draw, left in zip(draws, alone, strict=True) if not left]
    assert 0.45 < torch.stack(rest).mean() < 0.55 and len({draw[0, 0].item() for draw in rest}) == len(rest)
    trainer.load_method_state(None)
    trainer.state.global_step = 150
    assert torch.equal(trainer.draw(4), draws[300]) and torch.equal(trainer.draw(4), draws[301])


@pytest.mark.parametrize(("name", "value"), [("opm_base", 1.1), ("opm_share", -0.1), ("opm_lambda", -1.0)])
def test_arguments_outside_their_range_are_refused(make_args, name, value):
    with pytest.raises(ValueError, match=f"Expected `{name}`"):
        make_args(OPMTrainer.args_class, **{name: value})


def test_without_drops_opm_is_joint_training(prepared):
    trainer, batch = prepared(OPMTrainer, opm_base=0.0)
    plain = plain_gradients(trainer.model, lambda outputs: outputs.loss, batch)
    found = gradients_of_step(trainer, batch)
    for name, gradient in plain.items():
        torch.testing.assert_close(found[name], gradient)
