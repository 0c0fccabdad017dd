"""`PMRTrainer` adds the terms of Prototypical Modal Rebalance to the loss."""

from typing import Any

import torch

from ..model.equations import rebalancing_terms
from ..training.arguments import PMRTrainingArguments
from ..training.prototype_terms import PrototypeTerms
from ..training.prototype_trainer import PrototypeTrainer


class PMRTrainer(PrototypeTrainer):
    """
    Trainer that accelerates the slow modality and holds back the dominant one with class prototypes (PMR).

    To the loss of plain `Trainer` it adds, while training, alpha * sum_m a^m PCE^m - mu * sum_m e^m H^m (Eqs. 10-13),
    with the weights of [`~pmr_hf.model.equations.rebalance_weights`]. [`PrototypeTrainer`] describes how the prototypes
    are kept and what is logged.

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
        model (`MultimodalModel | torch.nn.Module`): the model. One of another class needs `embeddings_fn` and
            [`attach_prototypes`].
        args (`PMRTrainingArguments`): the arguments.
        kwargs: everything else that [`PrototypeTrainer`] takes.
    """

    args_class = PMRTrainingArguments
    applies_weights = True
    description = "Trained with [PMR](https://arxiv.org/abs/2211.07089), which keeps the slow modality learning"

    def rebalance_weights(self, scores: torch.Tensor, present: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pce_weights, per_weights = super().rebalance_weights(scores, present)
        if self.args.pmr_weights == "hard":
            return pce_weights.gt(0).float(), per_weights.gt(0).float()
        return pce_weights, per_weights

    def method_loss(
        self, loss: torch.Tensor, terms: PrototypeTerms, outputs: Any, labels: torch.Tensor
    ) -> torch.Tensor:
        """The loss, and alpha * sum_m a^m PCE^m - mu * sum_m e^m H^m (Eqs. 10-13), the sums while they act."""
        epoch = self.state.epoch or 0
        if self.args.pmr_epochs is not None and epoch >= self.args.pmr_epochs:
            return loss
        # Means over the samples that count in the global batch; processes average their gradients.
        shares = self.accelerator.num_processes / terms.counts.clamp(min=1)
        mu = self.args.pmr_mu if epoch < self.args.pmr_entropy_epochs else 0.0
        return loss + self.loss_scale * rebalancing_terms(
            terms.pce,
            terms.entropy,
            terms.counted,
            shares,
            terms.pce_weights,
            terms.per_weights,
            self.args.pmr_alpha,
            mu,
        )
