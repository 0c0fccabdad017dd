"""`evaluate_report`: what a trained model gets right, with which modalities, and how sure it is."""

from itertools import combinations

import numpy as np
import torch
from datasets import Dataset
from transformers import EvalPrediction

from ..inference.answers import answer_logits
from ..inference.calibration import expected_calibration_error, labelled_rows, nll, reliability_bins
from ..inference.embed import Collator, Embedded, embed
from ..inference.modality_report import metrics_of, shares_of
from ..inference.model_checks import require_prototypes
from ..inference.pipeline import MultimodalPipeline
from ..model.modeling import MultimodalModel
from ..model.targets import MODALITY_METRIC, MULTI_LABEL, REGRESSION, SINGLE_LABEL
from ..reporting.evaluation import (
    Bin,
    Calibration,
    ClassScores,
    EvaluationReport,
    ModalityScores,
    SubsetScore,
    TargetScores,
)
from ..training.metrics import modality_metrics
from ..training.multimodal_trainer import MultimodalTrainer
from ..training.prototype_trainer import PrototypeTrainer
from ..training.target_metrics import regression_metrics


BINS = 15
MOST_SWEPT = 6  # of more modalities, not every subset is measured
MOST_SHARED = 10  # shares of more modalities would take more than 1,024 fusions
MOST_CLASSES = 100  # of a confusion matrix
MOST_CONFUSED, MOST_PAIRS = 20, 1000


@torch.inference_mode()
def evaluate_report(
    trainer_or_pipeline: MultimodalTrainer | MultimodalPipeline,
    dataset: Dataset,
    data_collator: Collator | None = None,
) -> EvaluationReport:
    """
    Measure a trained model on labelled rows: its metrics by class and by modality, what it loses when modalities are
    missing, which classes it confuses, and whether its probabilities are calibrated.

    ```python
    report = pmr_hf.evaluate_report(trainer, ds["test"])
    report = pmr_hf.evaluate_report(pipe, ds["test"], collator)
    print(report)
    report.save("report")
    ```

    The encoders run once over the rows, in this process; everything else is computed from their embeddings, with the
    temperature of `pipe.calibrate`. A pipeline answers incomplete samples as its `missing` says. With a trainer, they
    get the fused answer, as in its evaluations.

    Args:
        trainer_or_pipeline (`MultimodalTrainer | MultimodalPipeline`): has the model, and the batch size.
        dataset (`Dataset | DataFrame`): the rows. Those without a label are left out.
        data_collator (`MultimodalCollator`, *optional*): turns rows into batches with labels. Defaults to that of the
            trainer; a pipeline needs one, since it does not know the columns.

    Returns:
        `EvaluationReport`: the findings.

    Raises:
        TypeError: for anything but a trainer or a pipeline.
        ValueError: for the `prototype_dataset` of the trainer, a pipeline without a collator, a model of another class,
            labels of segments, no labelled rows, class names of another order than in the model, and a pipeline with
            `missing="prototypes"` whose model lacks prototypes.
    """
    source = trainer_or_pipeline
    if isinstance(source, MultimodalTrainer):
        model, collator = source.unwrapped_model, data_collator or source.data_collator
        batch_size, missing = source.args.per_device_eval_batch_size, "fused"
        if isinstance(source, PrototypeTrainer):
            source.check_not_of_prototypes(dataset)
    elif not isinstance(source, MultimodalPipeline):
        raise TypeError(
            f"Expected a trainer or a pipeline, got a {type(source).__name__}; give "
            "`MultimodalPipeline(model, processor)` to report on a model."
        )
    else:
        model, collator, batch_size, missing = source.model, data_collator, source.batch_size, source.missing
    if collator is None:
        raise ValueError(
            "Expected a `data_collator` with a pipeline, which knows neither columns nor labels, got none; give "
            "MultimodalCollator(pipe.processor, columns={...}, label=...)."
        )
    if not isinstance(model, MultimodalModel):
        raise ValueError(
            f"Expected a MultimodalModel to report on, got {type(model).__name__}; use trainer.evaluate()."
        )
    if missing == "prototypes" and model.prototypes is not None and len(model.config.modalities) > 1:
        require_prototypes(model)
    training = model.training
    model.eval()
    try:
        found = embed(model, dataset, collator, batch_size, "Embedding rows to evaluate")
        return _report_of(model, _labelled(model, found), missing)
    finally:
        model.train(training)


