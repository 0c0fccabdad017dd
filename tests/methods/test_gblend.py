"""Gradient blending: the weighted loss, and the estimation of its weights."""

import json
import math
import re

import pytest
import torch
from helpers.all_methods import BLEND_WEIGHTS
from helpers.gradients import gradients_of_step, plain_gradients
from helpers.snapshots import assert_equal_tensors, snapshot
from torch.nn import functional as F

from pmr_hf import GradientBlendingTrainer, MultimodalTrainer
from pmr_hf.methods.gblend import LOSSES_NAME, blend_weights


@pytest.mark.parametrize("fusion", ["concat", "attention"])
def test_the_blended_loss_is_the_weighted_sum(prepared, fusion):
    trainer, batch = prepared(GradientBlendingTrainer, fusion=fusion, **BLEND_WEIGHTS)
    loss, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)

    def weighted(outputs):
        own = {name: F.cross_entropy(logits, batch["labels"]) for name, logits in outputs.unimodal_logits.items()}
        return 0.3 * outputs.loss + 0.2 * own["image"] + 0.5 * own["text"]

    assert loss.item() == pytest.approx(weighted(outputs).item(), abs=1e-6)
    plain, found = plain_gradients(trainer.model, weighted, batch), gradients_of_step(trainer, batch)
    assert plain.keys() == found.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-5, msg=name)
    trainer.model.eval()
    loss, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    assert torch.equal(loss, outputs.loss)


def test_blend_weights_by_hand():
    """G = 1, 0.5, -0.1 and O = 0.5, 1, 1 give weights in the ratio 4 : 0.5 : 0."""
    losses = torch.tensor([[2.0, 2.0, 0.5, 1.0], [2.0, 2.0, 0.5, 1.5], [2.0, 2.0, 1.1, 2.1]])
    assert blend_weights(losses).tolist() == pytest.approx([8 / 9, 1 / 9, 0])
    assert blend_weights(torch.tensor([[1.0, 1.0, 1.0, 2.0]] * 4)).tolist() == [0.25] * 4
    assert blend_weights(torch.tensor([[2.0, 2.0, 1.0, 1.0], [2.0, 2.0, 0.0, 1.0]]))[0] > 0.99


def test_estimated_weights_are_those_of_training_by_each_loss(make_trainer, make_model, digits, tmp_path):
    """The measured losses are those of joint training, and of training by one loss alone, on the same rows."""
    settings = {"num_train_epochs": 2, "optim": "sgd", "learning_rate": 0.3}
    trainer = make_trainer(make_model(unimodal_heads=True), cls=GradientBlendingTrainer, blend_holdout=0.25, **settings)
    measured = []
    original = GradientBlendingTrainer.mean_losses

    def watch(self, rows):
        measured.append((len(rows), original(self, rows)))
        return measured[-1][1]

    before = snapshot(trainer.model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GradientBlendingTrainer, "mean_losses", watch)
        weights = trainer.estimate_weights()
    assert_equal_tensors(before, snapshot(trainer.model))
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


@pytest.mark.slow
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


@pytest.mark.parametrize("weights", [None, {"0": 3.0, "2": 0.5}])
def test_the_losses_are_measured_by_the_heads_with_the_weights_of_the_classes(make_trainer, make_model, weights):
    """Also if the model answers by its prototypes."""
    model = make_model(unimodal_heads=True)
    trainer = make_trainer(model, cls=GradientBlendingTrainer, class_weights=weights, label_smoothing_factor=0.1)
    model.config.answer = "prototypes"
    found = trainer.mean_losses(trainer.train_dataset)
    batch = trainer._prepare_inputs(trainer.data_collator(list(trainer.train_dataset)))
    with torch.no_grad():
        outputs = model.eval()(**batch)
        fused = model.fusion(outputs.embeddings)
    by_class = torch.tensor([(weights or {}).get(str(k), 1.0) for k in range(4)])
    for value, logits in zip(found, [*outputs.unimodal_logits.values(), fused], strict=True):
        expected = F.cross_entropy(logits, batch["labels"], by_class, label_smoothing=0.1)
        assert value == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("options", [{"answer": "best", "eval_strategy": "epoch"}, {"eval_on_start": True}])
def test_the_estimation_evaluates_no_copy(make_trainer, make_model, options):
    trainer = make_trainer(make_model(unimodal_heads=True), cls=GradientBlendingTrainer, num_train_epochs=1, **options)
    trainer.train()
    assert sum(trainer.args.blend_weights.values()) == pytest.approx(1)


def test_a_named_checkpoint_of_another_folder_has_the_losses(make_trainer, make_model, make_args, tmp_path):
    settings = {"cls": GradientBlendingTrainer, "blend_epochs": 1, "save_strategy": "epoch", "num_train_epochs": 1}
    first = make_trainer(make_model(unimodal_heads=True), **settings)
    first.train()
    checkpoint = tmp_path / "out" / "checkpoint-8"
    (tmp_path / "out" / LOSSES_NAME).unlink()
    second = make_trainer(make_model(seed=1, unimodal_heads=True), output_dir=tmp_path / "other", **settings)
    second.train(resume_from_checkpoint=str(checkpoint))
    assert second.args.blend_weights == first.args.blend_weights


def test_the_estimation_refuses_what_it_cannot_repeat(make_trainer, make_model):
    model = make_model(unimodal_heads=True)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    for settings, said in [
        ({"trainer_kwargs": {"optimizers": (sgd, None)}}, "got `optimizers`; leave them out, or set `blend_weights`"),
        ({"dataloader_drop_last": True}, "got `dataloader_drop_last=True`; leave it out or set `blend_weights`"),
        ({"blend_weights": dict.fromkeys(("image", "text", "fused"), 0.0)}, "one of them to be positive, got {"),
        ({"blend_weights": {"image": 1.0, "text": math.inf, "fused": 0.0}}, "one of them to be positive, got {"),
    ]:
        with pytest.raises(ValueError, match=re.escape(said)):
            make_trainer(model, cls=GradientBlendingTrainer, **settings)
    make_trainer(model, cls=GradientBlendingTrainer, trainer_kwargs={"optimizers": (sgd, None)}, **BLEND_WEIGHTS)


def test_the_estimation_has_the_optimizer_class_of_the_user(make_trainer, make_model):
    kwargs = {"optimizer_cls_and_kwargs": (torch.optim.Adagrad, {"lr": 0.1})}
    trainer = make_trainer(make_model(unimodal_heads=True), cls=GradientBlendingTrainer, trainer_kwargs=kwargs)
    assert isinstance(trainer._estimator("fused", trainer.train_dataset).create_optimizer(), torch.optim.Adagrad)


@pytest.mark.slow
def test_the_estimation_samples_by_length_and_is_repeated_by_the_next_training(make_trainer, make_model, digits):
    trainer = make_trainer(
        make_model(unimodal_heads=True),
        cls=GradientBlendingTrainer,
        train_dataset=digits.add_column("length", [len(row["caption"]) for row in digits]),
        eval_dataset=None,
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

    # Killed while the second of three losses was measured: the first is kept, the others are measured again
    losses["image"][2] += 0.5
    file.write_text(json.dumps({"image": losses["image"]}))
    again = make_trainer(make_model(unimodal_heads=True), **settings)
    again.estimate_weights(resume=True)
    found = json.loads(file.read_text())
    assert found.keys() == losses.keys()
    assert all(found[name] == pytest.approx(losses[name], abs=1e-6) for name in losses)
