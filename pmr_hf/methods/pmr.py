"""Prototypical Modal Rebalance (PMR), which adds terms of the class prototypes to the loss."""

from dataclasses import dataclass, field
from typing import Any

import torch

from ..equations import rebalancing_terms
from ..training.arguments import PrototypeTrainingArguments
from ..training.prototype_terms import PrototypeTerms
from ..training.prototype_trainer import PrototypeTrainer


@dataclass
class PMRTrainingArguments(PrototypeTrainingArguments):
    """
    Arguments of [`PMRTrainer`]. The class adds the weights and the duration of the PMR terms to
    [`PrototypeTrainingArguments`].

    Args:
        pmr_alpha (`float`, *optional*, defaults to `1.0`): alpha of Eq. 10, the weight of the prototypical cross
            entropy; at least 0. The paper uses 1 or 2.
        pmr_mu (`float`, *optional*, defaults to `0.01`): mu of Eq. 13, the weight of the entropy regularisation (PER);
            at least 0. The paper uses 1e-2 or 1e-3.
        pmr_entropy_epochs (`float`, *optional*, defaults to `10.0`): E_r of Eq. 13; at least 0. PER is applied while
            epoch < E_r. The paper gives no number.
        pmr_weights (`str`, *optional*, defaults to `"clip"`): `"clip"` for the weights of Eq. 11, or `"hard"` for a
            weight of 1 wherever the weight of Eq. 11 is positive, as in the authors' public code.
        pmr_epochs (`float`, *optional*, defaults to `None`): PMR is applied while epoch < `pmr_epochs`; at least 0.
            After that, training minimizes only the fused loss. By default PMR is applied until the end, as in the
            paper. The authors' code calls this argument `modulation_ends`.

    Raises:
        ValueError: if a value is outside its range.
    """

    pmr_alpha: float = field(
        default=1.0, metadata={"help": "alpha (Eq. 10): weight of the prototypical cross entropy."}
    )
    pmr_mu: float = field(default=0.01, metadata={"help": "mu (Eq. 13): weight of the entropy regularisation, PER."})
    pmr_entropy_epochs: float = field(
        default=10.0, metadata={"help": "E_r (Eq. 13): PER is applied while epoch < E_r."}
    )
    pmr_weights: str = field(
        default="clip",
        metadata={
            "help": "Weights of the PMR terms: 'clip' for those of Eq. 11, 'hard' for 1 where they are positive.",
            "choices": ["clip", "hard"],
        },
    )
    pmr_epochs: float | None = field(
        default=None, metadata={"help": "PMR is applied while epoch < pmr_epochs; by default always."}
    )

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least(0, "pmr_alpha", "pmr_mu", "pmr_entropy_epochs", "pmr_epochs")
        if self.pmr_weights not in ("clip", "hard"):
            raise ValueError(
                f"Expected `pmr_weights` to be 'clip' or 'hard', got {self.pmr_weights!r}; the paper uses 'clip'."
            )

    def hp_space(self, trial: Any) -> dict[str, Any]:
        """Add `pmr_alpha` from 0.25 to 4, `pmr_mu` of 0, 1e-3 or 1e-2, and `pmr_weights`."""
        return super().hp_space(trial) | {
            "pmr_alpha": trial.suggest_float("pmr_alpha", 0.25, 4.0, log=True),
            "pmr_mu": trial.suggest_categorical("pmr_mu", [0.0, 1e-3, 1e-2]),
            "pmr_weights": trial.suggest_categorical("pmr_weights", ["clip", "hard"]),
        }

    @property
    def hyper_parameters(self) -> dict[str, object]:
        return {
            "α, weight of the prototypical cross entropy": self.pmr_alpha,
            "μ, weight of the entropy regularisation": self.pmr_mu,
            "E_r, epochs of entropy regularisation": f"{self.pmr_entropy_epochs if self.pmr_mu else 0:g}",
            "weights of the terms": self.pmr_weights,
            "epochs with PMR": self._epochs_with_pmr,
        } | super().hyper_parameters

    @property
    def _epochs_with_pmr(self) -> str:
        if self.pmr_epochs == 0 or (self.pmr_alpha == 0 and (self.pmr_mu == 0 or self.pmr_entropy_epochs == 0)):
            return "none, so training was joint"
        return "all" if self.pmr_epochs is None else f"{self.pmr_epochs:g}"


