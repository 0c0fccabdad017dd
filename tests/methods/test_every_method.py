"""The methods that PMR is compared with, each against explicit loops or gradients taken one by one."""

import copy
import itertools
import json
import math
import re
import statistics
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NUM_LABELS, assert_equal, state
from torch.nn import functional as F

from pmr_hf import (
    AGMTrainer,
    GradientBlendingTrainer,
    GradientBoostTrainer,
    MMParetoTrainer,
    MultimodalTrainer,
    NumericConfig,
    OGMTrainer,
    PrototypeTrainer,
)
from pmr_hf.methods.agm import agm_scales
from pmr_hf.methods.gblend import LOSSES_NAME, blend_weights
from pmr_hf.methods.mmpareto import pareto_weights
from pmr_hf.methods.ogm import ogm_scales


HEADS = {GradientBlendingTrainer, MMParetoTrainer}
GIVEN = {"blend_weights": {"image": 0.2, "text": 0.5, "fused": 0.3}}
ALL = [(GradientBoostTrainer, {}), (OGMTrainer, {}), (OGMTrainer, {"ogm_noise": True}), (MMParetoTrainer, {})]
ALL += [(GradientBlendingTrainer, GIVEN), (AGMTrainer, {})]
IDS = ["acc", "ogm", "ogm_ge", "mmpareto", "gblend", "agm"]


@pytest.fixture
def prepared(make_trainer, make_model):
    """A trainer whose prototypes are taken and whose model has been trained a little, and a batch."""

    def make(cls, batch_size=16, fusion="concat", **kwargs):
        model = make_model(fusion=fusion, unimodal_heads=cls in HEADS)
        warm = make_trainer(model, cls=PrototypeTrainer, num_train_epochs=1, prototype_fraction=1.0)
        warm.train()
        trainer = make_trainer(warm.model, cls=cls, **kwargs)
        trainer.model.train()
        return trainer, trainer.data_collator([trainer.train_dataset[i] for i in range(batch_size)])

    return make


@pytest.fixture
def three(make_model):
    backbones = {name: NumericConfig(num_features=3, hidden_size=6, dropout=0.0) for name in ("a", "b", "c")}
    return partial(make_model, backbones=backbones)


def batch_of_three(seed):
    """Eight samples, of which `b` is there for three."""
    generator = torch.Generator().manual_seed(seed)
    batch = {name: {"values": torch.randn(8, 3, generator=generator)} for name in ("a", "b", "c")}
    batch["b"]["present"] = torch.arange(8) < 3
    return batch | {"labels": torch.arange(8) % NUM_LABELS}


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def plain_gradients(model, loss_of, batch):
    """Of a loss of the outputs, on a copy of the model without any hook of a trainer."""
    plain = copy.deepcopy(model)
    for module in plain.modules():
        module._forward_pre_hooks.clear()
    plain.zero_grad()
    loss_of(plain(**batch)).backward()
    return gradients(plain)


def stepped(trainer, batch):
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return gradients(trainer.model)


def mean_probability(logits, labels):
    rows = [[math.exp(value) for value in row] for row in logits.tolist()]
    return statistics.mean(row[label] / sum(row) for row, label in zip(rows, labels.tolist(), strict=True))


# ---- Scaled gradients ----


@pytest.mark.parametrize("fusion", ["concat", "sum", "film", "gated"])
def test_ogm_scales_the_gradient_of_the_dominant_encoder_alone(prepared, fusion):
    trainer, batch = prepared(OGMTrainer, fusion=fusion, ogm_alpha=0.7)
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
    found = stepped(trainer, batch)
    assert found.keys() == plain.keys()
    for name, gradient in found.items():
        modality = name.split(".")[1] if name.startswith("backbones.") else None
        torch.testing.assert_close(gradient, expected.get(modality, 1.0) * plain[name], atol=1e-6, rtol=1e-4)


def test_acc_scales_by_the_weights_of_pmr(prepared):
    trainer, batch = prepared(GradientBoostTrainer)
    with torch.no_grad():
        logits = trainer.prototypes(trainer.model(**batch).embeddings)
    scores = {name: mean_probability(value, batch["labels"]) for name, value in logits.items()}
    expected = {name: 1 + min(max(max(scores.values()) / score - 1, 0), 1) for name, score in scores.items()}
    assert max(expected.values()) > 1.05
    plain = plain_gradients(trainer.model, lambda outputs: outputs.loss, batch)
    for name, gradient in stepped(trainer, batch).items():
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


