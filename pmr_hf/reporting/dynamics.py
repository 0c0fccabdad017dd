"""The plot of a run's training dynamics: accuracy, imbalance ratio and weights over training, one panel each."""

from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

from ..equations import imbalance_ratio
from ..model.targets import MODALITY_METRIC, MULTI_LABEL, REGRESSION, SINGLE_LABEL


PLOT_NAME = "training_dynamics.png"
# What the plot shows, by problem type
PLOT_TITLES = {
    SINGLE_LABEL: "Accuracy, imbalance ratio and weights",
    MULTI_LABEL: "Micro F1, imbalance ratio and weights",
    REGRESSION: "Error and loss",
}

Entry = dict[str, Any]  # an entry of a log history


def plot_dynamics(
    log_history: list[Entry],
    modalities: list[str],
    file: str | Path,
    applied: bool = True,
    problem_type: str = SINGLE_LABEL,
) -> None:
    """
    Plot accuracy, imbalance ratio and weights over training, side by side, and save the plot to a PNG file. With
    several labels, the first panel shows micro F1. A regression has two panels, of its error and its loss.

    If the log has gradient scales, the third panel shows them instead of the weights.

    Args:
        log_history (`list[dict]`): `trainer.state.log_history` of a [`PrototypeTrainer`].
        modalities (`list[str]`): names of the modalities, in the order of fusion.
        file (`str | Path`): the PNG file to write.
        applied (`bool`, *optional*, defaults to `True`): whether the loss contained the weighted terms. If not, the
            title says that the weights were only logged.
        problem_type (`str`, *optional*): one of [`~pmr_hf.model.targets.PROBLEM_TYPES`].
    """
    evaluations = evaluations_of(log_history)
    if problem_type == REGRESSION:
        plot_regression(log_history, evaluations, file)
        return
    steps = [entry for entry in log_history if "ce_loss" in entry]
    colors = dict(zip(modalities, cycle(matplotlib.color_sequences["tab10"]), strict=False))
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    accuracy, ratio, weights = figure.subplots(1, 3)

    plot_accuracy(accuracy, evaluations, colors, MODALITY_METRIC[problem_type])
    if len(modalities) == 2:
        plot_ratio_of_two(ratio, steps, modalities)
    else:
        plot_ratios(ratio, steps, colors)
    scaled = [kind for kind in ("gradient", "update") if any(f"{modalities[0]}_{kind}_scale" in step for step in steps)]
    if scaled:
        plot_scales(weights, steps, colors, scaled[0])
    else:
        plot_weights(weights, steps, colors, applied)
    for axes, entries in ((accuracy, evaluations), (ratio, steps), (weights, steps)):
        finish_panel(axes, empty=not entries)
    figure.savefig(file, dpi=110)


def evaluations_of(log_history: list[Entry]) -> list[Entry]:
    """
    The first evaluation at each step, in which those of several evaluation sets are together.
    `load_best_model_at_end` may cause a second one after the last step.
    """
    evaluations: dict[int, Entry] = {}
    for entry in log_history:
        if loss_keys(entry):
            evaluations[entry["step"]] = entry | evaluations.get(entry["step"], {})
    return list(evaluations.values())


def loss_keys(entry: Entry) -> list[str]:
    """The keys of the losses of an evaluation: `eval_loss`, or `eval_<name>_loss` of each of several sets."""
    return [key for key in entry if key.startswith("eval_") and key.endswith("_loss")]


def evaluation_sets(log_history: list[Entry]) -> list[str]:
    """The names of several evaluation sets, `eval_dataset` as a dict. The list is empty for a single set."""
    keys = dict.fromkeys(key for entry in log_history for key in loss_keys(entry))
    return [key.removeprefix("eval_").removesuffix("_loss") for key in keys if key != "eval_loss"]


def plot_regression(log_history: list[Entry], evaluations: list[Entry], file: str | Path) -> None:
    """Plot the validation error of a regression and its training loss, and save the plot."""
    steps = [entry for entry in log_history if "mse_loss" in entry]
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    error, loss = figure.subplots(1, 2)
    plot_line(error, evaluations, "eval_mae", "mean absolute error", color="black")
    plot_line(error, evaluations, "eval_rmse", "root mean square error", color="black", ls="--")
    plot_sets(error, evaluations, "mae")
    error.set_title("Validation error")
    plot_line(loss, steps, "mse_loss", None, color="tab:gray")
    loss.set_title("Training loss, of standardised targets")
    for axes, entries in ((error, evaluations), (loss, steps)):
        finish_panel(axes, empty=not entries)
    figure.savefig(file, dpi=110)


