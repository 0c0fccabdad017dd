"""On-the-fly gradient modulation (OGM, OGM-GE): scale down the gradient of the dominant modality's encoder."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import TrainerCallback

from ..equations import true_class_probability
from ..model.modeling import MultimodalOutput
from ..model.targets import MULTI_LABEL
from ..training.prototype_terms import PrototypeTerms
from ..training.prototype_trainer import PrototypeTrainer
from .gradient_scaling import GradientScalingTrainer, GradientScalingTrainingArguments
from .method_checks import require_fusion_head


@dataclass
class OGMTrainingArguments(GradientScalingTrainingArguments):
    """
    Arguments of [`OGMTrainer`]. The class adds `ogm_alpha` and `ogm_noise` to
    [`GradientScalingTrainingArguments`].

    Args:
        ogm_alpha (`float`, *optional*, defaults to `0.1`): alpha of Eq. 10, the strength of the modulation; at least
            0. The authors' code has no default, and recommends 0.1 for VGGSound and 0.8 for CREMA-D.
        ogm_noise (`bool`, *optional*, defaults to `False`): add the Gaussian noise of generalization enhancement
            (OGM-GE).

    Raises:
        ValueError: if a value is outside its range.
    """

    ogm_alpha: float = field(default=0.1, metadata={"help": "alpha (Eq. 10 of OGM): the strength of the modulation."})
    ogm_noise: bool = field(default=False, metadata={"help": "Add the Gaussian noise of OGM-GE."})

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least(0, "ogm_alpha")

    def hp_space(self, trial: Any) -> dict[str, Any]:
        """Add `ogm_alpha` from 0.05 to 1. `ogm_noise` stays as given, since OGM-GE is a method of its own."""
        return super().hp_space(trial) | {"ogm_alpha": trial.suggest_float("ogm_alpha", 0.05, 1.0, log=True)}

    @property
    def hyper_parameters(self) -> dict[str, object]:
        return {
            "α, strength of the modulation": self.ogm_alpha,
            "noise of OGM-GE": self.ogm_noise,
        } | super().hyper_parameters


class OGMTrainer(GradientScalingTrainer):
    """
    Trainer that scales the gradient of each encoder by k^m = 1 - tanh(alpha rho^m) where rho^m > 1, else by 1 (Eq. 10).
    rho^m is the score of modality m over the mean score of the others (Eqs. 8, 9). The score is the mean true-class
    probability, computed from the modality's slice of the fusion head.

    With `ogm_noise` (OGM-GE), Gaussian noise is added to the gradient of each encoder parameter (Eqs. 11, 12). The
    noise has the standard deviation of the unscaled gradient.

    Deviations from the paper and its code, which assume two modalities, a head that splits by modality, and
    convolutions:

    * If the head does not split by modality, or for several labels, the scores come from the prototype classifiers.
    * rho^m compares modality m with the mean of the others, which for two modalities is the other one.
    * All parameters of an encoder are modulated, so transformers are covered. The code modulates convolutions only.
      The scale also applies to the projection of the modality and to the learned vector that replaces absent
      embeddings; the noise does not. The scale is at least 1e-6.
    * The noise is drawn once per optimizer step, after gradient clipping, and is the same in all processes. Each
      parameter has one standard deviation, as in the code.
    * With `modulation="update"`, the factor multiplies the noise too. Under Adam, noise that is 1 / k^m times as large
      as the scaled gradient would leave nothing of it.
    * Under gradient accumulation with `modulation="gradient"`, the noise has the standard deviation of the scaled
      gradient over the mean factor: that of the unscaled gradient only if the micro-batches have the same factor.
    * The modulation lasts for the whole training; in the code it ends after 51 of 100 epochs.

    Peng, Wei, Deng, Wang, Hu, "Balanced Multimodal Learning via On-the-fly Gradient Modulation", CVPR 2022.

    Args:
        model (`MultimodalModel`): the model.
        args (`OGMTrainingArguments`): the arguments.
        kwargs: everything else that [`PrototypeTrainer`] takes.
    """

    args_class = OGMTrainingArguments
    description = "Trained with [OGM-GE](https://arxiv.org/abs/2203.15332), which slows the dominant modality down"
    citation = """@inproceedings{peng2022balanced,
    title     = {Balanced Multimodal Learning via On-the-fly Gradient Modulation},
    author    = {Peng, Xiaokang and Wei, Yake and Deng, Andong and Wang, Dong and Hu, Di},
    booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
    year      = {2022},
}"""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.args.ogm_noise:
            self.add_callback(_AddNoise(self))

    def on_new_model(self, model: nn.Module) -> None:
        """Prepare the model. Raises `ValueError` if its fusion head cannot be run again."""
        super().on_new_model(model)
        require_fusion_head(self, model)

    def gradient_scales(self, terms: PrototypeTerms, outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        """The scales (M,) of [`ogm_scales`]."""
        scores, counts = score_of_head(self, terms, outputs, labels)
        return ogm_scales(scores, self.args.ogm_alpha, counts > 0)


def score_of_head(
    trainer: PrototypeTrainer, terms: PrototypeTerms, outputs: MultimodalOutput, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The mean true-class probability (M,) of each modality over the samples that count, of all processes, and the number
    (M,) of these samples. The probabilities are those of the modality's slice of the fusion head, or those of its
    prototype classifier if the head does not split by modality, or for several labels.
    """
    model = trainer.unwrapped_model
    if not model.fusion.splits_by_modality or trainer.problem_type == MULTI_LABEL:
        return terms.scores, terms.score_counts
    logits = model.modality_logits(outputs.embeddings, outputs.present)
    losses = [F.cross_entropy(logits[name].float(), labels, reduction="none") for name in trainer.modalities]
    return trainer.global_means(true_class_probability(torch.stack(losses)), outputs, labels)


