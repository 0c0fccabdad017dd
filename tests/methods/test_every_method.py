"""Every method trains, resumes to the bit, takes samples that lack a modality, and micro-batches where it can."""

import pytest
import torch
from helpers.all_methods import BLEND_WEIGHTS, METHOD_CASES, METHOD_IDS, WITH_HEADS, batch_of_three, parts_of
from helpers.gradients import gradients, plain_gradients
from helpers.relatives import slow_but
from helpers.snapshots import assert_equal_tensors, changed, snapshot
from torch.nn import functional as F

from pmr_hf import (
    DGLTrainer,
    GradientBlendingTrainer,
    ReconBoostTrainer,
    RelearningTrainer,
    UniformTrainer,
    ValuationTrainer,
)


# The others have no state of their own, or have it as one of these, or a test of resuming of their own
DEFAULT = ("ogm_ge", "dgl", "reconboost", "mmpareto", "mla", "agm_update", "late_fusion")


@pytest.mark.parametrize(("cls", "options"), slow_but(DEFAULT, METHOD_CASES, METHOD_IDS))
def test_each_method_trains_and_a_killed_run_resumes_to_the_bit(
    make_trainer, make_model, digits, cls, options, tmp_path
):
    def make(folder):
        model = make_model(dropout=0.2, **parts_of(cls))
        settings = {"save_strategy": "steps", "save_steps": 5, "eval_strategy": "epoch"} | options
        return make_trainer(model, cls=cls, output_dir=str(tmp_path / folder), **settings)

    trainer = make("whole")
    before = snapshot(trainer.model)
    trainer.train()
    after, moved = snapshot(trainer.model), changed(before, trainer.model)
    assert any(name.startswith("backbones.image") for name in moved)
    assert any(name.startswith("backbones.text") for name in moved)
    metrics = trainer.evaluate()
    assert {"eval_image_prototype_accuracy", "eval_text_accuracy"} <= metrics.keys()
    assert (cls in WITH_HEADS) == ("eval_image_unimodal_accuracy" in metrics)
    log = next(entry for entry in trainer.state.log_history if "ce_loss" in entry)
    assert "rho" in log

    again = make("again")
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-5"))
    assert again.state.global_step == trainer.state.global_step == 16
    assert_equal_tensors(after, snapshot(again.model))

    # the hooks that scale gradients in training do nothing after it
    batch = trainer.data_collator([digits[i] for i in range(8)])
    torch.manual_seed(0)  # of the dropout
    plain = plain_gradients(trainer.model, lambda outputs: outputs.loss, batch)
    trainer.model.zero_grad()
    torch.manual_seed(0)
    trainer.model(**batch).loss.backward()
    assert_equal_tensors(gradients(trainer.model), plain)


@pytest.mark.parametrize(("cls", "options"), METHOD_CASES, ids=METHOD_IDS)
def test_the_card_names_and_cites_the_method(make_trainer, make_model, cls, options, tmp_path):
    trainer = make_trainer(make_model(**parts_of(cls)), cls=cls, output_dir=str(tmp_path), **options)
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert trainer.description in card and trainer.citation in card


def summed_loss(outputs, labels, num_items_in_batch):
    return F.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (UniformTrainer, {}),
        (GradientBlendingTrainer, BLEND_WEIGHTS | {"trainer_kwargs": {"compute_loss_func": summed_loss}}),
        (DGLTrainer, {"dgl_alpha": 2.0}),
        (ValuationTrainer, {}),
        (RelearningTrainer, {"relearning_epochs": 1, "relearning_fraction": 0.25, "num_train_epochs": 2}),
        (ReconBoostTrainer, {"reconboost_epochs": 0.25, "reconboost_rectify_epochs": 0.25}),
    ],
)
def test_micro_batches_train_as_one_batch(make_trainer, make_model, cls, options):
    """For methods whose loss is a mean over samples, where none lacks a modality."""
    weights = []
    for size, steps in ((16, 1), (8, 2)):
        trainer = make_trainer(
            make_model(**parts_of(cls)),
            cls=cls,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            optim="sgd",
            learning_rate=0.1,
            max_grad_norm=0.0,
            **{"num_train_epochs": 1} | options,
        )
        trainer.train()
        weights.append(dict(trainer.model.named_parameters()))
    assert trainer.state.global_step == 4 * trainer.args.num_train_epochs
    pulls = [entry["image_relearning_strength"] for entry in trainer.state.log_history if "image_purity_gap" in entry]
    assert all(pulls) and len(pulls) == (cls is RelearningTrainer)
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize(("cls", "options"), METHOD_CASES, ids=METHOD_IDS)
def test_three_modalities_of_which_some_are_missing(make_args, make_model_of_three, cls, options):
    options = (
        {"blend_weights": dict.fromkeys(("a", "b", "c", "fused"), 0.25)} if "blend_weights" in options else options
    )
    model = make_model_of_three(**parts_of(cls))
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
