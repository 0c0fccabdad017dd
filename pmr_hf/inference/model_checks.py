"""Checks before a model is used: all of its weights were loaded, and they are finite."""

import torch

from ..model.modeling import MultimodalModel
from ..model.targets import MULTI_LABEL


def check_weights(model: MultimodalModel) -> None:
    """Raise `ValueError` for weights that the model's files lack, and for weights or prototypes that are not finite."""
    source = model.name_or_path or "the model"
    if model.missing_weights:
        raise ValueError(
            f"Expected all weights of the model in {source}, but these are missing and would be random: "
            f"{some(model.missing_weights)}; give the folder that a finished run saved, or train the model first."
        )
    wrong = [name for name, value in model.named_parameters() if not value.isfinite().all()]
    for name, value in model.named_buffers():
        # A buffer of an encoder may be a mask of -inf.
        bad = ~value.isfinite() if name.startswith(("prototypes.", "target_scale.")) else value.isnan()
        wrong += [name] * bool(bad.any())
    if wrong:
        raise ValueError(
            f"Expected finite weights and prototypes in {source}, got NaN or infinity in {some(wrong)}; load an "
            "earlier checkpoint, or train the model again."
        )


def unseen_modalities(model: MultimodalModel) -> list[str]:
    """The modalities of a classifier that have no prototype of any class or label."""
    several = model.config.problem == MULTI_LABEL
    seen = model.prototypes.known() if several else model.prototypes.stacked_seen()  # (M, K)
    return [name for name, of_modality in zip(model.config.modalities, seen, strict=True) if not of_modality.any()]


def require_prototypes(model: MultimodalModel) -> None:
    """Raise `ValueError` if a modality has no prototypes, which would answer for samples that lack modalities."""
    unseen = unseen_modalities(model)
    if unseen:
        raise ValueError(
            f"Expected prototypes of each modality for samples that lack any, got none of {unseen}; train with "
            "PMRTrainer, or set `missing='fused'`."
        )


def check_scores(scores: torch.Tensor, embeddings: dict[str, torch.Tensor], first: int) -> None:
    """
    Raise `ValueError` if a sample has scores (B, K) or an embedding (B, D_m) that is not finite. The message names the
    sample, counted from `first`, and the modality or the fusion head.
    """
    found = {**embeddings, "": scores}
    finite = {name: values.isfinite().all(1) for name, values in found.items()}
    whole = torch.stack([mask.to(scores.device) for mask in finite.values()]).all(0)
    if whole.all():
        return
    row = int(whole.logical_not().nonzero()[0, 0])
    names = [name for name, mask in finite.items() if not mask[row]]
    where = f"an embedding of {names[0]!r}" if names[0] else "fused scores"
    raise ValueError(
        f"Expected finite numbers for sample {first + row}, counted from 0, got {where} with NaN or infinity; look for "
        "extreme values in this sample, or for a processor or a dtype that is not the one of the training."
    )


def some(names: list[str]) -> str:
    """The first five names, and the number of all if there are more."""
    return ", ".join(names[:5]) + (f", ... ({len(names)} in all)" if len(names) > 5 else "")
