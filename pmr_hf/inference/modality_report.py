"""Measure a trained model: its accuracy, the accuracy of each modality alone, linear probes, and Shapley values."""

from typing import Any

import torch
from datasets import Dataset
from sklearn.metrics import f1_score
from torch.nn import functional as F

from ..equations import true_class_probability
from ..model.modeling import MultimodalModel
from ..model.targets import SINGLE_LABEL
from .linear_probe import PROBE_ROWS, Collator, Embedded, embed, probe_accuracy
from .shapley import shapley_values


@torch.inference_mode()
def modality_report(
    model: MultimodalModel, collator: Collator, splits: dict[str, Dataset], batch_size: int, seed: int = 0
) -> dict[str, Any]:
    """
    Measure the accuracies and shares of a trained model on the `test` split, or on `validation` if there is no test.

    Args:
        model (`MultimodalModel`): the model, in evaluation mode, on the device to use.
        collator (`MultimodalCollator`): turns rows into batches.
        splits (`dict[str, Dataset]`): `train`, and `validation` or `test`.
        batch_size (`int`): rows to embed at a time.
        seed (`int`, *optional*, defaults to `0`): seed for drawing the rows that the linear probes are fitted to.

    Returns:
        `dict[str, Any]`: `split` and `modalities`; `test_accuracy` and `test_macro_f1` of the fused logits;
        `answer`, what gives them; `head_accuracy` and `prototypes_accuracy` of both answers; and for each modality m,
        with accuracies in [0, 1]:

        * `m_prototype_accuracy`, the accuracy of its prototype classifier,
        * `m_head_accuracy`, the accuracy of its part of a fusion head that splits by modality,
        * `m_probe_accuracy`, the accuracy of a linear probe: logistic regression on its embeddings,
        * `m_share`, its mean Shapley value for the fused probability of the true class, in [-1, 1].

        Accuracies are computed over the rows that have the modality, and are left out if there are none. The probe is
        left out if all training rows with the modality have the same class. The share is left out if the model has a
        single modality.

    Raises:
        ValueError: for a model that does not predict one class.
    """
    if model.config.problem != SINGLE_LABEL:
        raise ValueError(
            f"Expected a model that predicts one class, to report its accuracies, got {model.config.problem!r}; read "
            "the metrics of its trainer instead."
        )
    split = "test" if "test" in splits else "validation"
    train = splits["train"].shuffle(seed=seed).select(range(min(PROBE_ROWS, len(splits["train"]))))
    fitted = embed(model, train, collator, batch_size, "Embedding training rows")
    tested = embed(model, splits[split], collator, batch_size, f"Embedding {split} rows")
    guesses = model.fuse(tested.embeddings, tested.present).argmax(1)
    result = {
        "split": split,
        "modalities": list(tested.embeddings),
        "test_accuracy": share_right(guesses, tested.labels),
        "answer": model.config.answer,
        "head_accuracy": share_right(model.fuse_by_head(tested.embeddings, tested.present).argmax(1), tested.labels),
        "prototypes_accuracy": share_right(
            model.prototypes.answer(tested.embeddings, tested.present).argmax(1), tested.labels
        ),
        "test_macro_f1": f1_score(tested.labels.cpu(), guesses.cpu(), average="macro", zero_division=0),
    }
    prototypes, heads, shares = (
        model.prototypes(tested.embeddings),
        head_logits(model, tested),
        shares_of(model, tested),
    )
    for name, present in tested.present.items():
        if present.any():
            labels = tested.labels[present]
            result[f"{name}_prototype_accuracy"] = share_right(prototypes[name].argmax(1)[present], labels)
            if name in heads:
                result[f"{name}_head_accuracy"] = share_right(heads[name].argmax(1)[present], labels)
            if len(fitted.labels[fitted.present[name]].unique()) > 1:
                result[f"{name}_probe_accuracy"] = probe_accuracy(name, fitted, tested)
        if name in shares:
            result[f"{name}_share"] = shares[name]
    return result


def head_logits(model: MultimodalModel, tested: Embedded) -> dict[str, torch.Tensor]:
    """
    The logits (N, K) of each modality's part of the fusion head. The dict is empty if the head does not split by
    modality, or if the model has a single modality.
    """
    if not model.fusion.splits_by_modality or len(tested.embeddings) == 1:
        return {}
    return model.modality_logits(tested.embeddings, tested.present)


def shares_of(model: MultimodalModel, tested: Embedded) -> dict[str, float]:
    """
    The mean Shapley value of each modality for the fused probability of the true class. The dict is empty if the model
    has a single modality.
    """
    names = list(tested.embeddings)
    if len(names) == 1:
        return {}

    def true_class_score(taking_part: tuple[bool, ...]) -> torch.Tensor:
        some = {name: tested.present[name] & takes for name, takes in zip(names, taking_part, strict=True)}
        logits = model.fuse(tested.embeddings, some).float()
        return true_class_probability(F.cross_entropy(logits, tested.labels, reduction="none"))

    shares = shapley_values(true_class_score, len(names)).mean(1)
    return dict(zip(names, shares.tolist(), strict=True))


def share_right(guesses: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of guesses (N,) that equal their labels (N,), in [0, 1]."""
    return (guesses == labels).double().mean().item()
