"""Disentangled gradient learning (DGL): the fused loss trains the head alone, unimodal losses train the encoders."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..model.missing_modalities import all_present
from ..training.arguments import PrototypeTrainingArguments
from ..training.prototype_terms import PrototypeTerms
from ..training.prototype_trainer import PrototypeTrainer
from .method_checks import require_fusion_head, require_known_loss
from .unimodal_heads import mean_losses


@dataclass
class DGLTrainingArguments(PrototypeTrainingArguments):
    """
    Arguments of [`DGLTrainer`]. The class adds `dgl_alpha` to [`PrototypeTrainingArguments`].

    Args:
        dgl_alpha (`float`, *optional*, defaults to `4.0`): alpha, the weight of the unimodal losses; at least 0. 4 is
            the default of the authors' code. No other loss reaches the encoders, so alpha scales their gradients: under
            SGD it acts like a learning rate, and under Adam it cancels.

    Raises:
        ValueError: if a value is outside its range.
    """

    dgl_alpha: float = field(default=4.0, metadata={"help": "alpha of DGL: the weight of the unimodal losses."})

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least(0, "dgl_alpha")

    def hp_space(self, trial: Any) -> dict[str, Any]:
        """Add `dgl_alpha` from 0.5 to 16."""
        return super().hp_space(trial) | {"dgl_alpha": trial.suggest_float("dgl_alpha", 0.5, 16.0, log=True)}

    @property
    def hyper_parameters(self) -> dict[str, object]:
        return {"α, weight of the unimodal losses": self.dgl_alpha} | super().hyper_parameters


class DGLTrainer(PrototypeTrainer):
    """
    Trainer that minimizes L + alpha sum_m L^m, in which no gradient of the fused loss L reaches the encoders, and no
    gradient of the unimodal losses L^m reaches the fusion head.

    L is the loss of the head on detached embeddings. L^m is the loss of the same head if modality m is the only one.
    Training logs contain it as `m_ce_loss`, or as `m_mse_loss` in a regression.

    Deviations from the paper and its code:

    * An absent modality is replaced by its learned vector, which is zero at first. L alone trains it, in samples that
      lack the modality. The authors put zeros.
    * The projection before the fusion, if there is one, is treated as a part of the encoder.
    * With a FiLM or gated head, the other modalities are absent in L^m too. The authors' code has other heads of these
      names, which it gives the same modality twice for L^m.
    * L^m is a mean over the samples that have the modality. With more than two modalities, all have the same alpha.
    * With the sum head, L^m also has the biases and absent vectors of the others; the code has the layer of m alone.

    Wei, Luo, Luo, "Boosting Multimodal Learning via Disentangled Gradient Learning", ICCV 2025.

    Args:
        model (`MultimodalModel`): the model. It needs no unimodal heads.
        args (`DGLTrainingArguments`): the arguments.
        kwargs: everything else that [`PrototypeTrainer`] takes, except `compute_loss_func`.

    Raises:
        ValueError: if the model is not a [`MultimodalModel`], for a `compute_loss_func`, or under DeepSpeed.
    """

    args_class = DGLTrainingArguments
    description = "Trained with [DGL](https://arxiv.org/abs/2507.10213): unimodal losses for the encoders, the fused "
    description += "loss for the head"
    citation = """@inproceedings{wei2025dgl,
    title     = {Boosting Multimodal Learning via Disentangled Gradient Learning},
    author    = {Wei, Shicai and Luo, Chunbo and Luo, Yang},
    booktitle = {IEEE/CVF International Conference on Computer Vision (ICCV)},
    year      = {2025},
}"""

    def on_new_model(self, model: nn.Module) -> None:
        """Prepare the model. Raises `ValueError` if its fusion head cannot be run again."""
        super().on_new_model(require_fusion_head(self, model))

    def check_setup(self) -> None:
        """Raise `ValueError` for a `compute_loss_func`, and for the errors of [`PrototypeTrainer`]."""
        require_known_loss(self)
        super().check_setup()

    def method_loss(
        self, loss: torch.Tensor, terms: PrototypeTerms | None, outputs: Any, labels: torch.Tensor
    ) -> torch.Tensor:
        """The fused loss of the detached embeddings, and alpha times the sum of the unimodal losses."""
        model, names = self.unwrapped_model, self.modalities
        present = outputs.present or all_present(names, labels)
        with frozen(model.projections.parameters()):
            detached = {name: embedding.detach() for name, embedding in outputs.embeddings.items()}
            fused = self.fused_loss(model.fuse_by_head(detached, present), labels)
        with frozen([*model.fusion.parameters(), *model.absent.parameters()]):
            none = {name: torch.zeros_like(mask) for name, mask in present.items()}
            # The other embeddings are masked. Detached, they get no gradient at all in place of one of zeros.
            logits = {
                name: model.fuse_by_head(detached | {name: outputs.embeddings[name]}, none | {name: present[name]})
                for name in names
            }
        return fused + self.args.dgl_alpha * mean_losses(self, logits, outputs, labels).sum()


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let what is computed inside of this context give no gradient to the parameters."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
