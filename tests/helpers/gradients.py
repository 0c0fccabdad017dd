"""Gradients of a model, by parameter name."""

import copy


def gradients(model):
    """Copies of the gradients that the parameters hold now."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def plain_gradients(model, loss_of, batch):
    """The gradients of `loss_of(outputs)`, from a copy of the model without the hooks of a trainer."""
    plain = copy.deepcopy(model)
    for module in plain.modules():
        module._forward_pre_hooks.clear()
    plain.zero_grad()
    loss_of(plain(**batch)).backward()
    return gradients(plain)


def gradients_of_step(trainer, batch):
    """The gradients that the trainer's own loss and hooks give, in one step without the update."""
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return gradients(trainer.model)
