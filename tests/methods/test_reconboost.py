"""ReconBoost: the loss of a turn against explicit loops, the turns by hand, and what a turn must not move."""

import math

import pytest
import torch
from helpers.all_methods import batch_of_three
from helpers.gradients import gradients_of_step, plain_gradients
from helpers.snapshots import changed, snapshot

from pmr_hf import ReconBoostTrainer
from pmr_hf.methods.reconboost import boosting_losses, memory_losses, turn_at


def test_the_turns_by_hand():
    """Steps of a quarter epoch, turns of half an epoch and a quarter of joint training."""
    found = [turn_at(step / 4, 0.5, 0.25) for step in range(7)]
    assert found == [(0, True), (0, True), (0, False), (1, True), (1, True), (1, False), (2, True)]
    thirds = [turn_at(sum([1 / 3] * step), 1 / 3, 1 / 3) for step in range(8)]  # rounded fractions
    assert thirds == [(step // 2, step % 2 == 0) for step in range(8)]
    assert [turn_at(step / 2, 1.0, 0.0) for step in range(4)] == [(0, True), (0, True), (1, True), (1, True)]


def test_losses_of_several_labels():
    logits, others, labels = torch.tensor([[0.4, -1.0]]), torch.tensor([[2.0, 0.5]]), torch.tensor([[1.0, 0.0]])
    p, q = ([1 / (1 + math.exp(-z)) for z in row.tolist()[0]] for row in (logits, others))
    first = -(1 - 0.3 * q[0]) * math.log(p[0])
    second = -(1 - 0.3 * (1 - q[1])) * math.log(1 - p[1])
    found = boosting_losses(logits, others, labels, 0.3, multi_label=True)
    assert found.tolist() == pytest.approx([(first + second) / 2])
    memory = ((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2) / 2
    assert memory_losses(logits, others, multi_label=True).tolist() == pytest.approx([memory])


@pytest.mark.parametrize("fusion", ["concat", "sum"])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_loss_of_a_turn_and_its_gradient(make_args, make_model_of_three, fusion, stage):
    model = make_model_of_three(fusion=fusion, embedding_dim=5)
    options = {"reconboost_lambda": 0.4, "reconboost_memory": 2.0}
    trainer = ReconBoostTrainer(model=model, args=make_args(ReconBoostTrainer.args_class, **options))
    trainer.state.epoch = 2.0 * stage
    model.train()
    batch = batch_of_three(0)  # three of the eight samples have `b`
    name, before = "abc"[stage], "abc"[stage - 1]

    def loss_of(outputs):
        total, rows = 0.0, range(3) if name == "b" else range(8)
        for row in rows:
            z = {}
            for other in "abc":
                vector = model.projections[other](outputs.embeddings[other][row])
                z[other] = model.absent[other] if other == "b" and row >= 3 else vector
            if fusion == "sum":
                logits = {other: model.fusion.classifiers[other](z[other]) for other in "abc"}
            else:
                weight, bias = model.fusion.classifier.weight, model.fusion.classifier.bias
                parts = {"a": weight[:, :5], "b": weight[:, 5:10], "c": weight[:, 10:]}
                logits = {other: parts[other] @ z[other] + bias / 3 for other in "abc"}
            y = batch["labels"][row]
            q = sum(logits[other].detach() for other in "abc" if other != name).softmax(0)[y]
            p, old = logits[name].softmax(0), logits[before].detach().softmax(0)
            total = total - (1 - 0.4 * q) * p[y].log()
            if stage > 0 and (before != "b" or row < 3):
                total = total + 2.0 * sum((p[c] - old[c]) ** 2 for c in range(len(p))) / len(p)
        return total / len(rows)

    # the oracle's layers are those of the trained model, so its gradients are too
    model.zero_grad()
    expected_loss = loss_of(model(**batch))
    expected_loss.backward()
    expected = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    found = {key: value for key, value in gradients_of_step(trainer, batch).items() if value.any()}
    assert trainer.compute_loss(model, batch).item() == pytest.approx(expected_loss.item(), rel=1e-5)
    assert found.keys() == expected.keys()
    assert all(key.split(".")[1] == name for key in found if not key.startswith("fusion."))
    for key, gradient in found.items():
        torch.testing.assert_close(gradient, expected[key], atol=1e-6, rtol=1e-4, msg=key)


def test_joint_training_after_a_turn_is_that_of_the_fused_loss(make_args, make_model_of_three):
    model = make_model_of_three()
    trainer = ReconBoostTrainer(model=model, args=make_args(ReconBoostTrainer.args_class))
    trainer.state.epoch = 1.0
    model.train()
    batch = batch_of_three(0)
    found, expected = gradients_of_step(trainer, batch), plain_gradients(model, lambda outputs: outputs.loss, batch)
    assert found.keys() == expected.keys()
    for key, gradient in found.items():
        torch.testing.assert_close(gradient, expected[key], msg=key)


def test_a_turn_moves_nothing_of_the_others(make_trainer, make_model):
    """AdamW with weight decay, after joint training, so that the others have momentum."""
    options = {"weight_decay": 0.1, "reconboost_epochs": 0.5, "reconboost_rectify_epochs": 0.5}
    model = make_model(fusion="sum", embedding_dim=6, dropout=0.1)
    trainer = make_trainer(model, cls=ReconBoostTrainer, optim="adamw_torch", **options)
    step, moved, learning = trainer.training_step, {}, {}

    def watched(*args, **kwargs):
        if trainer.state.global_step in (4, 12):
            moved[trainer.state.global_step] = changed(moved.pop("before"), model)
        if trainer.state.global_step in (0, 8):
            moved["before"] = snapshot(model)
        loss = step(*args, **kwargs)
        learning[trainer.state.global_step] = [name for name in ("image", "text") if model.backbones[name].training]
        return loss

    trainer.training_step = watched
    trainer.train()
    assert [learning[i] for i in (0, 4, 8, 12)] == [["image"], ["image", "text"], ["text"], ["image", "text"]]
    for end, own in ((4, "image"), (12, "text")):
        trained = {key for key in moved[end] if not key.startswith("prototypes.")}
        assert {f"backbones.{own}", f"projections.{own}"} <= {".".join(key.split(".")[:2]) for key in trained}
        assert all(own in key.split(".") for key in trained)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_refusals(make_trainer, make_model, make_args):
    for wrong in ({"reconboost_lambda": 1.5}, {"reconboost_memory": -1.0}, {"reconboost_epochs": 0.0}):
        with pytest.raises(ValueError, match=f"Expected `{next(iter(wrong))}`"):
            make_args(ReconBoostTrainer.args_class, **wrong)
    with pytest.raises(ValueError, match=r"two or more modalities and fusion='concat' or 'sum' .* 'film'; choose"):
        make_trainer(make_model(fusion="film"), cls=ReconBoostTrainer)
    with pytest.raises(ValueError, match="a model in one piece for ReconBoostTrainer"):
        make_trainer(cls=ReconBoostTrainer, torch_compile=True)
    own = {"compute_loss_func": lambda outputs, labels, num_items_in_batch=None: outputs.loss}
    with pytest.raises(ValueError, match="got a `compute_loss_func`"):
        make_trainer(cls=ReconBoostTrainer, trainer_kwargs=own)