def _labelled(model: MultimodalModel, found: Embedded) -> Embedded:
    """The rows that have a label."""
    problem = model.config.problem
    if problem == SINGLE_LABEL and found.labels.dim() > 1:
        raise ValueError(
            f"Expected one class for each row, got labels of shape {tuple(found.labels.shape)}; a report takes no "
            "segments, use trainer.evaluate()."
        )
    rows = labelled_rows(problem, found.labels)
    if not rows.any():
        raise ValueError(f"Expected labelled rows, got none among {len(rows)}; give a split with labels.")
    return _rows_of(found, rows)


def _rows_of(found: Embedded, rows: torch.Tensor) -> Embedded:
    """Some of the rows, by a mask (N,)."""
    return Embedded(
        {name: values[rows] for name, values in found.embeddings.items()},
        {name: mask[rows] for name, mask in found.present.items()},
        found.labels[rows],
    )


def _report_of(model: MultimodalModel, found: Embedded, missing: str) -> EvaluationReport:
    problem, names = model.config.problem, [model.config.id2label[k] for k in range(model.config.num_labels)]
    names = [str(name) for name in names]
    logits = answer_logits(model, found.embeddings, found.present, missing)
    on_cpu, labels = logits.cpu().numpy(), found.labels.cpu().numpy()
    metrics = modality_metrics(EvalPrediction({"logits": on_cpu}, labels), problem_type=problem)
    sweep = _sweep(model, found, missing)
    confusion, confused, classes, targets = None, [], [], []
    if problem == SINGLE_LABEL:
        guesses = on_cpu.argmax(1)
        classes = class_scores(guesses, labels, names)
        confusion, confused = confusions(guesses, labels, names)
    elif problem == MULTI_LABEL:
        classes = label_scores(on_cpu, labels, names)
    else:
        targets = target_scores(on_cpu, labels.reshape(on_cpu.shape), names)
    return EvaluationReport(
        problem_type=problem,
        rows=len(labels),
        metrics=metrics,
        modalities=_modalities(model, found, missing, sweep),
        sweep=sweep,
        classes=classes,
        targets=targets,
        confusion=confusion,
        confused=confused,
        calibration=calibration_of(problem, logits, found.labels, model.config.calibration_temperature),
    )


def _sweep(model: MultimodalModel, found: Embedded, missing: str) -> list[SubsetScore]:
    """The score of the answer from each set of modalities, the largest sets first."""
    names, problem = list(found.embeddings), model.config.problem
    sizes = range(len(names), 0, -1) if len(names) <= MOST_SWEPT else (len(names), len(names) - 1, 1)
    scores = []
    for some in (subset for size in sizes for subset in combinations(names, size)):
        rows = torch.stack([found.present[name] for name in some]).all(0)
        score = None
        if rows.any():
            part = _rows_of(found, rows)
            masks = {name: mask & (name in some) for name, mask in part.present.items()}
            logits = answer_logits(model, part.embeddings, masks, missing).cpu().numpy()
            prediction = EvalPrediction({"logits": logits}, part.labels.cpu().numpy())
            score = modality_metrics(prediction, problem_type=problem)[MODALITY_METRIC[problem]]
        scores.append(SubsetScore(list(some), int(rows.sum()), score))
    return scores


def _modalities(
    model: MultimodalModel, found: Embedded, missing: str, sweep: list[SubsetScore]
) -> list[ModalityScores]:
    metric, names = MODALITY_METRIC[model.config.problem], list(found.embeddings)
    by_prototypes = metrics_of(model, found)
    shares = shares_of(model, found, missing) if len(names) <= MOST_SHARED else {}
    alone = {each.modalities[0]: each for each in sweep if len(each.modalities) == 1}
    return [
        ModalityScores(
            name=name,
            rows=alone[name].rows,
            alone=alone[name].score,
            prototypes=by_prototypes.get(f"{name}_prototype_{metric}"),
            share=shares.get(name, {}).get(f"{name}_share"),
        )
        for name in names
    ]


