"""The table that `examples/run_pmr.py` prints at the end."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import TrainerState, TrainingArguments

from ..equations import imbalance_ratio
from ..model.targets import MODALITY_METRIC, MULTI_LABEL, REGRESSION, SINGLE_LABEL


CONSTANT = {SINGLE_LABEL: "most frequent class", MULTI_LABEL: "most frequent labels", REGRESSION: "median"}
# What the rows and columns mean. A single modality has no ratio.
SCORE = (
    "alone: by its class prototypes, the mean embedding of each class.\n"
    "score: the probability that the prototypes give to the true class, a mean over training rows."
)
RATIO = "ratio: its score over the lowest score."

Row = tuple[str, dict[str, str]]  # its name, and what stands in each column by the column's name


def method_rows(
    method: str,
    split: str,
    metrics: Mapping[str, float],
    modalities: Sequence[str],
    problem_type: str,
    kept: tuple[str, dict[str, float]],
    seconds: float,
    answer: str | None = None,
) -> list[Row]:
    """
    The rows of a method: its metrics on a split, and below it the score and the ratio of each modality in training. A
    regression has neither modalities that answer alone nor scores.

    Args:
        method (`str`): the name of the method.
        split (`str`): `"test"`, or `"validation"` if there is no test split.
        metrics (`Mapping[str, float]`): the metrics of that evaluation.
        modalities (`Sequence[str]`): the names of the modalities.
        problem_type (`str`): one of [`~pmr_hf.model.targets.PROBLEM_TYPES`].
        kept (`tuple`): the result of [`kept_epoch`].
        seconds (`float`): the time of training.
        answer (`str`, *optional*): what gives the fused answer, `"head"` or `"prototypes"`, if it was chosen.
    """
    metric, prefix = MODALITY_METRIC[problem_type], "test" if split == "test" else "eval"
    epoch, scores = kept
    row = {f"{split} {metric}": f"{metrics[f'{prefix}_{metric}']:.3f}"}
    for name in modalities if problem_type != REGRESSION else []:
        alone = metrics.get(f"{prefix}_{name}_prototype_{metric}")
        row[f"{name} alone"] = "none seen" if alone is None else f"{alone:.3f}"
    row |= {"kept epoch": epoch, "training time": f"{seconds:.0f} s"}
    rows = [(method, row if answer is None else row | {"answer": answer})]
    if scores:
        rows.append(("  score", {f"{name} alone": f"{score:.3f}" for name, score in scores.items()}))
    if len(scores) > 1:
        ratios = imbalance_ratio(torch.tensor(list(scores.values()))).tolist()
        pairs = zip(scores, ratios, strict=True)
        rows.append(("  ratio", {f"{name} alone": f"{ratio:.2f}" for name, ratio in pairs}))
    return rows


def legend(problem_type: str, modalities: int) -> str:
    """What the rows and columns of the table mean. A regression has neither scores nor ratios."""
    if problem_type == REGRESSION:
        return ""
    return f"{SCORE}\n{RATIO}\n" if modalities > 1 else f"{SCORE}\n"


def kept_epoch(state: TrainerState, args: TrainingArguments, modalities: Sequence[str]) -> tuple[str, dict[str, float]]:
    """
    The epoch whose weights a run has kept, such as "12 of 40", and the training score of each modality in the log of
    that epoch, if all modalities have one.
    """
    best = state.best_global_step if args.load_best_model_at_end else None
    step = best or state.global_step
    entries: list[dict[str, Any]] = [entry for entry in state.log_history if entry["step"] <= step]
    epoch = entries[-1]["epoch"] if entries else state.epoch
    keys = {name: f"{name}_score" for name in modalities}
    logs = [entry for entry in entries if set(keys.values()) <= entry.keys()]
    scores = {name: logs[-1][key] for name, key in keys.items()} if logs and modalities else {}
    return f"{epoch:.4g} of {state.num_train_epochs}", scores


def print_table(title: str, rows: Sequence[Row]) -> None:
    """Print a line for each row, below a line with the title and the names of the columns. Rows may lack columns."""
    columns = list(dict.fromkeys(column for _, cells in rows for column in cells))
    widths = {column: max(len(column), *(len(cells.get(column, "")) for _, cells in rows)) for column in columns}
    first = max(24, len(title), *(len(name) + 2 for name, _ in rows))
    print(f"\n{title:<{first}}" + "".join(f"  {column:>{width}}" for column, width in widths.items()))
    for name, cells in rows:
        line = f"  {name:<{first - 2}}" + "".join(
            f"  {cells.get(column, ''):>{width}}" for column, width in widths.items()
        )
        print(line.rstrip())
