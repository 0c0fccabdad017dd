"""Adaptive gradient modulation (AGM): encoders are slowed down by how far they are ahead of their own average lead."""

import os
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from ..inference.shapley import shapley_values
from ..model.missing_modalities import all_present
from ..model.modeling import MultimodalOutput
from ..training.arguments import PrototypeTrainingArguments
from ..training.prototype_terms import PrototypeTerms
from .gradient_scaling import GradientScalingTrainer


STATE_NAME = "agm_losses.safetensors"


@dataclass
class AGMTrainingArguments(PrototypeTrainingArguments):
    """
    Arguments of [`AGMTrainer`]: those of [`PrototypeTrainingArguments`] and the method's own.

    Args:
        agm_alpha (`float`, *optional*, defaults to `1.0`): alpha, how strongly gradients are modulated; at least 0.

    Raises:
        ValueError: for a value outside its range.
    """

    agm_alpha: float = field(default=1.0, metadata={"help": "alpha of AGM: how strongly gradients are modulated."})

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.agm_alpha < float("inf"):
            raise ValueError(f"Expected `agm_alpha` to be finite and at least 0, got {self.agm_alpha}.")

    @property
    def hyper_parameters(self) -> dict[str, object]:
        return {"α, strength of the modulation": self.agm_alpha} | super().hyper_parameters


class AGMTrainer(GradientScalingTrainer):
    """
    Trainer that scales the gradient of each encoder by exp(-alpha (r^m - tau^m)).

    The response of modality m is its Shapley value for the fused logits over subsets of modalities, and s^m the cross
    entropy of that response. r^m = exp(mean over l != m of s^l - s^m) says how far m is ahead in this batch, tau^m the
    same of the averages of s over all batches before it.

    Deviations from the paper and its code:

    * A modality is taken away by its learned vector in place of its embedding, where they feed zeros to its encoder: no
      encoder runs again. Without any modality the logits count as zero, as there.
    * The scale acts on all of an encoder's gradient of the fused loss. The code scales the gradient of each response
      and lets it flow on, into the head too. For encoders the two are the same where the head adds up its modalities
      (concat, sum); with FiLM and gated heads, where they are not, this is the simpler reading.
    * It lasts for the whole training, where the code ends it after 20 epochs by default. The first batch, which has
      none before it, is not scaled. Exponents are cut at 20, where the code has bounds for each data set.
    * Responses are those of training, where the code takes some in evaluation mode.

    Li, Li, Hu, Lei, Li, Zhou, "Boosting Multi-modal Model Performance with Adaptive Gradient Modulation", ICCV 2023.

    Args:
        model (`MultimodalModel`): the model.
        args (`AGMTrainingArguments`): the arguments.
        kwargs: everything else that [`PrototypeTrainer`] takes.
    """

    args_class = AGMTrainingArguments
    description = "Trained with [AGM](https://arxiv.org/abs/2308.07686), which modulates the gradient of each encoder"
    citation = """@inproceedings{li2023agm,
    title     = {Boosting Multi-modal Model Performance with Adaptive Gradient Modulation},
    author    = {Li, Hong and Li, Xingyu and Hu, Pengbo and Lei, Yinuo and Li, Chunxiao and Zhou, Yi},
    booktitle = {IEEE/CVF International Conference on Computer Vision (ICCV)},
    year      = {2023},
}"""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # (2, M): each modality's losses s^m summed over the batches of this run, and how many they are
        self.loss_sums: torch.Tensor | None = None

    def gradient_scales(self, terms: PrototypeTerms, outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        losses, counts = self.response_losses(outputs, labels)
        batch = torch.stack([losses, torch.ones_like(losses)]) * (counts > 0)
        before = self.loss_sums
        self.loss_sums = batch if before is None else before + batch
        if before is None:
            return torch.ones_like(losses)
        average = before[0] / before[1].clamp(min=1)
        known = (counts > 0) & (before[1] > 0)
        return agm_scales(losses, average, self.args.agm_alpha, known)

    def response_losses(self, outputs: MultimodalOutput, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """s^m (M,), the mean over the samples of all processes that have modality m, and how many these are (M,)."""
        model, names = self.unwrapped_model, list(self.prototypes.widths)
        present = outputs.present or all_present(names, labels)

        def logits_of(taking_part: tuple[bool, ...]) -> torch.Tensor:
            if not any(taking_part):
                return torch.zeros_like(outputs.logits, dtype=torch.float32).flatten()
            some = {name: present[name] & takes for name, takes in zip(names, taking_part, strict=True)}
            return model.fuse(outputs.embeddings, some).float().flatten()

        responses = shapley_values(logits_of, len(names)).view(len(names), *outputs.logits.shape)  # (M, B, K)
        losses = F.cross_entropy(responses.mT, labels.expand(len(names), -1), reduction="none")  # (M, B)
        return self.global_means(losses, outputs, labels)

    def save_method_state(self, folder: str) -> None:
        """Save the sums of the losses."""
        super().save_method_state(folder)
        if self.loss_sums is not None and self.args.should_save:
            save_file({"loss_sums": self.loss_sums}, os.path.join(folder, STATE_NAME))

    def load_method_state(self, checkpoint: str | None) -> None:
        """Go on from the losses of a checkpoint, or from none."""
        super().load_method_state(checkpoint)
        self.loss_sums = None
        file = os.path.join(checkpoint or "", STATE_NAME)
        if checkpoint is not None and os.path.isfile(file):
            self.loss_sums = load_file(file, device=str(self.args.device))["loss_sums"]


def agm_scales(
    losses: torch.Tensor, average: torch.Tensor, alpha: float, known: torch.Tensor | None = None
) -> torch.Tensor:
    """
    exp(-alpha (r^m - tau^m)) (Eqs. 8 to 10 of Li et al. 2023).

    Args:
        losses (`torch.Tensor`): (M,), s^m of this batch.
        average (`torch.Tensor`): (M,), their averages over the batches before it.
        alpha (`float`): at least 0.
        known (`torch.Tensor`, *optional*): (M,) bool. A modality without losses gets 1 and is compared with no other.

    Returns:
        `torch.Tensor`: (M,), in [0, exp(alpha tau^m)].
    """
    known = torch.ones_like(losses, dtype=torch.bool) if known is None else known
    others = (known.sum() - 1).clamp(min=1)

    def lead(values: torch.Tensor) -> torch.Tensor:
        values = torch.where(known, values, 0)
        return (((values.sum() - values) / others) - values).clamp(max=20).exp()

    scales = (alpha * (lead(average) - lead(losses))).clamp(max=20).exp()
    return torch.where(known & (known.sum() > 1), scales, 1)
