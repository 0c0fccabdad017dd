"""Which answer a sample gets: the fused one, or, if it lacks modalities, that of the prototypes of the others."""

import torch

from ..model.missing_modalities import stack_masks
from ..model.modeling import MultimodalModel
from ..model.targets import REGRESSION, SINGLE_LABEL


def answer_logits(
    model: MultimodalModel,
    embeddings: dict[str, torch.Tensor],
    present: dict[str, torch.Tensor],
    missing: str = "fused",
    whole: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    The logits (B, K) in fp32 whose softmax or sigmoid is the answer of a pipeline, or the values of a regression.

    The fused logits are divided by `config.calibration_temperature`. With `missing="prototypes"`, a sample that lacks
    a modality gets the product of the prototype classifiers of the others (Eq. 7), which is not divided. If
    `config.answer` is `"prototypes"`, all samples get the fused answer.

    Args:
        model (`MultimodalModel`): the model, in evaluation mode.
        embeddings (`dict[str, torch.Tensor]`): (B, D_m) by modality.
        present (`dict[str, torch.Tensor]`): (B,) by modality, whether a sample has it.
        missing (`str`, *optional*, defaults to `"fused"`): `"fused"` or `"prototypes"`, see [`MultimodalPipeline`].
        whole (`torch.Tensor`, *optional*): (B,), the samples that get the fused answer whatever `present` says. By
            default, those that have all modalities by `present`.
    """
    fused = model.fuse(embeddings, present).float()
    if model.config.problem == REGRESSION:
        return fused
    fused = fused / model.config.calibration_temperature
    if whole is None or missing == "fused" or model.config.answer == "prototypes":
        whole = answered_by_fusion(model, present, fused, missing)
    if whole.all():
        return fused
    logits = model.prototypes(embeddings)
    if model.config.problem == SINGLE_LABEL:
        logits = {name: values.log_softmax(1) for name, values in logits.items()}
    product = sum(torch.where(present[name][:, None], logits[name], 0) for name in model.config.modalities)
    return torch.where(whole[:, None], fused, product)


def answered_by_fusion(
    model: MultimodalModel, present: dict[str, torch.Tensor], like: torch.Tensor, missing: str
) -> torch.Tensor:
    """Which samples (B,) get the fused answer, to which the temperature applies. `like` has B rows."""
    if missing == "fused" or model.prototypes is None or model.config.answer == "prototypes":
        return torch.ones(len(like), dtype=torch.bool, device=like.device)
    return stack_masks(present, model.config.modalities, like).all(0)