def class_scores(guesses: np.ndarray, labels: np.ndarray, names: list[str]) -> list[ClassScores]:
    """Precision, recall and F1 of each class, from predicted and true classes (N,)."""
    size = len(names)
    hits, true, guessed = (np.bincount(part, minlength=size) for part in (labels[guesses == labels], labels, guesses))
    return [_scores(name, *map(int, counts)) for name, *counts in zip(names, hits, true, guessed, strict=True)]


def label_scores(logits: np.ndarray, labels: np.ndarray, names: list[str]) -> list[ClassScores]:
    """Precision, recall, F1 and average precision of each label, from logits and labels (N, K)."""
    from sklearn.metrics import average_precision_score  # slow to import

    guesses, truth = logits > 0, labels > 0.5
    scores = []
    for k, name in enumerate(names):
        counts = (int((guesses & truth)[:, k].sum()), int(truth[:, k].sum()), int(guesses[:, k].sum()))
        average = float(average_precision_score(truth[:, k], logits[:, k])) if counts[1] else None
        scores.append(_scores(name, *counts, average))
    return scores


def _scores(name: str, hits: int, true: int, guessed: int, average: float | None = None) -> ClassScores:
    return ClassScores(
        name=name,
        rows=true,
        precision=hits / guessed if guessed else None,
        recall=hits / true if true else None,
        f1=2 * hits / (true + guessed) if true + guessed else None,
        average_precision=average,
    )


def confusions(
    guesses: np.ndarray, labels: np.ndarray, names: list[str]
) -> tuple[list[list[int]] | None, list[tuple[str, str, int]]]:
    """The confusion matrix of up to 100 classes, and the most frequent mistakes, of predicted and true classes (N,)."""
    size = len(names)
    cells, counts = np.unique(labels.astype(np.int64) * size + guesses, return_counts=True)
    pairs = [(int(cell // size), int(cell % size), int(rows)) for cell, rows in zip(cells, counts, strict=True)]
    wrong = sorted((pair for pair in pairs if pair[0] != pair[1]), key=lambda pair: -pair[2])[:MOST_CONFUSED]
    confused = [(names[true], names[guess], rows) for true, guess, rows in wrong]
    if size > MOST_CLASSES:
        return None, confused
    matrix = [[0] * size for _ in names]
    for true, guess, rows in pairs:
        matrix[true][guess] = rows
    return matrix, confused


def target_scores(predictions: np.ndarray, targets: np.ndarray, names: list[str]) -> list[TargetScores]:
    """The errors of each target, from predictions and targets (N, R)."""
    kept = np.unique(np.linspace(0, len(targets) - 1, min(MOST_PAIRS, len(targets))).astype(int))
    scores = []
    for r, name in enumerate(names):
        errors = regression_metrics(predictions[:, [r]], targets[:, [r]])
        pairs = list(zip(targets[kept, r].tolist(), predictions[kept, r].tolist(), strict=True))
        scores.append(TargetScores(name, errors["mae"], errors["rmse"], errors.get("r2"), pairs))
    return scores


def calibration_of(problem: str, logits: torch.Tensor, labels: torch.Tensor, temperature: float) -> Calibration | None:
    """The calibration of logits (N, K), which were divided by the temperature already; `None` in a regression."""
    if problem == REGRESSION:
        return None
    if problem == SINGLE_LABEL:
        confidences, guesses = logits.double().softmax(1).max(1)
        right = guesses == labels
    else:
        confidences, right = logits.double().sigmoid().flatten(), labels.flatten() > 0.5
    bins = reliability_bins(confidences.cpu().numpy(), right.cpu().numpy(), BINS)
    loss = nll(problem, logits.double(), labels)
    return Calibration(
        ece=expected_calibration_error(bins),
        nll=loss if np.isfinite(loss) else None,
        temperature=temperature,
        bins=[Bin(i / BINS, (i + 1) / BINS, *each) for i, each in enumerate(bins)],
    )
