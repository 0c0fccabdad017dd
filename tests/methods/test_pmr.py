"""PMR: the loss against the oracle, also under accumulation and autocast; without its terms, plain `Trainer`."""

import inspect

import numpy as np
import pytest
import torch
from helpers import oracle
from helpers.digits import NUM_LABELS, batch_of
from helpers.oracle_inputs import class_means, oracle_inputs
from helpers.relatives import slow_but
from helpers.snapshots import assert_equal_tensors, weights_of
from transformers import BertConfig, Trainer, TrainingArguments

from pmr_hf import MultimodalTrainer, PMRTrainer, PrototypeTrainer


THREE = {
    name: BertConfig(
        vocab_size=16, hidden_size=8 + 4 * i, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    for i, name in enumerate(["image", "text", "audio"])
}


@pytest.fixture
def random_batch():
    """A batch of token ids for the three text encoders of `THREE`."""
    generator = torch.Generator().manual_seed(0)
    batch = {name: {"input_ids": torch.randint(0, 16, (12, 5), generator=generator)} for name in THREE}
    return batch | {"labels": torch.arange(12) % NUM_LABELS}


@pytest.mark.parametrize(("mode", "fusion"), [("clip", "concat"), ("hard", "attention")])
@pytest.mark.parametrize(("epoch", "active"), [(0.0, True), (1.99, True), (2.0, False)])
def test_loss_equals_the_oracle_end_to_end(make_trainer, make_model, mode, fusion, epoch, active):
    terms = {"pmr_alpha": 1.5, "pmr_mu": 0.7, "pmr_weights": mode, "pmr_entropy_epochs": 2}
    trainer = make_trainer(make_model(fusion=fusion), prototype_fraction=0.5, num_train_epochs=1, **terms)
    trainer.train()
    trainer.state.epoch = epoch
    inputs = batch_of(trainer, range(16))
    trainer.model.train()
    loss, outputs = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
    embeddings, prototypes = oracle_inputs(trainer, outputs)
    expected = oracle.rebalance_loss(
        embeddings, prototypes, inputs["labels"].tolist(), 1.5, 0.7, entropy_active=active, hard=mode == "hard"
    )
    assert abs(expected) > 1e-3
    cross_entropy = torch.nn.functional.cross_entropy(outputs.logits, inputs["labels"])
    assert loss.item() == pytest.approx(cross_entropy.item() + expected, abs=1e-5)
    trainer.args.pmr_epochs = 1.5
    loss = trainer.compute_loss(trainer.model, inputs).item()
    assert loss == pytest.approx(cross_entropy.item() + (expected if epoch < 1.5 else 0), abs=1e-5)


def test_loss_of_three_modalities_and_an_unseen_class(make_args, make_model, random_batch):
    trainer = PMRTrainer(model=make_model(backbones=THREE), args=make_args(pmr_mu=0.5))
    generator = torch.Generator().manual_seed(1)
    for i, name in enumerate(THREE):
        trainer.prototypes.mean(name).copy_(
            torch.randn(trainer.prototypes.mean(name).shape, generator=generator) / (i + 1)
        )
        trainer.prototypes.seen(name).copy_(torch.tensor([True, True, True, i == 2]))
    trainer.model.train()
    loss, outputs = trainer.compute_loss(trainer.model, random_batch, return_outputs=True)
    labels = random_batch["labels"].tolist()
    expected = oracle.rebalance_loss(*oracle_inputs(trainer, outputs), labels, 1.0, 0.5)
    assert loss.item() == pytest.approx(outputs.loss.item() + expected, abs=1e-5)
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in trainer.model.parameters())


def test_evaluation_loss_is_the_cross_entropy_alone(make_trainer):
    trainer = make_trainer(num_train_epochs=1)
    trainer.train()
    inputs = batch_of(trainer, range(8))
    trainer.model.eval()
    loss, outputs = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
    assert torch.equal(loss, outputs.loss)


