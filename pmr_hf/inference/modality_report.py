"""Measure a trained model: its metrics, those of each modality alone, linear probes, and Shapley values."""

from typing import Any

import torch
from datasets import Dataset
from transformers import EvalPrediction

from ..model.fusion import LateFusion
from ..model.modeling import MultimodalModel, MultimodalOutput
from ..model.targets import MODALITY_METRIC, MULTI_LABEL, REGRESSION, SINGLE_LABEL
from ..training.counted_samples import guesses_of
from ..training.metrics import METRIC_NAMES, modality_metrics
from .answers import answer_logits, answered_by_fusion
from .embed import Collator, Embedded, embed
from .linear_probe import PROBE_ROWS, probe_metric
from .shapley import shapley_values


@torch.inference_mode()
def modality_report(
    model: MultimodalModel, collator: Collator, splits: dict[str, Dataset], batch_size: int, seed: int = 0
) -> dict[str, Any]:
    """
    Measure the metrics and shares of a trained model on the `test` split, or on `validation` if there is no test.

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
        * `m_probe_accuracy`, the accuracy of a linear probe on its embeddings, see
          [`~pmr_hf.inference.linear_probe.probe_metric`],
        * `m_share`, its mean Shapley value for the fused probability of the true class, in [-1, 1].

        With several labels, `micro_f1` takes the place of `accuracy` in all names, the fused logits have all metrics of
        [`~pmr_hf.training.metrics.METRIC_NAMES`], and `m_share` is that for the probability of the true value of a
        label, the mean over the labels. In a regression, the metric is `mae`, there are no prototypes and no parts of
        the head, and `m_share` is by how much m lowers the mean absolute error, in the user's units. Several labels and
        regressions also have `m_label_shares`. It has the mean absolute Shapley value of m for the probability of each
        label, in [0, 1], or for the prediction of each target, in the user's units.

        Metrics are computed over the rows that have the modality, and are left out if there are none. The probe is
        left out if all training rows with the modality have the same labels. The shares are left out if the model has a
        single modality.
    """
    problem = model.config.problem
    split = "test" if "test" in splits else "validation"
    train = splits["train"].shuffle(seed=seed).select(range(min(PROBE_ROWS, len(splits["train"]))))
    fitted = embed(model, train, collator, batch_size, "Embedding training rows")
    tested = embed(model, splits[split], collator, batch_size, f"Embedding {split} rows")
    metric, metrics, shares = MODALITY_METRIC[problem], metrics_of(model, tested), shares_of(model, tested)
    first, *others = (name for name in METRIC_NAMES[problem] if name in metrics)
    result = {
        "split": split,
        "modalities": list(tested.embeddings),
        f"test_{first}": metrics[first],
        "answer": model.config.answer,
        **{key: metrics[key] for key in (f"head_{metric}", f"prototypes_{metric}") if key in metrics},
        **{f"test_{name}": metrics[name] for name in others},
    }
    for name, present in tested.present.items():
        if present.any():
            alone = (f"{name}_prototype_{metric}", f"{name}_head_{metric}")
            result |= {key: metrics[key] for key in alone if key in metrics}
            probe = probe_metric(problem, name, fitted, tested)
            if probe is not None:
                result[f"{name}_probe_{metric}"] = probe
        result |= shares.get(name, {})
    return result


def metrics_of(model: MultimodalModel, tested: Embedded) -> dict[str, float]:
    """The metrics of the fused logits, and those of both answers and of each modality alone, as the trainers do."""
    problem, metric = model.config.problem, MODALITY_METRIC[model.config.problem]
    predictions = {"logits": model.fuse(tested.embeddings, tested.present)}
    if model.prototypes is not None:
        head = model.fuse_by_head(tested.embeddings, tested.present)
        prototypes = model.prototypes.answer(tested.embeddings, tested.present)
        predictions[f"head_{metric}"] = guesses_of("", head, None, problem)
        predictions[f"prototypes_{metric}"] = guesses_of("", prototypes, None, problem)
        alone = {"prototype": model.prototypes(tested.embeddings), "head": head_logits(model, tested)}
        masks = MultimodalOutput(present=tested.present)
        predictions |= {
            f"{name}_{classifier}_{metric}": guesses_of(name, logits, masks, problem)
            for classifier, by_modality in alone.items()
            for name, logits in by_modality.items()
        }
    on_cpu = {key: values.float().cpu().numpy() for key, values in predictions.items()}
    return modality_metrics(EvalPrediction(on_cpu, tested.labels.cpu().numpy()), problem_type=problem)


def head_logits(model: MultimodalModel, tested: Embedded) -> dict[str, torch.Tensor]:
    """
    The logits (N, K) of each modality's part of the fusion head, or its answer in late fusion. The dict is empty for
    any other head that does not split by modality, or if the model has a single modality.
    """
    if isinstance(model.fusion, LateFusion) and len(tested.embeddings) > 1:
        return model.unimodal_answers(tested.embeddings, tested.present)
    if not model.fusion.splits_by_modality or len(tested.embeddings) == 1:
        return {}
    return model.modality_logits(tested.embeddings, tested.present)


def shares_of(model: MultimodalModel, tested: Embedded, missing: str = "fused") -> dict[str, dict[str, Any]]:
    """
    The shares of each modality, under their keys in [`modality_report`]. The dict is empty if the model has a single
    modality. `missing` says how incomplete rows are answered, see [`MultimodalPipeline`].
    """
    names, problem = list(tested.embeddings), model.config.problem
    if len(names) == 1:
        return {}

    whole = answered_by_fusion(model, tested.present, tested.labels, missing)

    def answers(taking_part: tuple[bool, ...]) -> torch.Tensor:
        """The probability of each class or label, or the prediction of each target, (N, K)."""
        some = {name: tested.present[name] & takes for name, takes in zip(names, taking_part, strict=True)}
        logits = answer_logits(model, tested.embeddings, some, missing, whole)
        return {SINGLE_LABEL: logits.softmax(1), MULTI_LABEL: logits.sigmoid(), REGRESSION: logits}[problem]

    def goodness(taking_part: tuple[bool, ...]) -> torch.Tensor:
        """The probability of the truth (N,), or (N, K) of several labels; or minus the absolute error (N, R)."""
        found = answers(taking_part)
        if problem == SINGLE_LABEL:
            return found.gather(1, tested.labels[:, None]).squeeze(1)
        return -(found - tested.labels.reshape(found.shape)).abs() + (problem == MULTI_LABEL)

    means = shapley_values(goodness, len(names)).flatten(1).mean(1).tolist()
    shares: dict[str, dict[str, Any]] = {name: {f"{name}_share": mean} for name, mean in zip(names, means, strict=True)}
    if problem != SINGLE_LABEL:
        labels = [model.config.id2label[k] for k in range(model.config.num_labels)]
        for name, sizes in zip(names, shapley_values(answers, len(names)).abs().mean(1).tolist(), strict=True):
            shares[name][f"{name}_label_shares"] = dict(zip(labels, sizes, strict=True))
    return shares
