"""MMPareto: blend the gradients of the fused and the unimodal loss in each encoder, so that they do not conflict."""

from typing import Any

import torch
from torch import nn

from ..training.gradients import cosines, gradient_products, gradients_of
from ..training.prototype_terms import PrototypeTerms
from .gradient_scaling import ForgetScales, require_hooks, scale_gradients, scaled_in_backward
from .unimodal_heads import UnimodalHeadsTrainer


GAMMA = 1.5  # the factor gamma of Algorithm 1, with the value in the authors' code


class MMParetoTrainer(UnimodalHeadsTrainer):
    """
    Trainer that minimizes the sum of the fused loss and the unimodal losses. In the encoder of each modality, it blends
    their gradients g^f and g^u as 2 a^f g^f + 2 a^u g^u (Algorithm 1). If the two gradients do not conflict,
    a^f = a^u = 1/2. Otherwise the weights give the convex combination of least norm. A blend shorter than g^f + g^u is
    rescaled to the norm of g^f + g^u, and every blend is multiplied by 1.5. The heads get the gradients of their own
    losses.

    Two additional backward passes per modality, in all processes, compute the two gradients of its encoder. Training
    logs contain, for each modality m, their cosine `m_cosine` and a^f as `m_fused_weight`.

    Deviations from the authors' code:

    * Norms are computed over the whole gradient of an encoder, as in the paper. The code computes them per parameter.
    * The projection before the fusion is treated as a part of the encoder.
    * Two gradients do not conflict if one of them is zero. If they cancel, the blend is lengthened at most
      a thousandfold.
    * Under gradient accumulation, the gradients of each micro-batch are blended separately.

    Wei, Hu, "MMPareto: Boosting Multimodal Learning with Innocent Unimodal Assistance", ICML 2024.

    Args:
        model (`MultimodalModel`): the model, with `unimodal_heads=True`.
        args (`PrototypeTrainingArguments`): the arguments.
        kwargs: everything else that [`PrototypeTrainer`] takes.

    Raises:
        ValueError: if the model has no unimodal heads or no encoder that is trained, or is compiled or sharded.
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
        """Add the hooks that scale gradients. Raises `ValueError` for a model without heads, compiled or sharded."""
        super().on_new_model(model)
        # For the current micro-batch: by modality for the fused gradient, by `unimodal_key` for the unimodal one
        self.scales: dict[str, torch.Tensor] = {}
        scale_gradients(require_hooks(self, model), self.scales)
        for name, head in model.unimodal_heads.items():
            key = unimodal_key(name)
            head.register_forward_pre_hook(
                lambda module, inputs, key=key, scales=self.scales: (scaled_in_backward(inputs[0], key, scales),)
            )

    def check_setup(self) -> None:
        """Raise `ValueError` if no encoder is trained, and for the errors of [`PrototypeTrainer`]."""
        if not any(self.encoder_parameters().values()):
            raise ValueError("Expected an encoder that is trained, got none; leave one out of `freeze`.")
        super().check_setup()

    def method_loss(
        self, loss: torch.Tensor, terms: PrototypeTerms, outputs: Any, labels: torch.Tensor
    ) -> torch.Tensor:
        """Set the scales that blend the gradients, and return the sum of the fused and the unimodal losses."""
        self.scales.clear()  # the gradients that are blended must not be scaled themselves
        losses = self.loss_scale * self.unimodal_losses(outputs, labels)
        self._set_scales(loss, losses)
        return loss + losses.sum()

    def _set_scales(self, fused_loss: torch.Tensor, unimodal_losses: torch.Tensor) -> None:
        """Set the scales for the next backward pass from the gradients of both losses in each encoder."""
        encoders = self.encoder_parameters()
        trained = [name for name, parameters in encoders.items() if parameters]
        products = torch.stack(
            [
                gradient_products(
                    self.accelerator, gradients_of(fused_loss, parameters), gradients_of(unimodal_loss, parameters)
                )
                for unimodal_loss, parameters in zip(unimodal_losses, encoders.values(), strict=True)
                if parameters
            ]
        )  # (M, 3), of the M encoders that are trained
        weights, factors = pareto_weights(products)
        for name, weight, factor in zip(trained, weights, factors, strict=True):
            self.scales[name] = 2 * weight * factor
            self.scales[unimodal_key(name)] = 2 * (1 - weight) * factor
        keys = (*(f"{name}_cosine" for name in trained), *(f"{name}_fused_weight" for name in trained))
        values = torch.cat([cosines(products), weights])
        self.track(keys, values, torch.ones_like(values))


def unimodal_key(modality: str) -> str:
    """The key for the scale of a modality's unimodal gradient. No modality can have such a name."""
    return f"{modality}.unimodal"


def pareto_weights(products: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The weight a^f of the fused gradient and the factor of the blend, for M pairs of gradients (Algorithm 1).

    Args:
        products (`torch.Tensor`): (M, 3): |g^f|^2, |g^u|^2 and g^f . g^u.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: a^f (M,), in [0, 1], where a^u = 1 - a^f; and the factor (M,) of the blend,
        1.5 max(1, |g^f + g^u| / |2 a^f g^f + 2 a^u g^u|).
    """
    fused, unimodal, dot = products.unbind(1)
    tiny = torch.finfo(torch.float32).tiny
    # The w in [0, 1] that minimizes |w g^f + (1 - w) g^u|
    min_norm_weight = ((unimodal - dot) / (fused + unimodal - 2 * dot).clamp(min=tiny)).clamp(0, 1)
    weight = torch.where(dot >= 0, 0.5, min_norm_weight)
    blend = 4 * (weight**2 * fused + 2 * weight * (1 - weight) * dot + (1 - weight) ** 2 * unimodal)  # squared norm
    blend = torch.maximum(blend, 1e-6 * (fused + unimodal))  # if both cancel, only rounding error is left
    ratio = ((fused + unimodal + 2 * dot).clamp(min=0) / blend.clamp(min=tiny)).sqrt()
    return weight, GAMMA * ratio.clamp(min=1)