@pytest.mark.parametrize("fusion", ["concat", "attention"])
def test_every_trainable_parameter_moves(make_trainer, make_model, fusion):
    trainer = make_trainer(make_model(fusion=fusion), per_device_train_batch_size=16)
    before = {name: parameter.clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    still = [name for name, parameter in trainer.model.named_parameters() if torch.equal(parameter, before[name])]
    still = [name for name in still if not name.startswith("absent.")]  # no sample lacks a modality here
    # The bias of a key adds the same to all scores of a query, so softmax gives it no gradient, also in plain training.
    assert all(name.endswith(("key.bias", "k_proj.bias")) for name in still), still


def test_without_its_terms_pmr_is_plain_trainer_to_the_bit(make_trainer, make_model, make_args, digits, collator):
    """With dropout: a random number that the refresh draws would change the result."""
    plain = Trainer(
        model=make_model(dropout=0.2),
        args=make_args(TrainingArguments, remove_unused_columns=False),
        train_dataset=digits,
        data_collator=collator,
    )
    plain.train()
    for without in ({"pmr_alpha": 0.0, "pmr_mu": 0.0}, {"pmr_epochs": 0.0}):
        trainer = make_trainer(make_model(dropout=0.2), **without)
        trainer.train()
        assert_equal_tensors(weights_of(trainer.model), weights_of(plain.model))
        assert trainer.prototypes.seen("image").all()
    for cls in (MultimodalTrainer, PrototypeTrainer):
        joint = make_trainer(make_model(dropout=0.2), cls=cls)
        joint.train()
        assert_equal_tensors(weights_of(joint.model), weights_of(plain.model))


def test_bf16_autocast_keeps_the_prototypes_and_their_distances_in_fp32(make_trainer):
    trainer = make_trainer(bf16=True, prototype_fraction=1.0)
    trainer.train()
    assert all(log[f"{name}_pce_loss"] > 0 for log in trainer.state.log_history[:-1] for name in ("image", "text"))
    for name, means in class_means(trainer, range(64)).items():
        assert trainer.prototypes.mean(name).dtype == torch.float32
        torch.testing.assert_close(trainer.prototypes.mean(name), torch.tensor(means), atol=2e-2, rtol=2e-2)
    inputs = batch_of(trainer, range(16))
    trainer.model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, outputs = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
    embeddings, prototypes = oracle_inputs(trainer, outputs)
    expected = oracle.rebalance_loss(embeddings, prototypes, inputs["labels"].tolist(), 1.0, 0.01)
    assert loss.item() == pytest.approx(outputs.loss.item() + expected, abs=1e-5)


FORCED = ([0.0, 0.8], [0.8, 0.0])
ACCUMULATED = {
    "model's loss, alpha = mu = 0": (False, None),
    "model's loss, forced weights": (False, FORCED),
    "compute_loss_func, alpha = mu = 0": (True, None),
    "compute_loss_func, forced weights": (True, FORCED),
}
DEFAULT = ("model's loss, forced weights", "compute_loss_func, alpha = mu = 0")


@pytest.mark.parametrize(("own_loss", "forced"), slow_but(DEFAULT, ACCUMULATED.values(), ACCUMULATED))
def test_accumulation_equals_a_large_batch(make_trainer, digits, monkeypatch, forced, own_loss):
    """Batch 2 with 4 accumulation steps equals batch 8 with 1, if the weights do not depend on the batch."""
    if forced is not None:
        pair = tuple(map(torch.tensor, forced))
        monkeypatch.setattr("pmr_hf.training.prototype_trainer.rebalance_weights", lambda scores, present: pair)
    strength = 0.0 if forced is None else 1.0

    def sum_loss(outputs, labels, num_items_in_batch=None):
        return torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch

    def train(batch_size, accumulation):
        trainer = make_trainer(
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            pmr_alpha=strength,
            pmr_mu=strength,
            prototype_fraction=1.0,
            optim="sgd",
            trainer_kwargs={"compute_loss_func": sum_loss} if own_loss else {},
        )
        trainer.train()
        return trainer

    small, large = train(2, 4), train(8, 1)
    assert small.state.global_step == large.state.global_step == 16
    for name, value in weights_of(large.model).items():
        torch.testing.assert_close(weights_of(small.model)[name], value, atol=1e-4, rtol=1e-4)
    for key in ("loss", "ce_loss", "image_pce_loss", "text_entropy", "image_score"):
        assert small.state.log_history[0][key] == pytest.approx(large.state.log_history[0][key], abs=1e-4), key


def test_live_weights_are_those_of_each_micro_batch(make_trainer):
    """The logged weights of a step with two micro-batches are the mean of the oracle's weights for each of them."""
    trainer = make_trainer(gradient_accumulation_steps=2, num_train_epochs=1, max_steps=1, prototype_fraction=1.0)
    seen = []
    compute_loss = trainer.compute_loss

    def watch(model, inputs, **kwargs):
        loss, outputs = compute_loss(model, inputs, return_outputs=True)
        if model.training:
            seen.append((*oracle_inputs(trainer, outputs), inputs["labels"].tolist()))
        return loss

    trainer.compute_loss = watch
    trainer.train()
    assert len(seen) == 2
    log = trainer.state.log_history[0]
    scores = [[oracle.score(z, c, labels) for z, c in zip(zs, cs, strict=True)] for zs, cs, labels in seen]
    pce = np.mean([oracle.weights(pair)[0] for pair in scores], axis=0)
    per = np.mean([oracle.weights(pair)[1] for pair in scores], axis=0)
    assert pce.max() > 0
    assert [log["image_pce_weight"], log["text_pce_weight"]] == pytest.approx(pce.tolist(), abs=1e-5)
    assert [log["image_per_weight"], log["text_per_weight"]] == pytest.approx(per.tolist(), abs=1e-5)
    # rho is Eq. 8 with the sums over the window, not a mean of ratios
    sums = np.sum(scores, axis=0)
    assert log["rho"] == pytest.approx(sums[0] / sums[1], abs=1e-5)
    assert [log["image_score"], log["text_score"]] == pytest.approx((sums / 2).tolist(), abs=1e-5)
    for i, name in enumerate(["image", "text"]):
        pces = [oracle.cross_entropy(zs[i], cs[i], labels) for zs, cs, labels in seen]
        entropies = [oracle.entropy(zs[i], cs[i], labels) for zs, cs, labels in seen]
        assert log[f"{name}_pce_loss"] == pytest.approx(np.mean(pces), abs=1e-5)
        assert log[f"{name}_entropy"] == pytest.approx(np.mean(entropies), abs=1e-5)


def test_compute_loss_has_the_signature_of_trainer():
    assert (
        inspect.signature(PMRTrainer.compute_loss).parameters.keys()
        == inspect.signature(Trainer.compute_loss).parameters.keys()
    )
