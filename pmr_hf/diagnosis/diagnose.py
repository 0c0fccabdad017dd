"""`diagnose`: train each modality alone and all jointly for the same steps, and compare what the encoders learn."""

from copy import deepcopy
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PrinterCallback, TrainerCallback, set_seed

from ..data.collator import MultimodalCollator
from ..data.table_values import frames_as_datasets
from ..model.configuration import MultimodalConfig
from ..model.modeling import MultimodalModel
from ..model.targets import MODALITY_METRIC, REGRESSION
from ..training.arguments import PrototypeTrainingArguments
from ..training.constant_answer import constant_guess
from ..training.prototype_trainer import PrototypeTrainer
from ..training.setup_checks import check_rows
from .findings import Diagnosis, ModalityFindings
from .measure import Measured, averaged, difference, measure, row_scores


def diagnose(
    model: MultimodalModel,
    train_dataset: Dataset,
    eval_dataset: Dataset,
    data_collator: MultimodalCollator,
    args: PrototypeTrainingArguments | None = None,
) -> Diagnosis:
    """
    Find out whether a modality stops learning in joint training: train each modality alone and all jointly, for the
    same number of steps with the same arguments, and compare what their encoders learn.

    ```python
    diagnosis = pmr_hf.diagnose(model, ds["train"], ds["validation"], collator, args)
    print(diagnosis)
    diagnosis.save("report")
    ```

    The state of each training at its last step is measured, on the evaluation rows. Prototypes and linear probes are
    taken from training rows. Memory holds up to three models at a time: the given one, and the copies of two trainings.

    Args:
        model (`MultimodalModel`): the model before training. Copies of it are trained; it stays as it is.
        train_dataset (`Dataset | DataFrame`): the training rows.
        eval_dataset (`Dataset | DataFrame`): labelled rows to measure on. Keep the test out of it.
        data_collator (`MultimodalCollator`): turns rows into batches.
        args (`PrototypeTrainingArguments`, *optional*): learning rates, batch size and length of each training, by
            default three epochs. Nothing is saved to its `output_dir`.

    Returns:
        `Diagnosis`: the findings and the verdict.

    Raises:
        TypeError: for arguments, a collator or datasets of another type.
        ValueError: for a model of one modality or of a regression, for rows or labels that the model cannot take, all
            before the first training; for a modality that no evaluation row has or whose
            training rows all have the same labels, and for the errors of [`PrototypeTrainer`].
    """
    names = list(model.widths)
    if len(names) < 2 or model.config.problem == REGRESSION:
        raise ValueError(
            f"Expected a model of at least two modalities that predicts classes or labels, got {names} and "
            f"problem_type={model.config.problem!r}; there is nothing to compare otherwise."
        )
    train, rows = frames_as_datasets(train_dataset), frames_as_datasets(eval_dataset)
    args = args or PrototypeTrainingArguments("outputs/diagnose", num_train_epochs=3)
    _check_inputs(model, train, rows, data_collator, args)
    measured: dict[str, Measured] = {}
    hidden = args.disable_tqdm or args.process_index > 0
    with tqdm(unit="step", disable=hidden) as bar, TemporaryDirectory() as folder:
        progress = _Progress(bar, len(names) + 1)
        for some in [*([name] for name in names), names]:
            bar.set_description("Training all jointly" if len(some) > 1 else f"Training {some[0]} alone")
            set_seed(args.seed)
            trainer = PrototypeTrainer(
                model=_model_of(model, some),
                args=_arguments_of(args, some, folder),
                train_dataset=train,
                data_collator=data_collator.only(some),
                callbacks=[progress],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
            measured["+".join(some)] = measure(trainer.model.eval(), trainer.data_collator, train, rows, args)
    joint = measured.pop("+".join(names))
    ratios, mean = _ratios(trainer.state.log_history, names), averaged(model.config.problem, measured)
    answers = [joint.fused, mean, *(one.fused for one in measured.values())]
    guess = np.broadcast_to(constant_guess(trainer.data_collator, train), joint.labels.shape)
    constant = row_scores(model.config.problem, guess, joint.labels)
    return Diagnosis(
        metric=MODALITY_METRIC[model.config.problem],
        rows=len(rows),
        steps=trainer.state.global_step,
        majority=constant.metric,
        above_majority=difference(max(answers, key=lambda scores: scores.metric), constant),
        joint=joint.fused.metric,
        averaged=mean.metric,
        averaged_above_joint=difference(mean, joint.fused),
        modalities=[findings_of(name, measured[name], joint, ratios[name]) for name in names],
    )


def findings_of(name: str, alone: Measured, joint: Measured, ratios: list[tuple[float, float]]) -> ModalityFindings:
    """Compare a modality alone with all jointly, on the rows that have it."""
    rows = joint.present[name].cpu().numpy()
    answer, joint_answer = alone.fused.of(rows), joint.fused.of(rows)
    return ModalityFindings(
        name=name,
        alone=answer.metric,
        alone_prototypes=alone.prototypes[name].metric,
        alone_probe=alone.probes[name].metric,
        joint_prototypes=joint.prototypes[name].metric,
        joint_probe=joint.probes[name].metric,
        lost_by_prototypes=difference(alone.prototypes[name], joint.prototypes[name]),
        lost_by_probe=difference(alone.probes[name], joint.probes[name]),
        above_joint=difference(answer, joint_answer),
        share=joint.shares[name],
        ratio=float(np.mean([value for _, value in ratios])),
        ratios=ratios,
    )


def _check_inputs(model: MultimodalModel, train: Any, rows: Any, collator: Any, args: Any) -> None:
    """Raise `TypeError` or `ValueError` for what would fail after the first training."""
    expected = {
        "args": (args, PrototypeTrainingArguments, "create them with the same fields"),
        "data_collator": (collator, MultimodalCollator, "give its processor and columns"),
        "train_dataset": (train, Dataset, "give `datasets.Dataset.from_list(rows)`, or a DataFrame"),
        "eval_dataset": (rows, Dataset, "give `datasets.Dataset.from_list(rows)`, or a DataFrame"),
    }
    for name, (value, kind, way_out) in expected.items():
        if not isinstance(value, kind):
            raise TypeError(f"Expected `{name}` of type {kind.__name__}, got {type(value).__name__}; {way_out}.")
    collator = collator.matched(model.config.num_labels, model.config.problem, model.config.id2label)
    check_rows(collator, {"training": train, "evaluation": rows})


class _Progress(TrainerCallback):
    """One bar for the steps of all trainings."""

    def __init__(self, bar: tqdm, trainings: int):
        self.bar, self.trainings = bar, trainings

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar.total = self.trainings * state.max_steps
        self.bar.refresh()

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update()


def _model_of(model: MultimodalModel, names: list[str]) -> MultimodalModel:
    """A model of some of the modalities, with copies of their encoders and a new head."""
    config = model.config
    pooling = config.pooling
    part = MultimodalConfig(
        backbones={name: config.backbones[name] for name in names},
        modalities=names,
        fusion=config.fusion if len(names) > 1 else "concat",
        embedding_dim=config.embedding_dim,
        pooling={name: pooling[name] for name in names if name in pooling} if isinstance(pooling, dict) else pooling,
        normalize_embeddings=config.normalize_embeddings,
        modality_dropout=config.modality_dropout if len(names) > 1 else 0.0,
        initialization=config.initialization,
        problem_type=config.problem_type,
        num_labels=config.num_labels,
        id2label=config.id2label,
        label2id=config.label2id,
    )
    # `lora` is left out: copies of the encoders already have their layers.
    alone = MultimodalModel(part, backbones={name: deepcopy(model.backbones[name]) for name in names})
    alone.channels_last = model.channels_last
    return alone


def _arguments_of(args: PrototypeTrainingArguments, names: list[str], folder: str) -> PrototypeTrainingArguments:
    """The arguments of one training, which saves nothing and logs twenty times."""
    rates = args.modality_learning_rates
    return replace(
        args,
        output_dir=folder,
        freeze=[name for name in args.freeze or [] if name in names] or None,
        modality_learning_rates=rates and {name: rate for name, rate in rates.items() if name in names},
        answer=None,
        prototype_source="subset",
        eval_strategy="no",
        eval_on_start=False,
        metric_for_best_model=None,
        greater_is_better=None,
        save_strategy="no",
        load_best_model_at_end=False,
        push_to_hub=False,
        report_to="none",
        logging_strategy="steps",
        logging_steps=0.05,
        disable_tqdm=True,
    )


def _ratios(history: list[dict[str, Any]], names: list[str]) -> dict[str, list[tuple[float, float]]]:
    """The score of each modality over the highest score, with the epoch, for each entry that has all scores."""
    ratios: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for entry in history:
        if all(f"{name}_score" in entry for name in names):
            highest = max(entry[f"{name}_score"] for name in names)
            for name in names:
                ratios[name].append((entry["epoch"], entry[f"{name}_score"] / highest))
    return ratios
