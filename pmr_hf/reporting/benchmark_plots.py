"""The plots of `examples/benchmark.py`: curves over training, and metrics over the values of a varied argument."""

import json
import statistics
from itertools import cycle
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..model.targets import MODALITY_METRIC, REGRESSION
from .benchmark_table import Result, Rows, modalities_of, problem_of, rows_of
from .dynamics import scale_for_ratio


Panel = tuple[str, str]  # the key that is plotted, and the title
Curve = dict[float, float]  # a value by epoch


# ---- Curves over training ----


def plot_curves(folder: Path, fusion: str, results: list[Result]) -> None:
    """
    Write `curves-<fusion>.png`, with a panel for each value that the runs logged and a line for each method.

    The panels show the validation accuracy of the fused logits and of each prototype classifier, and for two modalities
    the imbalance ratio (Figs. 2a and 4a to 4c of the paper). If `gradient_cosine_steps` was set, they also show the
    cosine between the unimodal and the fused gradients (Fig. 2c). With several labels, micro F1 takes the place of
    accuracy. In a regression, the mean absolute error of the fused model is the only panel. A line is the mean over
    the seeds, and a band is their range.
    """
    groups = {method: group for (head, method), group in rows_of(results).items() if head in (fusion, "none")}
    panels = _panels_of_curves(folder, [result for group in groups.values() for result in group])
    styles = [(color, style) for style in ("-", "--", ":") for color in matplotlib.color_sequences["tab10"]]
    styles = dict(zip(groups, cycle(styles), strict=False))
    high = 1 if len(panels) <= 4 else 2
    wide = -(-len(panels) // high)
    figure = Figure(figsize=(4.3 * wide, 3.6 * high + 0.6), layout="constrained")
    for place, (key, title) in enumerate(panels, 1):
        axes = figure.add_subplot(high, wide, place)
        for method, group in groups.items():
            _plot_curve(axes, method, [curve_of(folder / result["name"], key) for result in group], *styles[method])
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if key == "rho":
            scale_for_ratio(axes)
        elif problem_of(results) == REGRESSION:
            axes.set_ylim(bottom=0)
        else:
            axes.set_ylim(-1.02 if key.endswith("cosine") else 0, 1.02)
    _add_legend(figure, max_columns=6)
    figure.savefig(folder / f"curves-{fusion}.png", dpi=110)


def _panels_of_curves(folder: Path, results: list[Result]) -> list[Panel]:
    """The panels for which at least one of the runs logged values."""
    names = modalities_of(results)
    metric = MODALITY_METRIC[problem_of(results)]
    panels = [(f"eval_{metric}", "fused")]
    panels += [(f"eval_{name}_prototype_{metric}", f"{name} alone") for name in names]
    panels += [("rho", f"ratio ρ = {names[0]} / {names[1]}")] if len(names) == 2 else []
    panels += [(f"{name}_gradient_cosine", f"{name}: cosine to the fused gradient") for name in names]
    runs = [folder / result["name"] for result in results]
    return [(key, title) for key, title in panels if any(curve_of(run, key) for run in runs)]


def _plot_curve(axes: Axes, method: str, curves: list[Curve], color: tuple[float, float, float], style: str) -> None:
    """Plot the mean and the range of the runs' curves, over the epochs that all of them have."""
    curves = [curve for curve in curves if curve]
    epochs = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    if epochs:
        values = np.array([[curve[epoch] for epoch in epochs] for curve in curves])
        axes.plot(epochs, values.mean(0), style, label=method, color=color)
        axes.fill_between(epochs, values.min(0), values.max(0), color=color, alpha=0.15, lw=0)


def curve_of(run: Path, key: str) -> Curve:
    """The values that a run logged under a key, by epoch. Training values are averaged within each epoch."""
    history = json.loads((run / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    points: dict[float, list[float]] = {}
    for entry in history:
        if key in entry:
            points.setdefault(float(np.ceil(entry["epoch"])), []).append(entry[key])
    if key.startswith("eval_"):  # the last evaluation is a second one of the best epoch
        return {epoch: values[0] for epoch, values in points.items()}
    return {epoch: statistics.mean(values) for epoch, values in points.items()}


# ---- Metrics by the values of an argument ----


def plot_varied(folder: Path, fusion: str, argument: str, results: list[Result]) -> None:
    """
    Write `<argument>-<fusion>.png`, which shows the test accuracy over the values of a varied argument, for the fused
    logits and for each modality, as mean and standard deviation over the seeds. With several labels, it shows the micro
    F1; in a regression, the mean absolute error of the fused model alone. A method without the argument is a
    horizontal line.
    """
    metric, is_regression = MODALITY_METRIC[problem_of(results)], problem_of(results) == REGRESSION
    names = [] if is_regression else modalities_of(results)
    panels = [(f"test_{metric}", "fused"), *((f"{name}_prototype_{metric}", f"{name} alone") for name in names)]
    rows = {row: group for row, group in rows_of(results).items() if row[0] == fusion}
    values = [value for _, method in rows for value in method.partition(f", {argument}=")[2:] if value]
    values = list(dict.fromkeys(values))
    figure = Figure(figsize=(4.3 * len(panels), 3.8), layout="constrained")
    for axes, (key, title) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        for method in dict.fromkeys(method.partition(",")[0] for _, method in rows):
            settings = [f"{method}, {argument}={value}" for value in values]
            _plot_settings(axes, method, settings, fusion, key, rows)
        axes.set(title=title, xlabel=argument, ylim=(0, None if is_regression else 1.02))
        axes.set_xticks(range(len(values)), values)
        axes.grid(alpha=0.3)
    _add_legend(figure)
    figure.savefig(folder / f"{argument}-{fusion}.png", dpi=110)


def _plot_settings(axes: Axes, method: str, settings: list[str], fusion: str, key: str, rows: Rows) -> None:
    points = [_values(rows, fusion, setting, key) for setting in settings]
    places = [place for place, found in enumerate(points) if found]
    unvaried = _values(rows, fusion, method, key)
    if places:
        means = [statistics.mean(points[place]) for place in places]
        deviations = [statistics.stdev(points[place]) if len(points[place]) > 1 else 0 for place in places]
        axes.errorbar(places, means, deviations, fmt="o-", capsize=3, label=method)
    elif unvaried:
        axes.axhline(statistics.mean(unvaried), color="black", lw=1, ls="--", label=method)


def _values(rows: Rows, fusion: str, method: str, key: str) -> list[float]:
    """The values under a key, of all runs in a row that have the key."""
    return [result[key] for result in rows.get((fusion, method), []) if key in result]


def _add_legend(figure: Figure, max_columns: int | None = None) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    columns = max(1, len(labels) if max_columns is None else min(max_columns, len(labels)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
