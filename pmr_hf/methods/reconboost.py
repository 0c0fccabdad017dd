"""ReconBoost: the modalities learn in turns, each from what the others together get wrong."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..model.fusion import ConcatFusion, SumFusion
from ..model.missing_modalities import stack_masks
from ..model.modeling import MultimodalModel
from ..model.targets import MULTI_LABEL
from ..training.arguments import PrototypeTrainingArguments
from ..training.compiled_models import is_compiled
from ..training.prototype_terms import PrototypeTerms
from ..training.prototype_trainer import PrototypeTrainer
from ..training.setup_checks import is_stream
from .dgl import frozen
from .method_checks import require_known_loss, require_model


@dataclass
class ReconBoostTrainingArguments(PrototypeTrainingArguments):
    """
    Arguments of [`ReconBoostTrainer`]. The class adds to [`PrototypeTrainingArguments`] the weights of the terms and
    the lengths of the stages.

    Args:
        reconboost_lambda (`float`, *optional*, defaults to `0.2`): lambda, how much less a sample counts if the other
            modalities already predict its class, in [0, 1]. The authors' scripts have 1 / 5 and 0.25 / 1.
        reconboost_memory (`float`, *optional*, defaults to `0.5`): alpha, the weight of the memory term; at least 0.
        reconboost_epochs (`float`, *optional*, defaults to `1.0`): epochs of the turn of a modality, above 0. The
            authors take 4, in runs of hundreds of epochs.
        reconboost_rectify_epochs (`float`, *optional*, defaults to `1.0`): epochs of joint training after each turn, at
            least 0. The authors take 4.

    Raises:
        ValueError: if a value is outside its range.
    """

    reconboost_lambda: float = field(
        default=0.2, metadata={"help": "lambda of ReconBoost: how much less a sample counts if the others predict it."}
    )
    reconboost_memory: float = field(default=0.5, metadata={"help": "Weight of the memory term of ReconBoost."})
    reconboost_epochs: float = field(default=1.0, metadata={"help": "Epochs of the turn of a modality in ReconBoost."})
    reconboost_rectify_epochs: float = field(
        default=1.0, metadata={"help": "Epochs of joint training after each turn of ReconBoost."}
    )

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.reconboost_lambda <= 1:
            raise ValueError(f"Expected `reconboost_lambda` in [0, 1], got {self.reconboost_lambda}; correct it.")
        self.require_at_least(0, "reconboost_memory", "reconboost_rectify_epochs")
        if self.reconboost_epochs <= 0:
            raise ValueError(f"Expected `reconboost_epochs` above 0, got {self.reconboost_epochs}; correct it.")

    def hp_space(self, trial: Any) -> dict[str, Any]:
        """Add `reconboost_lambda` from 0 to 1."""
        return super().hp_space(trial) | {"reconboost_lambda": trial.suggest_float("reconboost_lambda", 0.0, 1.0)}

    @property
    def hyper_parameters(self) -> dict[str, object]:
        return {
            "λ, how much less known samples count": self.reconboost_lambda,
            "α, weight of the memory term": self.reconboost_memory,
            "epochs of a turn": self.reconboost_epochs,
            "epochs of joint training after it": self.reconboost_rectify_epochs,
        } | super().hyper_parameters


class ReconBoostTrainer(PrototypeTrainer):
    """
    Trainer that lets the modalities learn in turns. The learner of modality m is its encoder, its projection and its
    part of the head, and the fused logits are the sum of the logits of all learners. A stage is the turn of one
    modality k, and then joint training on the fused loss (global rectification).

    In its turn, k minimizes the mean of -(1 - lambda q(y)) log p^k(y) + alpha mean_c (p^k(c) - p^j(c))^2 over the
    samples that have it. p^k is the softmax of its logits, q that of the sum of the logits of all others, and j is the
    modality whose turn was before; q and p^j have no gradient. The second term, memory, is left out of the first turn,
    and of samples that lack j. With several labels, p and q are sigmoids, and the first term is a mean over the labels.
    Training logs contain the mean as `m_boost_loss`, for each modality only in its turns.

    A turn moves neither the other encoders, which are in evaluation mode meanwhile, nor their projections, nor the
    vectors of absent modalities. With the sum head, it does not move the others' linear layers either. The number of
    epochs that have passed determines the turn, so a run that resumes needs no more state.

    The source is the authors' code. Deviations from it:

    * The code computes the memory term without a gradient, so it has no effect. Here it reaches p^k.
    * The code has one head of two layers that all modalities share, and trains it in each turn. Here each modality has
      its own part of a linear head. With a concatenation, the parts are one weight: those of the others get a gradient
      of zero in a turn, but momentum and weight decay still move them.
    * The code has weights of 5 and 1 for the terms of log p^k and divides by the number of classes. Here only the
      ratio of the weights is left, as lambda; the size is that of a cross entropy, and alpha is relative to it.
    * The commands of the code start from encoders that were trained alone; here they are the model's. Without these,
      the first turn of the code has no others, so q is 1. Here q is that of the untrained others.
    * In a turn, the code leaves the others in training mode; here they are in evaluation mode.
    * The code has no absent modalities. Here the vector of an absent modality takes part in q.
    * The code learns a factor of the sum of the logits, and begins each stage with a new optimizer.
    * `class_weights` and label smoothing apply to joint training alone.

    The regularisation of the paper is a KL divergence between p^k and q. The code keeps only its term of the true
    class, which has a lower bound, and so does this class.

    Hua, Xu, Bao, Yang, Huang, "ReconBoost: Boosting Can Achieve Modality Reconcilement", ICML 2024.

    Args:
        model (`MultimodalModel`): the model, with two or more modalities and `fusion="concat"` or `"sum"`.
        args (`ReconBoostTrainingArguments`): the arguments.
        kwargs: everything else that [`PrototypeTrainer`] takes, except `compute_loss_func`.

    Raises:
        ValueError: if the model is not such a [`MultimodalModel`] that classifies, if it is compiled or sharded, for a
            `compute_loss_func`, or for a streaming training set.
    """

    args_class = ReconBoostTrainingArguments
    needs_classes = True
    fusion_heads = (ConcatFusion, SumFusion)
    description = "Trained with [ReconBoost](https://arxiv.org/abs/2405.09321), in which the modalities learn in turns"
    citation = """@inproceedings{hua2024reconboost,
    title     = {{ReconBoost}: Boosting Can Achieve Modality Reconcilement},
    author    = {Hua, Cong and Xu, Qianqian and Bao, Shilong and Yang, Zhiyong and Huang, Qingming},
    booktitle = {International Conference on Machine Learning (ICML)},
    year      = {2024},
}"""

    def on_new_model(self, model: nn.Module) -> None:
        """Prepare the model. Raises `ValueError` if the modalities cannot learn in turns, see the class."""
        name = type(self).__name__
        model = require_model(self, model)
        if not isinstance(model.fusion, self.fusion_heads) or len(model.widths) < 2:
            raise ValueError(
                f"Expected two or more modalities and fusion='concat' or 'sum' for {name}, whose learners are the "
                f"parts of the head, got {list(model.widths)} and {model.config.fusion!r}; choose such a head."
            )
        compiled = self.args.torch_compile or is_compiled(model)
        if compiled or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(
                f"Expected a model in one piece for {name}, since it freezes parts of it in turns, got torch_compile, "
                "FSDP or DeepSpeed; leave these out (DDP works), or use PMRTrainer."
            )
        super().on_new_model(model)

    def check_setup(self) -> None:
        """Raise `ValueError` for a loss or a training set that the method cannot use, see the class."""
        require_known_loss(self)
        if self.train_dataset is not None and is_stream(self.train_dataset):
            raise ValueError(
                "Expected a training set with a length, since turns are counted in epochs, got a "
                f"{type(self.train_dataset).__name__}; pass such a dataset."
            )
        super().check_setup()

    @property
    def turn(self) -> tuple[int, bool]:
        """The number of the stage, from 0, and whether it is in the turn of a modality. If not, all learn jointly."""
        return turn_at(self.state.epoch or 0.0, self.args.reconboost_epochs, self.args.reconboost_rectify_epochs)

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        """A step of `Trainer`, in which everything is frozen that must not move in this turn."""
        stage, alone = self.turn
        name = self.modalities[stage % len(self.modalities)]
        with frozen(parameters_of_others(self.unwrapped_model, name) if alone else ()):
            return super().training_step(*args, **kwargs)

    def method_loss(
        self, loss: torch.Tensor, terms: PrototypeTerms, outputs: Any, labels: torch.Tensor
    ) -> torch.Tensor:
        """The loss of the modality that has its turn, or the fused loss."""
        stage, alone = self.turn
        if not alone:
            return loss
        names = self.modalities
        name, before = names[stage % len(names)], names[(stage - 1) % len(names)]
        shares = self.unwrapped_model.modality_logits(outputs.embeddings, outputs.present)
        shares = {other: logits.float() for other, logits in shares.items()}
        others = torch.stack([logits.detach() for other, logits in shares.items() if other != name]).sum(0)
        multi_label = self.problem_type == MULTI_LABEL
        losses = boosting_losses(shares[name], others, labels, self.args.reconboost_lambda, multi_label)
        counted = dict(zip(names, stack_masks(self.counted_samples(outputs, labels), names, labels), strict=True))
        total, count = torch.where(counted[name], losses, 0).sum(), counted[name].float().sum()
        both = counted[name] & counted[before]
        memory = memory_losses(shares[name], shares[before].detach(), multi_label)
        weight = self.args.reconboost_memory if stage > 0 else 0.0
        total = total + weight * torch.where(both, memory, 0).sum()
        self.track((f"{name}_boost_loss",), total[None], count[None])
        # DDP averages gradients over the processes
        return total * self.accelerator.num_processes / self.accelerator.reduce(count, "sum").clamp(min=1)


def turn_at(epoch: float, turn_epochs: float, joint_epochs: float) -> tuple[int, bool]:
    """The number of the stage, from 0, after this number of epochs, and whether it is in the turn of a modality."""
    stage_epochs = turn_epochs + joint_epochs
    stage = int(epoch / stage_epochs + 1e-9)  # an epoch is a rounded fraction of steps
    return stage, epoch - stage * stage_epochs < turn_epochs * (1 - 1e-9)


def parameters_of_others(model: MultimodalModel, name: str) -> Iterator[nn.Parameter]:
    """The parameters that the turn of the modality `name` must not move."""
    parts = [model.backbones, model.projections]
    parts += [model.fusion.classifiers] if isinstance(model.fusion, SumFusion) else []
    modules = [module for part in parts for other, module in part.items() if other != name]
    return chain(*(module.parameters() for module in [*modules, model.absent, model.unimodal_heads]))


def boosting_losses(
    logits: torch.Tensor, others: torch.Tensor, labels: torch.Tensor, strength: float, multi_label: bool = False
) -> torch.Tensor:
    """
    The losses (B,) -(1 - strength q(y)) log p(y) of a learner, in nats.

    Args:
        logits (`torch.Tensor`): (B, K), those of the learner, whose softmax is p.
        others (`torch.Tensor`): (B, K), the sum of those of the others, whose softmax is q. They get no gradient.
        labels (`torch.Tensor`): (B,) int64 classes, or (B, K) of 0 and 1.
        strength (`float`): lambda, in [0, 1].
        multi_label (`bool`): whether p and q are sigmoids of K labels, over which the loss is a mean.
    """
    if multi_label:
        own, known = (F.binary_cross_entropy_with_logits(z, labels.float(), reduction="none") for z in (logits, others))
    else:
        own, known = (F.cross_entropy(values, labels, reduction="none")[:, None] for values in (logits, others))
    return ((1 - strength * (-known.detach()).exp()) * own).mean(1)


def memory_losses(logits: torch.Tensor, before: torch.Tensor, multi_label: bool = False) -> torch.Tensor:
    """The mean squared differences (B,) between the probabilities of logits (B, K) and of those `before`, (B, K)."""
    own, old = (values.sigmoid() if multi_label else values.softmax(1) for values in (logits, before))
    return (own - old).square().mean(1)