def plot_accuracy(axes: Axes, evaluations: list[Entry], colors: dict[str, Any], metric: str = "accuracy") -> None:
    """
    Plot the validation accuracy, or another metric in [0, 1], of the fused logits and of the prototypes' fused answer,
    and of each modality by its prototype classifier and by its slice of the fusion head.
    """
    plot_line(axes, evaluations, f"eval_{metric}", "all modalities, fused", color="black")
    plot_sets(axes, evaluations, metric)
    sets = evaluation_sets(evaluations)
    plot_line(axes, evaluations, f"eval_prototypes_{metric}", "all modalities, prototypes", color="black", ls="--")
    for name, color in colors.items():
        plot_line(axes, evaluations, f"eval_{name}_prototype_{metric}", f"{name}, prototypes", color=color)
        if name not in sets:  # the key would be that of the set
            plot_line(axes, evaluations, f"eval_{name}_{metric}", f"{name}, slice of the head", color=color, ls=":")
    axes.set(title=f"Validation {'accuracy' if metric == 'accuracy' else 'micro F1'}", ylim=(0, 1.02))


def plot_sets(axes: Axes, evaluations: list[Entry], metric: str) -> None:
    """Plot a metric of the fused logits on each of several evaluation sets, in grays and with marks of their own."""
    sets = evaluation_sets(evaluations)
    for i, (name, mark) in enumerate(zip(sets, cycle("osD^vX"), strict=False)):
        shade = str(0.6 * i / max(len(sets) - 1, 1))
        plot_line(axes, evaluations, f"eval_{name}_{metric}", f"{name}, fused", color=shade, marker=mark, ms=4)


def plot_ratio_of_two(axes: Axes, steps: list[Entry], modalities: list[str]) -> None:
    """Plot the imbalance ratio rho of two modalities (Eq. 8)."""
    plot_line(axes, steps, "rho", None, color="tab:gray")
    axes.set_title(f"Imbalance ratio ρ = {modalities[0]} / {modalities[1]}")
    scale_for_ratio(axes)


def plot_ratios(axes: Axes, steps: list[Entry], colors: dict[str, Any]) -> None:
    """Plot the imbalance ratio of each of M modalities, its score over the lowest score (Eq. 8)."""
    ratios = []
    for entry in steps:
        if all(f"{name}_score" in entry for name in colors):
            scores = torch.tensor([entry[f"{name}_score"] for name in colors])
            ratios.append({"epoch": entry["epoch"], **dict(zip(colors, imbalance_ratio(scores).tolist(), strict=True))})
    for name, color in colors.items():
        plot_line(axes, ratios, name, name, color=color)
    axes.set_title("Imbalance ratio (score / lowest score)")
    scale_for_ratio(axes)


def plot_scales(axes: Axes, steps: list[Entry], colors: dict[str, Any], kind: str) -> None:
    """Plot the factor by which each encoder's gradient or update was multiplied. `kind` is "gradient" or "update"."""
    for name, color in colors.items():
        plot_line(axes, steps, f"{name}_{kind}_scale", name, color=color)
    axes.set(title=f"{kind.capitalize()} scale of each encoder")


def plot_weights(axes: Axes, steps: list[Entry], colors: dict[str, Any], applied: bool) -> None:
    """
    Plot the weights of the PMR terms of each modality (Eq. 11). Of two modalities, the weight that accelerates one may
    also hold the other back in all steps. It is then plotted once.
    """
    one_line = len(colors) == 2 and all(holds_the_other_back(entry, *colors) for entry in steps)
    for name, color in colors.items():
        plot_line(axes, steps, f"{name}_pce_weight", f"{name}, accelerated", color=color)
        if not one_line:
            plot_line(axes, steps, f"{name}_per_weight", f"{name}, held back", color=color, ls=":")
    title = "Weights of the PMR terms (Eq. 11)"
    axes.set(title=title if applied else f"{title}, not applied", ylim=(-0.02, 1.02))


def holds_the_other_back(entry: Entry, first: str, second: str) -> bool:
    """Whether the weight that accelerates each of two modalities is also the weight that holds the other one back."""
    pairs = ((first, second), (second, first))
    return all(entry.get(f"{one}_pce_weight") == entry.get(f"{other}_per_weight") for one, other in pairs)


def plot_line(axes: Axes, entries: Iterable[Entry], key: str, label: str | None, **style) -> None:
    """Plot a line through the values of one key over the epochs, if any entry has the key."""
    points = [(entry["epoch"], entry[key]) for entry in entries if key in entry]
    if points:
        style = {"marker": "." if len(points) < 60 else None} | style
        axes.plot(*zip(*points, strict=True), label=label, **style)


def scale_for_ratio(axes: Axes) -> None:
    """Give a panel a logarithmic axis for the imbalance ratio, and a line at 1, where the modalities are balanced."""
    axes.axhline(1, color="black", lw=0.8, ls="--")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def finish_panel(axes: Axes, empty: bool) -> None:
    """Add what all panels share: the axis of epochs, the grid, and the legend below."""
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if empty:
        axes.text(0.5, 0.5, "no logs", ha="center", transform=axes.transAxes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