def ratios_to_others(scores: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
    """
    The discrepancy ratios rho^m (M,), at least 0: s^m over the mean score of the other modalities (Eq. 9).

    Args:
        scores (`torch.Tensor`): (M,), s^m.
        present (`torch.Tensor`, *optional*): (M,) bool, the modalities that the batch has; all by default. The others
            are left out of the means. Their ratio is 0, as is that of a modality that is alone.
    """
    tiny = torch.finfo(torch.float32).tiny
    present = torch.ones_like(scores, dtype=torch.bool) if present is None else present
    scores = torch.where(present, scores.float().clamp(min=tiny), 0)
    off_diagonal = 1 - torch.eye(len(scores), device=scores.device)
    mean_of_others = (off_diagonal * scores).sum(1) / (present.sum() - 1).clamp(min=1)
    return torch.where(present & (mean_of_others > 0), scores / mean_of_others.clamp(min=tiny), 0)


def ogm_scales(scores: torch.Tensor, alpha: float, present: torch.Tensor | None = None) -> torch.Tensor:
    """
    The gradient scales k^m = 1 - tanh(alpha rho^m) where rho^m > 1, else 1 (Eq. 10 of Peng et al. 2022). rho^m is s^m
    over the mean score of the other modalities.

    Args:
        scores (`torch.Tensor`): (M,), s^m.
        alpha (`float`): at least 0.
        present (`torch.Tensor`, *optional*): (M,) bool, the modalities that the batch has; all by default. The other
            modalities get scale 1 and are left out of the means.

    Returns:
        `torch.Tensor`: (M,), in [1e-6, 1].
    """
    ratios = ratios_to_others(scores, present)
    return torch.where(ratios > 1, (1 - (alpha * ratios).tanh()).clamp(min=1e-6), 1)


class _AddNoise(TrainerCallback):
    """Adds the noise of OGM-GE before each optimizer step. It is the same in all processes and in a resumed run."""

    def __init__(self, trainer: OGMTrainer):
        self.trainer = trainer

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        trainer = self.trainer
        scales = trainer.step_scales.mean
        if args.modulation == "update":  # the gradient is not scaled yet, and the noise is scaled with it
            scales = torch.ones_like(scales)
        generator = torch.Generator(args.device).manual_seed(args.seed + state.global_step)
        for name, scale in zip(trainer.modalities, scales, strict=True):
            for parameter in trainer.unwrapped_model.backbones[name].parameters():
                if parameter.grad is not None:
                    # The standard deviation of the gradient before scaling, if all micro-batches have this scale
                    deviation = parameter.grad.std(correction=0) / scale
                    noise = torch.randn(
                        parameter.shape, generator=generator, device=parameter.device, dtype=parameter.dtype
                    )
                    parameter.grad.add_(deviation * noise)
