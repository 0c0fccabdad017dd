"""Late fusion: unimodal models that are trained apart, and the mean of what they predict."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers.trainer_utils import TrainOutput
from transformers.utils import logging

from ..model.fusion import LateFusion
from ..model.targets import MODALITY_METRIC, REGRESSION
from ..training.arguments import BEST_ANSWER, PrototypeTrainingArguments
from ..training.prototype_terms import PrototypeTerms
from ..training.prototype_trainer import PrototypeTrainer
from ..training.step_scales import modality_parameters
from .method_checks import require_fusion_head, require_known_loss, require_no_dropout
from .unimodal_heads import mean_losses


logger = logging.get_logger(__name__)

VALIDATION = "validation"
LEAST = 1e-6  # lower accuracies and errors count as this one, so that each weight is positive and finite


@dataclass
class LateFusionTrainingArguments(PrototypeTrainingArguments):
    """
    Arguments of [`LateFusionTrainer`]. The class adds `late_fusion_weights` to [`PrototypeTrainingArguments`].

    Args:
        late_fusion_weights (`str`, *optional*, defaults to `"mean"`): the weights of the modalities in the answer:
            `"mean"` for equal ones, or `"validation"` for weights in proportion to the accuracy of each modality on the
            evaluation set; to its micro F1 with several labels, and to one over its mean absolute error in a
            regression.

    Raises:
        ValueError: for another value.
    """

    late_fusion_weights: str = field(
        default="mean",
        metadata={
            "help": "Weights of the modalities in the answer of late fusion: equal, or by their validation accuracy.",
            "choices": ["mean", VALIDATION],
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.late_fusion_weights not in ("mean", VALIDATION):
            raise ValueError(
                f"Expected `late_fusion_weights` to be 'mean' or {VALIDATION!r}, got {self.late_fusion_weights!r}; "
                "correct it."
            )

    @property
    def hyper_parameters(self) -> dict[str, object]:
        return {"weights of the modalities in the answer": self.late_fusion_weights} | super().hyper_parameters


class LateFusionTrainer(PrototypeTrainer):
    """
    Trainer that trains M unimodal models at once, each with its own loss, and answers by the mean of what they predict:
    of the probabilities, or of the numbers of a regression, over the modalities that a sample has.

    The loss is the sum of the unimodal losses. The gradient of each loss reaches its own encoder and its own linear
    layer alone, and is clipped by its own norm, so that SGD and AdamW make the steps of M models trained apart. With
    `late_fusion_weights="validation"`, the mean is weighted. The weights are set from an evaluation once training has
    ended. They are a buffer of the model, and are saved with it.

    Training logs contain `m_ce_loss` for each modality m, or `m_mse_loss` in a regression, and `ce_loss` of the mean,
    which trains nothing. Evaluation adds `m_accuracy`, or the metric of another problem type. With weights by
    validation, the last entry of the log has them as `m_weight`.

    The mean of probabilities is the sum rule of Kittler, Hatef, Duin, Matas, "On Combining Classifiers", TPAMI 1998.
    What differs from M separate runs:

    * All modalities have the same schedule and the same best epoch, which is that of the fused answer with equal
      weights. Apart, each modality would have its own best epoch.
    * The random state is shared, so that dropout draws other numbers.
    * A sample without a modality does not count in the loss of this modality.

    Args:
        model (`MultimodalModel`): the model, with `fusion="late"`.
        args (`LateFusionTrainingArguments`): the arguments.
        kwargs: everything else that [`PrototypeTrainer`] takes, except `compute_loss_func`.

    Raises:
        ValueError: if the model is not a [`MultimodalModel`] with `fusion="late"`, for modality dropout, for a
            `compute_loss_func`, or under DeepSpeed. With weights by validation, without one evaluation set, or for
            `answer="best"`.
    """

    args_class = LateFusionTrainingArguments
    takes_dropout = False
    own_fusion = "late"
    fusion_heads = (LateFusion,)
    description = "Trained by the sum of unimodal losses; the answer is the mean of what the modalities predict"

    def on_new_model(self, model: nn.Module) -> None:
        """Prepare the model. Raises `ValueError` if it has no late fusion, or drops modalities."""
        name, config = type(self).__name__, require_fusion_head(self, model).config
        if not isinstance(model.fusion, self.fusion_heads):
            raise ValueError(
                f"Expected a MultimodalModel with fusion='late' for {name}, got fusion={config.fusion!r}; build it "
                'with `from_backbones(..., fusion="late")`.'
            )
        require_no_dropout(type(self), config.modality_dropout)
        super().on_new_model(model)

    def check_setup(self) -> None:
        """Raise `ValueError` for what the class does not take, and for the errors of [`PrototypeTrainer`]."""
        require_known_loss(self)
        if self.args.late_fusion_weights == VALIDATION:
            if self.train_dataset is not None and (self.eval_dataset is None or isinstance(self.eval_dataset, dict)):
                raise ValueError(
                    f"Expected one evaluation set with late_fusion_weights={VALIDATION!r}, to weigh the modalities, "
                    f"got {type(self.eval_dataset).__name__}; pass one `eval_dataset`, or set 'mean'."
                )
            if self.args.answer == BEST_ANSWER:
                raise ValueError(
                    f"Expected late_fusion_weights='mean' with answer={BEST_ANSWER!r}, which compares answers before "
                    f"the weights are set, got {VALIDATION!r}; leave one of them out."
                )
        super().check_setup()

    def before_training(self, resume: bool) -> None:
        """Weigh all modalities the same until training has ended."""
        super().before_training(resume)
        self.unwrapped_model.fusion.log_weights.zero_()

    def method_loss(
        self, loss: torch.Tensor, terms: PrototypeTerms | None, outputs: Any, labels: torch.Tensor
    ) -> torch.Tensor:
        """The sum of the unimodal losses."""
        answers = self.unwrapped_model.unimodal_answers(outputs.embeddings, outputs.present)
        return mean_losses(self, answers, outputs, labels).sum()

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor:
        """Clip the gradient of each modality by its own norm. `Trainer` calls this method. Returns the norm of all."""
        self.accelerator.unscale_gradients()
        model = self.unwrapped_model
        norms = [
            nn.utils.clip_grad_norm_(
                [*modality_parameters(model, name), *model.fusion.classifiers[name].parameters()],
                self.args.max_grad_norm,
            )
            for name in self.modalities
        ]
        return torch.linalg.vector_norm(torch.stack(norms))

    def modality_predictions(self, outputs: Any) -> dict[str, torch.Tensor]:
        """Add what each modality predicts alone, as `m_accuracy`, or the metric of another problem type."""
        answers = self.unwrapped_model.unimodal_answers(outputs.embeddings, outputs.present)
        return super().modality_predictions(outputs) | self.guesses("", answers, outputs)

    def train(self, *args, **kwargs) -> TrainOutput:
        """Train as [`PrototypeTrainer.train`] does. With weights by validation, set them at the end."""
        result = super().train(*args, **kwargs)
        if self.args.late_fusion_weights == VALIDATION:
            self.weigh_modalities()
        return result

    def weigh_modalities(self) -> dict[str, float]:
        """
        Evaluate the evaluation set, and set the weights of the modalities in the model's answer by it. Returns the
        weights, which sum to 1. A modality that no sample of the set has gets the mean of the others.
        """
        metrics = self.evaluate(metric_key_prefix="weights")
        names, metric = self.modalities, MODALITY_METRIC[self.problem_type]
        known = {name: metrics.get(f"weights_{name}_{metric}") for name in names}
        weights = validation_weights(known, is_error=self.problem_type == REGRESSION)
        log_weights = self.unwrapped_model.fusion.log_weights
        log_weights.copy_(torch.tensor([weights[name] for name in names], dtype=torch.float64).log())
        unknown = [name for name, value in known.items() if value is None]
        if unknown:
            logger.warning(
                f"Expected samples with each modality in the evaluation set, found none with {unknown}, which get the "
                "mean weight of the others; add such samples, or set late_fusion_weights='mean'."
            )
        self.log({f"{name}_weight": weight for name, weight in weights.items()})
        return weights


def validation_weights(values: dict[str, float | None], is_error: bool = False) -> dict[str, float]:
    """
    The weights of modalities, which sum to 1, in proportion to their accuracies.

    Args:
        values (`dict[str, float | None]`): the accuracy in [0, 1] of each modality, or its error of at least 0; `None`
            if it is not known. These modalities get the mean weight of the others.
        is_error (`bool`, *optional*, defaults to `False`): whether the values are errors, whose inverses are taken.

    Returns:
        `dict[str, float]`: the weights, each positive.
    """
    bounded = {name: max(value, LEAST) for name, value in values.items() if value is not None}
    known = {name: 1 / value if is_error else value for name, value in bounded.items()}
    mean = sum(known.values()) / len(known) if known else 1.0
    total = mean * len(values)
    return {name: known.get(name, mean) / total for name in values}