class PMRTrainer(PrototypeTrainer):
    """
    Trainer that accelerates the slow modality and holds back the dominant one, using class prototypes (PMR).

    In training, it adds alpha * sum_m a^m PCE^m - mu * sum_m e^m H^m to the loss of `Trainer` (Eqs. 10-13).
    [`~pmr_hf.equations.rebalance_weights`] computes the weights a^m and e^m. [`PrototypeTrainer`] describes the refresh
    of the prototypes and the logs. The logged weights are those that were applied: `m_pce_weight` is 0 with
    `pmr_alpha=0`, `m_per_weight` is 0 with `pmr_mu=0` and from E_r on, and both are 0 from `pmr_epochs` on.

    Deviations from the paper and its code, which assume two modalities:

    * The weights compare each of M modalities with the best and with the worst one. For two, they are those of Eq. 11.
      The code has weights of 1 in their place, as `pmr_weights="hard"`.
    * The rows of a refresh are drawn by class and modality, 20 or more of each if there are so many. The code takes
      training batches, and on CG-MNIST rows of the test.
    * The old prototypes count from the second refresh on (Eq. 12); in the code from the third.
    * Scores are compared over the classes that all modalities have a prototype of. A sample that lacks a modality, or
      whose class has no prototype, counts in no term of the modality.
    * The last epoch is followed by one more refresh, without momentum.

    ```bibtex
    @inproceedings{fan2023pmr,
        title     = {{PMR}: Prototypical Modal Rebalance for Multimodal Learning},
        author    = {Fan, Yunfeng and Xu, Wenchao and Wang, Haozhao and Wang, Junxiao and Guo, Song},
        booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
        year      = {2023},
        eprint    = {2211.07089},
    }
    ```

    Args:
        model (`MultimodalModel | torch.nn.Module`): the model. A model of another class needs
            `embeddings_fn` and [`attach_prototypes`].
        args (`PMRTrainingArguments`): the arguments.
        kwargs: everything else that [`PrototypeTrainer`] takes.
    """

    args_class = PMRTrainingArguments
    applies_weights = True
    needs_classes = True
    description = "Trained with [PMR](https://arxiv.org/abs/2211.07089), which keeps the slow modality learning"

    def rebalance_weights(self, scores: torch.Tensor, present: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The weights a^m and e^m (M,) of Eq. 11, or zeros for a term that is switched off. With `pmr_weights="hard"`,
        positive weights become 1.
        """
        pce_weights, per_weights = super().rebalance_weights(scores, present)
        if self.args.pmr_weights == "hard":
            pce_weights, per_weights = pce_weights.gt(0).float(), per_weights.gt(0).float()
        alpha, mu = self.strengths
        return (
            pce_weights if alpha > 0 else torch.zeros_like(pce_weights),
            per_weights if mu > 0 else torch.zeros_like(per_weights),
        )

    @property
    def strengths(self) -> tuple[float, float]:
        """alpha and mu of the current step. They are 0 while their term is switched off."""
        args, epoch = self.args, self.state.epoch or 0
        if args.pmr_epochs is not None and epoch >= args.pmr_epochs:
            return 0.0, 0.0
        return args.pmr_alpha, args.pmr_mu if epoch < args.pmr_entropy_epochs else 0.0

    def method_loss(
        self, loss: torch.Tensor, terms: PrototypeTerms, outputs: Any, labels: torch.Tensor
    ) -> torch.Tensor:
        """The loss plus alpha * sum_m a^m PCE^m - mu * sum_m e^m H^m (Eqs. 10-13) until `pmr_epochs`, then the loss."""
        alpha, mu = self.strengths
        if alpha == mu == 0:
            return loss
        # The terms are means over the samples that count, of all processes. DDP averages gradients over the processes.
        shares = self.accelerator.num_processes / terms.counts.clamp(min=1)
        return loss + self.loss_scale * rebalancing_terms(
            terms.pce,
            terms.entropy,
            terms.counted,
            shares,
            terms.pce_weights,
            terms.per_weights,
            alpha,
            mu,
        )