@pytest.mark.parametrize(("cls", "options"), ALL, ids=IDS)
def test_under_accumulation_each_micro_batch_has_its_own_scale(prepared, cls, options):
    trainer, _ = prepared(cls, **options)
    halves = [trainer.data_collator([trainer.train_dataset[i] for i in rows]) for rows in (range(8), range(20, 36))]
    alone = [stepped(trainer, half) for half in halves]
    if cls is AGMTrainer:
        trainer.loss_sums = None  # as before the first of them
    trainer.model.zero_grad()
    for half in halves:
        trainer.compute_loss(trainer.model, half).backward()
    for name, gradient in gradients(trainer.model).items():
        torch.testing.assert_close(gradient, alone[0][name] + alone[1][name])


@pytest.mark.parametrize("alpha", [0.0, 4.0])
def test_the_noise_has_the_deviation_of_the_gradient_and_is_the_same_in_each_run(make_trainer, make_model, alpha):
    """Of the gradient before it is scaled; one step of SGD, so that the weights show the gradient that was applied."""

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
        before = state(trainer)
        trainer.train()
        return {name: before[name] - value for name, value in state(trainer).items() if "prototypes" not in name}

    plain, noisy, again, other = train(False), train(True), train(True), train(True, seed=1)
    assert_equal(noisy, again)
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


@pytest.mark.parametrize("cls", [OGMTrainer, GradientBoostTrainer, MMParetoTrainer])
def test_what_hooks_cannot_do_is_refused(make_trainer, make_model, cls):
    model = make_model(unimodal_heads=cls in HEADS)
    with pytest.raises(ValueError, match=f"a model in one piece for {cls.__name__}"):
        make_trainer(model, cls=cls, torch_compile=True)


@pytest.mark.parametrize("cls", sorted(HEADS, key=str))
def test_methods_with_heads_ask_for_them(make_trainer, cls):
    with pytest.raises(ValueError, match="unimodal_heads=True"):
        make_trainer(cls=cls)


# ---- AGM ----


def test_agm_scales_by_the_lead_over_the_average_lead(prepared):
    """In the third batch; the responses of two modalities by hand."""
    trainer, _ = prepared(AGMTrainer, fusion="film", agm_alpha=4.0)
    parts = (range(8), range(20, 30), range(30, 46))
    batches = [trainer.data_collator([trainer.train_dataset[i] for i in rows]) for rows in parts]
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
    found = [stepped(trainer, batch) for batch in batches][2]
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


def test_agm_of_three_modalities_of_which_some_are_missing(make_args, three):
    """In the second batch; each response is the mean over the orders in which the modalities may join."""
    model = three(fusion="gated")
    trainer = AGMTrainer(model=model, args=make_args(AGMTrainer.args_class, agm_alpha=4.0))
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
                return model.fusion({m: torch.where(parts[m][:, None], z[m], model.absent[m]) for m in "abc"})

            own = dict.fromkeys("abc", 0.0)
            for order in itertools.permutations("abc"):
                for place, name in enumerate(order):
                    own[name] = own[name] + (fused(order[: place + 1]) - fused(order[:place])) / 6
        losses.append({m: F.cross_entropy(own[m][has[m]], labels[has[m]]).item() for m in "abc"})
    plain = plain_gradients(model, lambda outputs: outputs.loss, batches[1])
    found = [stepped(trainer, batch) for batch in batches][1]
    expected = {}
    for m in "abc":
        now, before = (math.exp(sum(s[o] for o in "abc" if o != m) / 2 - s[m]) for s in (losses[1], losses[0]))
        expected[m] = math.exp(-4.0 * (now - before))
    assert all(abs(scale - 1) > 0.01 for scale in expected.values())
    for name, gradient in found.items():
        part, modality = name.split(".")[:2]
        scale = expected[modality] if part in ("backbones", "absent") else 1.0
        torch.testing.assert_close(gradient, scale * plain[name], atol=1e-6, rtol=1e-3)


# ---- The cosine of the paper's Fig. 2c ----


