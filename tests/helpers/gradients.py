"""Gradients of a model: as they lie there, of its plain loss, and of one step of a trainer."""

import copy

import torch

from helpers.digits import NUM_LABELS


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


def batch_of_three(seed):
    """Eight samples, of which `b` is there for three."""
    generator = torch.Generator().manual_seed(seed)
    batch = {name: {"values": torch.randn(8, 3, generator=generator)} for name in ("a", "b", "c")}
    batch["b"]["present"] = torch.arange(8) < 3
    return batch | {"labels": torch.arange(8) % NUM_LABELS}
