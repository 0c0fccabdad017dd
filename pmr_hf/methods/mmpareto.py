"""MMPareto: the gradients of the fused and of each unimodal loss, blended where they conflict."""

from typing import Any

import torch
from torch import nn

from ..training.gradients import cosines, gradient_products, gradients_of
from ..training.prototype_terms import PrototypeTerms
from .gradient_scaling import ForgetScales, require_hooks, scale_gradients, scaled_in_backward
from .unimodal_heads import UnimodalHeadsTrainer


GAMMA = 1.5  # of Algorithm 1, as in the authors' code


class MMParetoTrainer(UnimodalHeadsTrainer):
    """
    Trainer by the fused loss and the loss of each modality's own head, whose gradients g^f and g^u in the encoder of
    modality m are blended as 2 a^f g^f + 2 a^u g^u (Algorithm 1): equally if they do not conflict, else by the point of
    least norm between them. A blend shorter than their sum gets its length, and all are multiplied by 1.5. The heads
    get the gradients of their own losses.

    The two gradients of each encoder are taken apart in two further backward passes, in all processes. Train logs have
    `m_cosine`, the cosine between them, and `m_fused_weight`, a^f, for each modality m.

    Deviations from the authors' code: lengths are those of an encoder's whole gradient, as in the paper, where the code
    takes those of each parameter; the projection before the fusion counts as the encoder's; two gradients of which one
    is zero do not conflict, and those that cancel are lengthened a thousandfold at most. Under gradient accumulation
    each micro-batch is blended for itself.

    Wei, Hu, "MMPareto: Boosting Multimodal Learning with Innocent Unimodal Assistance", ICML 2024.

    Args:
        model (`MultimodalModel`): the model, with `unimodal_heads=True`.
        args (`PrototypeTrainingArguments`): the arguments.
        kwargs: everything else that [`PrototypeTrainer`] takes.

    Raises:
        ValueError: for a model without unimodal heads or without an encoder that is trained, and for a compiled or
            sharded one.
    """

    description = "Trained with [MMPareto](https://arxiv.org/abs/2405.17730), which blends unimodal and fused gradients"
    citation = """@inproceedings{wei2024mmpareto,
    title     = {{MMPareto}: Boosting Multimodal Learning with Innocent Unimodal Assistance},
    author    = {Wei, Yake and Hu, Di},
    booktitle = {International Conference on Machine Learning (ICML)},
    year      = {2024},
}"""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_callback(ForgetScales(self))

    def on_new_model(self, model: nn.Module) -> None:
        super().on_new_model(model)
        # Of the micro-batch: for the fused gradient by modality, for the unimodal one by `unimodal_key`
        self.scales: dict[str, torch.Tensor] = {}
        scale_gradients(require_hooks(self, model), self.scales)
        for name, head in model.unimodal_heads.items():
            key = unimodal_key(name)
            head.register_forward_pre_hook(
                lambda module, inputs, key=key, scales=self.scales: (scaled_in_backward(inputs[0], key, scales),)
            )

    def check_setup(self) -> None:
        if not any(self.encoder_parameters().values()):
            raise ValueError("Expected an encoder that is trained, got none; leave one out of `freeze`.")
        super().check_setup()

    def method_loss(
        self, loss: torch.Tensor, terms: PrototypeTerms, outputs: Any, labels: torch.Tensor
    ) -> torch.Tensor:
        """The sum of the fused and the unimodal losses, whose gradients are blended."""
        self.scales.clear()
        losses = self.loss_scale * self.unimodal_losses(outputs, labels)
        self._blend(loss, losses)
        return loss + losses.sum()

    def _blend(self, fused_loss: torch.Tensor, unimodal_losses: torch.Tensor) -> None:
        """Set the scales of the coming backward pass from the gradients of both losses in each encoder."""
        parameters = self.encoder_parameters()
        products = torch.stack(
            [
                gradient_products(self.accelerator, gradients_of(fused_loss, own), gradients_of(alone, own))
                for alone, own in zip(unimodal_losses, parameters.values(), strict=True)
                if own
            ]
        )  # (M, 3)
        weights, lengths = pareto_weights(products)
        trained = [name for name, own in parameters.items() if own]
        for name, weight, length in zip(trained, weights, lengths, strict=True):
            self.scales[name] = 2 * weight * length
            self.scales[unimodal_key(name)] = 2 * (1 - weight) * length
        keys = (*(f"{name}_cosine" for name in trained), *(f"{name}_fused_weight" for name in trained))
        values = torch.cat([cosines(products), weights])
        self.track(keys, values, torch.ones_like(values))


def unimodal_key(modality: str) -> str:
    """The key of the scale of a modality's unimodal gradient: no modality has such a name."""
    return f"{modality}.unimodal"


def pareto_weights(products: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Weight of the fused gradient and factor of the blend for pairs of gradients (Algorithm 1 of MMPareto).

    Args:
        products (`torch.Tensor`): (M, 3): |g^f|^2, |g^u|^2 and g^f . g^u.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: a^f (M,) in [0, 1], of which a^u is the rest, and the factor (M,) of
        2 a^f g^f + 2 a^u g^u: 1.5 max(1, |g^f + g^u| / |2 a^f g^f + 2 a^u g^u|).
    """
    a, b, c = products.unbind(1)
    tiny = torch.finfo(torch.float32).tiny
    # The least norm of w g^f + (1 - w) g^u
    least = ((b - c) / (a + b - 2 * c).clamp(min=tiny)).clamp(0, 1)
    weight = torch.where(c >= 0, 0.5, least)  # without a conflict, or one of the two, equally
    blend = 4 * (weight**2 * a + 2 * weight * (1 - weight) * c + (1 - weight) ** 2 * b)
    blend = torch.maximum(blend, 1e-6 * (a + b))  # what is left of two that cancel is rounding error
    lengthen = ((a + b + 2 * c).clamp(min=0) / blend.clamp(min=tiny)).sqrt()
    return weight, GAMMA * lengthen.clamp(min=1)