def test_gradient_cosines_against_gradients_taken_one_by_one(prepared):
    trainer, batch = prepared(PrototypeTrainer, gradient_cosine_steps=3)

    def own_loss(outputs, name):
        return F.cross_entropy(trainer.prototypes(outputs.embeddings)[name], batch["labels"])

    fused = plain_gradients(trainer.model, lambda outputs: outputs.loss, batch)
    stepped(trainer, batch)
    logs = trainer.summarize(trainer._window_sums())
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
    assert_equal(*map(state, trainers))
    logged = [entry["step"] for entry in trainers[1].state.log_history if "image_gradient_cosine" in entry]
    assert logged == [1, 5, 9, 13]
    assert not any("image_gradient_cosine" in entry for entry in trainers[0].state.log_history)
    with pytest.raises(ValueError, match="`gradient_cosine_steps` to be at least 1"):
        make_trainer(cls=PrototypeTrainer, gradient_cosine_steps=0)


# ---- MMPareto ----


def test_mmpareto_blends_the_gradients_of_each_encoder(prepared):
    trainer, batch = prepared(MMParetoTrainer)
    model, labels = trainer.model, batch["labels"]
    fused = plain_gradients(model, lambda outputs: outputs.loss, batch)

    def own_loss(outputs, name):
        return F.cross_entropy(outputs.unimodal_logits[name], labels)

    unimodal = {name: plain_gradients(model, partial(own_loss, name=name), batch) for name in ("image", "text")}
    found = stepped(trainer, batch)
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
def test_pareto_weights_of_two_arrows(angle, length):
    f, u = np.array([1.0, 0.0]), length * np.array([math.cos(math.radians(angle)), math.sin(math.radians(angle))])
    weight, factor = (value.item() for value in pareto_weights(torch.tensor([[f @ f, u @ u, f @ u]])))
    blend = weight * f + (1 - weight) * u
    if angle < 90:
        assert weight == 0.5 and factor == pytest.approx(1.5)
        return
    # The blend of least length goes against neither of the two.
    assert blend @ f >= -1e-6 and blend @ u >= -1e-6
    others = [np.linalg.norm(w * f + (1 - w) * u) for w in np.linspace(0, 1, 1001)]
    assert np.linalg.norm(blend) <= min(others) + 1e-6
    if np.linalg.norm(blend) > 1e-3:
        longest = max(np.linalg.norm(f + u), np.linalg.norm(2 * blend))
        assert factor * np.linalg.norm(2 * blend) == pytest.approx(1.5 * longest, rel=1e-3)


