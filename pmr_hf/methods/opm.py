"""On-the-fly prediction modulation (OPM): drop the dominant modality from some samples before the fusion."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..model.missing_modalities import all_present
from ..training.arguments import PrototypeTrainingArguments
from ..training.prototype_terms import PrototypeTerms
from ..training.prototype_trainer import PrototypeTrainer
from .method_checks import require_fusion_head, require_known_loss
from .ogm import ratios_to_others, score_of_head


@dataclass
class OPMTrainingArguments(PrototypeTrainingArguments):
    """
    Arguments of [`OPMTrainer`]. The class adds to [`PrototypeTrainingArguments`] how often a modality is dropped. The
    defaults are those of the authors' script.

    Args:
        opm_base (`float`, *optional*, defaults to `0.5`): q_base, the probability that a modality which hardly
            dominates is dropped, in [0, 1].
        opm_lambda (`float`, *optional*, defaults to `0.5`): lambda, how much the probability grows with the
            discrepancy ratio; at least 0.
        opm_share (`float`, *optional*, defaults to `0.7`): the share of the batches in which modalities are dropped, in
            [0, 1].

    Raises:
        ValueError: if a value is outside its range.
    """

    opm_base: float = field(
        default=0.5, metadata={"help": "q_base of OPM: the probability to drop a modality that hardly dominates."}
    )
    opm_lambda: float = field(
        default=0.5, metadata={"help": "lambda of OPM: how much the probability grows with the discrepancy ratio."}
    )
    opm_share: float = field(
        default=0.7, metadata={"help": "Share of the batches in which OPM drops modalities, in [0, 1]."}
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("opm_base", "opm_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Expected `{name}` in [0, 1], got {getattr(self, name)}; correct it.")
        self.require_at_least(0, "opm_lambda")

    def hp_space(self, trial: Any) -> dict[str, Any]:
        """Add `opm_base` from 0.1 to 0.9."""
        return super().hp_space(trial) | {"opm_base": trial.suggest_float("opm_base", 0.1, 0.9)}

    @property
    def hyper_parameters(self) -> dict[str, object]:
        return {
            "q_base, probability to drop": self.opm_base,
            "λ, growth with the discrepancy ratio": self.opm_lambda,
            "share of the batches": self.opm_share,
        } | super().hyper_parameters


class OPMTrainer(PrototypeTrainer):
    """
    Trainer that drops a dominant modality m from each sample with probability q^m before the fusion, so that the head
    must predict from the others: q^m = q_base (1 + lambda tanh(rho^m - 1)) where rho^m > 1, else 0. rho^m is the
    discrepancy ratio of OGM, the score of modality m over the mean score of the others. Modalities are dropped in a
    share of the batches only, which is drawn batch by batch.

    The seed, the step and the micro-batch determine all draws. They are made for the batch of all processes, so that
    several processes drop what one process does. Training logs contain q^m as `m_drop_probability`, also for batches
    in which nothing is dropped, and `ce_loss` of the fused logits before modalities are dropped.

    Deviations from the paper and its code, which assume two modalities and a concatenation:

    * A learned vector replaces a dropped embedding, as for each missing modality in this package. The code puts zeros
      and divides all embeddings by 1 minus the mean of q^m.
    * A sample never loses its last modality. The code leaves such samples out of the batch.
    * rho^m compares modality m with the mean of the others, which for two modalities is the other one. If the head
      does not split by modality, or for several labels, the scores come from the prototype classifiers.
    * The modulation begins with the first step; in the code it begins after six epochs.

    Wei, Hu, Du, Wen, "On-the-fly Modulation for Balanced Multimodal Learning", TPAMI 2024.

    Args:
        model (`MultimodalModel`): the model.
        args (`OPMTrainingArguments`): the arguments.
        kwargs: everything else that [`PrototypeTrainer`] takes, except `compute_loss_func`.

    Raises:
        ValueError: if the model is not a [`MultimodalModel`] that classifies, for a `compute_loss_func`, or under
            DeepSpeed.
    """

    args_class = OPMTrainingArguments
    needs_classes = True
    description = "Trained with [OPM](https://arxiv.org/abs/2410.11582), which drops the dominant modality at random"
    citation = """@article{wei2024fly,
    title   = {On-the-fly Modulation for Balanced Multimodal Learning},
    author  = {Wei, Yake and Hu, Di and Du, Henghui and Wen, Ji-Rong},
    journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
    year    = {2024},
}"""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._last_draw = (-1, 0)  # the optimizer step and the micro-batch of the last draw

    def on_new_model(self, model: nn.Module) -> None:
        """Prepare the model. Raises `ValueError` if its fusion head cannot be run again."""
        super().on_new_model(require_fusion_head(self, model))

    def check_setup(self) -> None:
        """Raise `ValueError` for a `compute_loss_func`, and for the errors of [`PrototypeTrainer`]."""
        require_known_loss(self)
        super().check_setup()

    def load_method_state(self, checkpoint: str | None) -> None:
        """Begin to draw with the first micro-batch of a step, also after an attempt that failed."""
        super().load_method_state(checkpoint)
        self._last_draw = (-1, 0)

    def method_loss(
        self, loss: torch.Tensor, terms: PrototypeTerms, outputs: Any, labels: torch.Tensor
    ) -> torch.Tensor:
        """The loss of the fused logits without the modalities that are dropped."""
        names = self.modalities
        with torch.no_grad():
            scores, counts = score_of_head(self, terms, outputs, labels)
            probabilities = drop_probabilities(scores, self.args.opm_base, self.args.opm_lambda, counts > 0)
            self.track(tuple(f"{name}_drop_probability" for name in names), probabilities, torch.ones_like(scores))
            before = outputs.present or all_present(names, labels)
            before = torch.stack([before[name] for name in names])
            after = before & (self.draw(len(labels)) >= probabilities[:, None])
            after = torch.where(after.any(0), after, before)  # (M, B)
        present = dict(zip(names, after, strict=True))
        return self.fused_loss(self.unwrapped_model.fuse_by_head(outputs.embeddings, present), labels)

    def draw(self, size: int) -> torch.Tensor:
        """
        Numbers (M, B) in [0, 1), one for each modality of this process's B samples, or 1 in batches in which nothing is
        dropped.
        """
        args, step = self.args, self.state.global_step
        self._last_draw = (step, self._last_draw[1] + 1 if self._last_draw[0] == step else 0)
        number = step * args.gradient_accumulation_steps + self._last_draw[1]  # of the micro-batch in the training
        generator = torch.Generator(args.device).manual_seed(args.seed + number)
        share = torch.rand(1, generator=generator, device=args.device)
        shape = (self.accelerator.num_processes * size, len(self.modalities))
        numbers = torch.rand(shape, generator=generator, device=args.device)
        own = numbers[self.accelerator.process_index * size :][:size].T
        return torch.where(share < args.opm_share, own, 1.0)


def drop_probabilities(
    scores: torch.Tensor, base: float, growth: float, present: torch.Tensor | None = None
) -> torch.Tensor:
    """
    The probabilities q^m = base (1 + growth tanh(rho^m - 1)) where rho^m > 1, else 0, at most 1.

    Args:
        scores (`torch.Tensor`): (M,), s^m.
        base (`float`): q_base, in [0, 1].
        growth (`float`): lambda, at least 0.
        present (`torch.Tensor`, *optional*): (M,) bool, the modalities that the batch has; all by default. The other
            modalities get 0 and are left out of the means.

    Returns:
        `torch.Tensor`: (M,), in [0, 1].
    """
    ratios = ratios_to_others(scores, present)
    return torch.where(ratios > 1, base * (1 + growth * (ratios - 1).tanh()), 0).clamp(max=1)
