"""Adaptive gradient modulation (AGM): a modality that leads by more than its average gets a smaller gradient."""

import os
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..inference.shapley import shapley_values
from ..model.missing_modalities import all_present
from ..model.modeling import MultimodalOutput
from ..training.prototype_terms import PrototypeTerms
from .gradient_scaling import GradientScalingTrainer, GradientScalingTrainingArguments
from .method_checks import require_fusion_head


STATE_NAME = "agm_losses.safetensors"


@dataclass
class AGMTrainingArguments(GradientScalingTrainingArguments):
    """
    Arguments of [`AGMTrainer`]. The class adds `agm_alpha` to [`GradientScalingTrainingArguments`].

    Args:
        agm_alpha (`float`, *optional*, defaults to `1.0`): alpha, the strength of the modulation; at least 0.

    Raises:
        ValueError: if a value is outside its range.
    """

    agm_alpha: float = field(default=1.0, metadata={"help": "alpha of AGM: the strength of the modulation."})

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least(0, "agm_alpha")

    def hp_space(self, trial: Any) -> dict[str, Any]:
        """Add `agm_alpha` from 0.1 to 10."""
        return super().hp_space(trial) | {"agm_alpha": trial.suggest_float("agm_alpha", 0.1, 10.0, log=True)}

    @property
    def hyper_parameters(self) -> dict[str, object]:
        return {"α, strength of the modulation": self.agm_alpha} | super().hyper_parameters


class AGMTrainer(GradientScalingTrainer):
    """
    Trainer that scales the gradient of each encoder by exp(-alpha (r^m - tau^m)).

    The response of modality m is its Shapley value: its contribution to the fused logits, over all subsets of
    modalities. s^m is the cross entropy of that response. r^m = exp((mean of s^l over l != m) - s^m) measures the lead
    of m over the other modalities in this batch. tau^m is its average lead: the same formula, applied to the averages
    of s over all earlier batches.

    Deviations from the paper and its code:

    * A modality is removed by replacing its embedding with its learned vector (attention masks it), so no encoder runs
      again. The authors feed zeros to the encoder. As in their code, a sample without any of its modalities has logits
      of zero.
    * The scale applies to the whole gradient that an encoder gets from the fused loss. The code scales the gradient of
      each response, which also reaches the head. For the encoders, both are the same if the head adds up its modalities
      (concat, sum). For the other heads they differ, and this package uses the simpler reading.
    * The modulation lasts for the whole training; in the code it ends after 20 epochs by default. The first batch is
      not scaled, because no batch precedes it. Exponents are clipped at 20; the code has bounds for each dataset.
    * Responses are computed in training mode; the code computes some in evaluation mode.

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
        # (2, M): sums of s^m over the earlier batches that have modality m, and the number of these batches
        self.loss_sums: torch.Tensor | None = None

    def on_new_model(self, model: nn.Module) -> None:
        """Prepare the model. Raises `ValueError` if its fusion head cannot be run again."""
        super().on_new_model(model)
        require_fusion_head(self, model)

    def gradient_scales(self, terms: PrototypeTerms, outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        """The scales (M,) of [`agm_scales`], or ones in the first batch. Adds the losses of the batch to the sums."""
        losses, counts = self.response_losses(outputs, labels)
        batch_sums = torch.stack([losses, torch.ones_like(losses)]) * (counts > 0)
        previous = self.loss_sums
        self.loss_sums = batch_sums if previous is None else previous + batch_sums
        if previous is None:
            return torch.ones_like(losses)
        average = previous[0] / previous[1].clamp(min=1)
        known = (counts > 0) & (previous[1] > 0)
        return agm_scales(losses, average, self.args.agm_alpha, known)

    def response_losses(self, outputs: MultimodalOutput, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The mean cross entropy s^m (M,) of each response over the samples that count, of all processes, and the number
        (M,) of these samples.
        """
        model, names = self.unwrapped_model, self.modalities
        present = outputs.present or all_present(names, labels)

        def logits_of(subset: tuple[bool, ...]) -> torch.Tensor:
            masks = {name: present[name] & included for name, included in zip(names, subset, strict=True)}
            logits = outputs.logits if all(subset) else model.fuse(outputs.embeddings, masks)
            has_some = torch.stack([*masks.values()]).any(0)  # (B,)
            return torch.where(has_some[:, None], logits.float(), 0).flatten()

        responses = shapley_values(logits_of, len(names)).view(len(names), *outputs.logits.shape)  # (M, B, K)
        losses = torch.stack([model.loss_of(response, labels, reduction="none") for response in responses])  # (M, B)
        return self.global_means(losses, outputs, labels)

    def save_method_state(self, folder: str) -> None:
        """Save the sums of the losses."""
        super().save_method_state(folder)
        if self.loss_sums is not None and self.args.should_save:
            save_file({"loss_sums": self.loss_sums}, os.path.join(folder, STATE_NAME))

    def load_method_state(self, checkpoint: str | None) -> None:
        """Restore the sums of the losses from a checkpoint, or start without any."""
        super().load_method_state(checkpoint)
        self.loss_sums = None
        file = os.path.join(checkpoint or "", STATE_NAME)
        if checkpoint is not None and os.path.isfile(file):
            self.loss_sums = load_file(file)["loss_sums"].to(self.args.device)


def agm_scales(
    losses: torch.Tensor, average: torch.Tensor, alpha: float, known: torch.Tensor | None = None
) -> torch.Tensor:
    """
    The gradient scales exp(-alpha (r^m - tau^m)) (Eqs. 8 to 10 of Li et al. 2023).

    Args:
        losses (`torch.Tensor`): (M,), s^m of this batch.
        average (`torch.Tensor`): (M,), the averages of s^m over the earlier batches.
        alpha (`float`): at least 0.
        known (`torch.Tensor`, *optional*): (M,) bool, the modalities that have losses; all by default. The other
            modalities get scale 1 and are left out of the leads.

    Returns:
        `torch.Tensor`: (M,), in [0, exp(alpha tau^m)].
    """
    known = torch.ones_like(losses, dtype=torch.bool) if known is None else known
    num_others = (known.sum() - 1).clamp(min=1)

    both = torch.where(known, torch.stack([average, losses]), 0)  # (2, M)
    others = (both.sum(1, keepdim=True) - both) / num_others
    average_lead, lead = (others - both).clamp(max=20).exp()
    scales = (alpha * (average_lead - lead)).clamp(max=20).exp()
    return torch.where(known & (known.sum() > 1), scales, 1)