def test_pareto_weights_where_a_gradient_is_zero_or_both_cancel():
    """|g^f|^2, |g^u|^2, g^f . g^u: the one that is there counts once, times 1.5."""
    weight, factor = pareto_weights(torch.tensor([[0.0, 9.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    assert (2 * weight).tolist() == [1, 1, 1] and factor.tolist() == pytest.approx([1.5, 1.5, 1.5])
    for length in (1.0, 3.0, 10.0):
        weight, factor = pareto_weights(torch.tensor([[1.0, length**2, -length]]))
        assert weight.item() == pytest.approx(length / (1 + length)) and 1.5 <= factor.item() < 3000


# ---- Gradient blending ----


def test_the_blended_loss_is_the_weighted_sum(prepared):
    trainer, batch = prepared(GradientBlendingTrainer, **GIVEN)
    loss, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    own = {name: F.cross_entropy(logits, batch["labels"]) for name, logits in outputs.unimodal_logits.items()}
    assert loss.item() == pytest.approx((0.3 * outputs.loss + 0.2 * own["image"] + 0.5 * own["text"]).item(), abs=1e-6)
    trainer.model.eval()
    loss, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    assert torch.equal(loss, outputs.loss)


def test_blend_weights_by_hand():
    """G = 1, 0.5, -0.1 and O = 0.5, 1, 1: weights 4 to 0.5 to 0."""
    losses = torch.tensor([[2.0, 2.0, 0.5, 1.0], [2.0, 2.0, 0.5, 1.5], [2.0, 2.0, 1.1, 2.1]])
    assert blend_weights(losses).tolist() == pytest.approx([8 / 9, 1 / 9, 0])
    assert blend_weights(torch.tensor([[1.0, 1.0, 1.0, 2.0]] * 4)).tolist() == [0.25] * 4
    assert blend_weights(torch.tensor([[2.0, 2.0, 1.0, 1.0], [2.0, 2.0, 0.0, 1.0]]))[0] > 0.99


def test_estimated_weights_are_those_of_training_by_each_loss(make_trainer, make_model, digits, tmp_path):
    """The fused loss against joint training of the same rows, and all of it again from the file when resumed."""
    settings = {"num_train_epochs": 2, "optim": "sgd", "learning_rate": 0.3}
    trainer = make_trainer(make_model(unimodal_heads=True), cls=GradientBlendingTrainer, blend_holdout=0.25, **settings)
    measured = []
    original = GradientBlendingTrainer.mean_losses

    def watch(self, rows):
        measured.append((len(rows), original(self, rows)))
        return measured[-1][1]

    before = state(trainer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GradientBlendingTrainer, "mean_losses", watch)
        weights = trainer.estimate_weights()
    assert_equal(before, state(trainer))
    assert [count for count, _ in measured] == [48, 16, 48, 16] * 3
    table = [[measured[4 * k + i][1][k] for i in range(4)] for k in range(3)]
    assert list(weights.values()) == pytest.approx(blend_weights(torch.tensor(table)).tolist())
    rows = torch.randperm(64, generator=torch.Generator().manual_seed(trainer.args.seed)).tolist()[16:]
    joint = make_trainer(
        make_model(unimodal_heads=True),
        cls=MultimodalTrainer,
        train_dataset=torch.utils.data.Subset(digits, rows),
        **settings,
    )
    joint.train()
    assert joint.evaluate(joint.train_dataset)["eval_loss"] == pytest.approx(table[2][2], abs=1e-4)
    alone = make_trainer(
        make_model(unimodal_heads=True),
        cls=MultimodalTrainer,
        train_dataset=joint.train_dataset,
        trainer_kwargs={
            "compute_loss_func": lambda outputs, labels, **_: F.cross_entropy(outputs.unimodal_logits["text"], labels)
        },
        **settings,
    )
    alone.train()
    assert alone.evaluate(joint.train_dataset)["eval_loss"] == pytest.approx(table[1][2], abs=1e-4)


def test_the_estimation_keeps_its_own_epochs_and_the_loss_of_the_user(make_trainer, make_model):
    seen = []

    def fused_loss(outputs, labels, **kwargs):
        seen.append(len(labels))
        return F.cross_entropy(outputs.logits, labels)

    trainer = make_trainer(
        make_model(unimodal_heads=True),
        cls=GradientBlendingTrainer,
        trainer_kwargs={"compute_loss_func": fused_loss},
        blend_epochs=1,
        max_steps=50,
    )
    trainer.estimate_weights()
    assert len(seen) == 3 * 8  # three runs of 58 rows in batches of 8


def test_the_estimation_refuses_what_it_cannot_repeat(make_trainer, make_model):
    model = make_model(unimodal_heads=True)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    for settings, said in [
        ({"trainer_kwargs": {"optimizers": (sgd, None)}}, "or `blend_weights`, got `optimizers` without them"),
        ({"dataloader_drop_last": True}, "got `dataloader_drop_last=True`; leave it out or set `blend_weights`"),
        ({"blend_weights": dict.fromkeys(("image", "text", "fused"), 0.0)}, "of which one is above, got {"),
        ({"blend_weights": {"image": 1.0, "text": math.inf, "fused": 0.0}}, "of which one is above, got {"),
    ]:
        with pytest.raises(ValueError, match=re.escape(said)):
            make_trainer(model, cls=GradientBlendingTrainer, **settings)
    make_trainer(model, cls=GradientBlendingTrainer, trainer_kwargs={"optimizers": (sgd, None)}, **GIVEN)


def test_the_estimation_has_the_optimizer_class_of_the_user(make_trainer, make_model):
    kwargs = {"optimizer_cls_and_kwargs": (torch.optim.Adagrad, {"lr": 0.1})}
    trainer = make_trainer(make_model(unimodal_heads=True), cls=GradientBlendingTrainer, trainer_kwargs=kwargs)
    assert isinstance(trainer._estimator("fused", trainer.train_dataset).create_optimizer(), torch.optim.Adagrad)


def test_the_estimation_samples_by_length_and_is_done_anew_by_the_next_training(make_trainer, make_model, digits):
    trainer = make_trainer(
        make_model(unimodal_heads=True),
        cls=GradientBlendingTrainer,
        train_dataset=digits.add_column("length", [len(row["caption"]) for row in digits]),
        train_sampling_strategy="group_by_length",
        num_train_epochs=1,
    )
    trainer.train()
    first = trainer.args.blend_weights
    trainer.args.learning_rate = 1e-4
    trainer.train()
    assert trainer.args.blend_weights != first


def test_a_resumed_run_keeps_its_weights(make_trainer, make_model, tmp_path):
    settings = {"cls": GradientBlendingTrainer, "blend_epochs": 1, "save_strategy": "epoch"}
    first = make_trainer(make_model(unimodal_heads=True), num_train_epochs=1, **settings)
    first.train()
    weights, file = first.args.blend_weights, tmp_path / "out" / LOSSES_NAME
    losses = json.loads(file.read_text())
    assert blend_weights(torch.tensor(list(losses.values()))).tolist() == list(weights.values())
    assert sum(weights.values()) == pytest.approx(1)
    second = make_trainer(make_model(seed=1, unimodal_heads=True), num_train_epochs=2, **settings)
    second.train(resume_from_checkpoint=True)
    assert second.args.blend_weights == weights and second.state.global_step == 16

    # Killed while the second of three losses was measured: the first is kept, the others are measured anew
    losses["image"][2] += 0.5
    file.write_text(json.dumps({"image": losses["image"]}))
    again = make_trainer(make_model(unimodal_heads=True), **settings)
    again.estimate_weights(resume=True)
    found = json.loads(file.read_text())
    assert found.keys() == losses.keys()
    assert all(found[name] == pytest.approx(losses[name], abs=1e-6) for name in losses)


# ---- All of them ----


@pytest.mark.parametrize(("cls", "options"), ALL, ids=IDS)
def test_a_killed_run_resumes_to_the_bit(make_trainer, make_model, cls, options, tmp_path):
    def make(folder):
        model = make_model(dropout=0.2, unimodal_heads=cls in HEADS)
        return make_trainer(
            model, cls=cls, output_dir=str(tmp_path / folder), save_strategy="steps", save_steps=5, **options
        )

    whole = make("whole")
    whole.train()
    again = make("again")
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-5"))
    assert again.state.global_step == whole.state.global_step == 16
    assert_equal(state(whole), state(again))


@pytest.mark.parametrize(("cls", "options"), ALL, ids=IDS)
def test_training_by_each_method(make_trainer, make_model, digits, cls, options):
    trainer = make_trainer(make_model(unimodal_heads=cls in HEADS), cls=cls, eval_strategy="epoch", **options)
    before = state(trainer)
    trainer.train()
    metrics = trainer.evaluate()
    moved = [name for name, value in state(trainer).items() if not torch.equal(value, before[name])]
    assert any(name.startswith("backbones.image") for name in moved)
    assert any(name.startswith("backbones.text") for name in moved)
    assert {"eval_image_prototype_accuracy", "eval_text_accuracy"} <= metrics.keys()
    log = next(entry for entry in trainer.state.log_history if "ce_loss" in entry)
    assert "rho" in log
    assert (cls in HEADS) == ("eval_image_unimodal_accuracy" in metrics)
    # what scaled gradients in training leaves the model alone after it
    batch = trainer.data_collator([digits[i] for i in range(8)])
    plain = plain_gradients(trainer.model, lambda outputs: outputs.loss, batch)
    trainer.model.zero_grad()
    trainer.model(**batch).loss.backward()
    assert_equal(gradients(trainer.model), plain)
    trainer.create_model_card()
    card = Path(trainer.args.output_dir, "README.md").read_text(encoding="utf-8")
    assert trainer.description in card and trainer.citation in card


@pytest.mark.parametrize(("cls", "options"), ALL, ids=IDS)
def test_three_modalities_of_which_some_are_missing(make_args, three, cls, options):
    options = (
        {"blend_weights": dict.fromkeys(("a", "b", "c", "fused"), 0.25)} if "blend_weights" in options else options
    )
    model = three(unimodal_heads=cls in HEADS)
    trainer = cls(model=model, args=make_args(cls.args_class, **options))
    batch = batch_of_three(0)
    batch["c"]["present"] = torch.zeros(8, dtype=torch.bool)
    outputs = model(**batch)
    trainer.prototypes.momentum_update(
        trainer.prototypes.class_sums(outputs.embeddings, batch["labels"], outputs.present), 0.0
    )
    model.train()
    loss, outputs = trainer.compute_loss(model, batch, return_outputs=True)
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())
    assert model.backbones["a"].get_parameter(next(n for n, _ in model.backbones["a"].named_parameters())).grad.any()
    if outputs.unimodal_logits is not None:
        expected = F.cross_entropy(outputs.unimodal_logits["b"][:3], batch["labels"][:3])
        assert trainer.unimodal_losses(outputs, batch["labels"])[1].item() == pytest.approx(expected.item(), abs=1e-6)
