"""DGL: the head learns as in joint training, and the encoders from what the head makes of each of them alone."""

import pytest
import torch
from helpers.all_methods import batch_of_three
from helpers.fusing import logits_of_sample
from helpers.gradients import gradients_of_step, plain_gradients

from pmr_hf import DGLTrainer


@pytest.mark.parametrize("fusion", ["concat", "sum", "film", "gated", "attention"])
def test_dgl_separates_the_gradients_of_the_head_and_of_the_encoders(make_args, make_model_of_three, fusion):
    model = make_model_of_three(fusion=fusion, embedding_dim=5)
    trainer = DGLTrainer(model=model, args=make_args(DGLTrainer.args_class, dgl_alpha=3.0))
    model.train()
    batch = batch_of_three(0)  # three of the eight samples have `b`
    with torch.no_grad():
        for vector in model.absent.values():
            vector.normal_()
    samples = {"a": range(8), "b": range(3), "c": range(8)}
    parts = plain_gradients(model, lambda outputs: outputs.loss, batch)

    def alone(outputs):
        total = 0.0
        for name, rows in samples.items():
            for row in rows:
                z = {other: outputs.embeddings[other][row] for other in "abc"}
                logits = logits_of_sample(model, z, (name,))
                total = total - 3.0 * logits.log_softmax(0)[batch["labels"][row]] / len(rows)
        return total

    model.zero_grad()
    alone(model(**batch)).backward()
    unimodal = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    found = gradients_of_step(trainer, batch)
    assert found.keys() == parts.keys()
    for name, gradient in found.items():
        of_encoder = name.startswith(("backbones.", "projections."))
        expected = unimodal[name] if of_encoder else parts[name]
        torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-4, msg=name)
        if of_encoder:
            assert not torch.allclose(gradient, parts[name], atol=1e-4)
    assert found["absent.b"].any() == (fusion != "attention") and not found["absent.a"].any()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_fused_loss_has_class_weights_and_label_smoothing(make_trainer, make_model):
    for settings in ({"class_weights": {"0": 4.0}}, {"label_smoothing_factor": 0.3}):
        trainer = make_trainer(make_model(), cls=DGLTrainer, dgl_alpha=0.0, **settings)
        trainer.model.train()
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
        plain = plain_gradients(trainer.model, lambda outputs: outputs.loss, batch)["fusion.classifier.weight"]
        outputs = trainer.model(**batch)
        weights = torch.tensor([4.0, 1.0, 1.0, 1.0]) if "class_weights" in settings else None
        smoothing = settings.get("label_smoothing_factor", 0.0)
        expected = torch.nn.CrossEntropyLoss(weight=weights, label_smoothing=smoothing)(outputs.logits, batch["labels"])
        (expected,) = torch.autograd.grad(expected, [trainer.model.fusion.classifier.weight])
        found = gradients_of_step(trainer, batch)["fusion.classifier.weight"]
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
        assert not torch.allclose(found, plain, atol=1e-4)


def test_dgl_refuses_a_loss_that_it_cannot_compute_again(make_trainer, make_args):
    with pytest.raises(ValueError, match="`dgl_alpha` of at least 0"):
        make_args(DGLTrainer.args_class, dgl_alpha=-1.0)
    own = {"compute_loss_func": lambda outputs, labels, num_items_in_batch=None: outputs.loss}
    with pytest.raises(ValueError, match=r"the loss of the model for DGLTrainer, .* got a `compute_loss_func`"):
        make_trainer(cls=DGLTrainer, trainer_kwargs=own)
