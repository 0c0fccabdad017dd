"""The table and the plots of `examples/benchmark.py`, from the results of its runs."""

import json
import statistics
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pmr_hf.reporting.dynamics import scale_for_ratio


Result = dict[str, Any]


def write_report(folder: Path, results: list[Result]) -> None:
    """Write `results.jsonl`, `results.md`, and for each fusion head `curves-<fusion>.png` and, of a varied argument,
    `<argument>-<fusion>.png` to a folder."""
    lines = [json.dumps(result, ensure_ascii=False) + "\n" for result in results]
    write_whole(folder / "results.jsonl", "".join(lines))
    (folder / "results.md").write_text(table_of(results), encoding="utf-8")
    fused = [result for result in results if not result["method"].startswith("unimodal")]
    for fusion in sorted({result["fusion"] for result in fused} or {"concat"}):
        plot_curves(folder, fusion, results)
        settings = [
            result["setting"] for result in fused if result["fusion"] == fusion and result["setting"] is not None
        ]
        for argument in sorted({setting.partition("=")[0] for setting in settings}):
            plot_varied(folder, fusion, argument, results)


def write_whole(file: Path, text: str) -> None:
    """All of it or nothing, so that what is there is whole."""
    part = file.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def rows_of(results: list[Result]) -> dict[tuple[str, str], list[Result]]:
    """The runs by fusion and method, those of several seeds together; a varied setting is a part of the method."""
    rows: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        method = result["method"] + ("" if result["setting"] is None else f", {result['setting']}")
        fusion = "none" if result["method"].startswith("unimodal") else result["fusion"]
        rows.setdefault((fusion, method), []).append(result)
    return rows


def modalities_of(results: list[Result]) -> list[str]:
    return list(dict.fromkeys(name for result in results for name in result["modalities"]))


def reference_of(row: tuple[str, str], rows: dict[tuple[str, str], list[Result]]) -> dict[int, Result]:
    """By seed, joint training with the same head and setting, else without one; none for joint training itself."""
    fusion, setting = row[0], rows[row][0]["setting"]
    candidates = [(fusion, f"joint, {setting}"), (fusion, "joint")]
    found = [rows[other] for other in candidates if other in rows and other != row]
    return {result["seed"]: result for result in found[0]} if found else {}


def table_of(results: list[Result]) -> str:
    """Two Markdown tables, of the fused answer and of each modality: mean ± standard deviation over the seeds."""
    names = modalities_of(results)
    splits = " and ".join(sorted({result["split"] for result in results}))
    accuracy = f"{splits} accuracy" + (", selected by" if "validation" in splits else "")
    fused = [["fusion", "method", "seeds", accuracy, "over joint", "macro F1", "time", "memory", "learning rate"]]
    alone = [["fusion", "method"]]
    alone[0] += [f"{name}, {what}" for name in names for what in ("prototypes", "head", "probe", "share")] + ["ratio"]
    rows = rows_of(results)
    for (fusion, method), group in rows.items():
        joint = reference_of((fusion, method), rows)
        pairs = [(result, joint[result["seed"]]) for result in group if result["seed"] in joint]
        gains = [100 * (own["test_accuracy"] - other["test_accuracy"]) for own, other in pairs]
        ahead = sum(gain > 0 for gain in gains)
        over = f"{spread(gains, signed=True)} ({ahead} of {len(gains)} ahead)" if gains else ""
        costs = []
        for key in ("train_seconds", "peak_memory_mib"):
            known = [own[key] / other[key] for own, other in pairs if own[key] and other[key]]
            costs.append(f"{statistics.median(known):.2f}" if known else "")
        rates = ", ".join(sorted({f"{result['learning_rate']:g}" for result in group}))
        grid = group[-1].get("grid", {})
        rates += f" of {', '.join(grid)}" if len(grid) > 1 else ""
        first = [fusion, method, str(len(group)), percent(group, "test_accuracy"), over]
        fused.append([*first, percent(group, "test_macro_f1"), *costs, rates])
        alone.append([fusion, method])
        for name in names:
            for what in ("prototype_accuracy", "head_accuracy", "probe_accuracy"):
                alone[-1].append(percent(group, f"{name}_{what}"))
            alone[-1].append(mean([result[f"{name}_share"] for result in group if f"{name}_share" in result]))
        alone[-1].append(mean([result["rho"] for result in group if result["rho"] is not None]))
    return f"{markdown(fused)}\n{markdown(alone)}"


def markdown(rows: list[list[str]]) -> str:
    header, *others = ["| " + " | ".join(row) + " |\n" for row in rows]
    return "".join([header, "|---" * len(rows[0]) + "|\n", *others])


def mean(values: list[float]) -> str:
    return f"{statistics.mean(values):.2f}" if values else ""


def percent(group: list[Result], key: str) -> str:
    values = [100 * result[key] for result in group if key in result]
    return spread(values) if values else ""


def spread(values: list[float], signed: bool = False) -> str:
    """Mean ± standard deviation of a sample, which one value does not have."""
    mean = f"{statistics.mean(values):+.1f}" if signed else f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def plot_curves(folder: Path, fusion: str, results: list[Result]) -> None:
    """
    Validation accuracy over training, fused and of each modality by its prototypes, for two modalities the ratio (the
    paper's Figs. 2a, 4a to 4c), and where `gradient_cosine_steps` was given the cosine of unimodal and fused gradients
    (Fig. 2c): the mean over seeds, and their range as a band.
    """
    groups = {method: group for (head, method), group in rows_of(results).items() if head in (fusion, "none")}
    names = modalities_of([result for group in groups.values() for result in group])
    panels = [("eval_accuracy", "fused"), *((f"eval_{name}_prototype_accuracy", f"{name} alone") for name in names)]
    panels += [("rho", f"ratio ρ = {names[0]} / {names[1]}")] if len(names) == 2 else []
    panels += [(f"{name}_gradient_cosine", f"{name}: cosine to the fused gradient") for name in names]
    runs = [folder / result["name"] for group in groups.values() for result in group]
    panels = [(key, title) for key, title in panels if any(curve_of(run, key) for run in runs)]
    high = 1 if len(panels) <= 4 else 2
    wide = -(-len(panels) // high)
    figure = Figure(figsize=(4.3 * wide, 3.6 * high + 0.6), layout="constrained")
    styles = [(color, style) for style in ("-", "--", ":") for color in matplotlib.color_sequences["tab10"]]
    styles = dict(zip(groups, cycle(styles), strict=False))
    for place, (key, title) in enumerate(panels, 1):
        axes = figure.add_subplot(high, wide, place)
        for method, group in groups.items():
            curves = [curve_of(folder / result["name"], key) for result in group]
            curves = [curve for curve in curves if curve]
            epochs = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
            if epochs:
                values = np.array([[curve[epoch] for epoch in epochs] for curve in curves])
                color, style = styles[method]
                axes.plot(epochs, values.mean(0), style, label=method, color=color)
                axes.fill_between(epochs, values.min(0), values.max(0), color=color, alpha=0.15, lw=0)
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if key == "rho":
            scale_for_ratio(axes)
        else:
            axes.set_ylim(-1.02 if key.endswith("cosine") else 0, 1.02)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, max(1, len(labels))))
    figure.savefig(folder / f"curves-{fusion}.png", dpi=110)


def plot_varied(folder: Path, fusion: str, argument: str, results: list[Result]) -> None:
    """Test accuracy by the values of an argument, fused and of each modality: mean and deviation over the seeds."""
    names = modalities_of(results)
    panels = [("test_accuracy", "fused"), *((f"{name}_prototype_accuracy", f"{name} alone") for name in names)]
    rows = {method: group for (head, method), group in rows_of(results).items() if head == fusion}
    values = list(dict.fromkeys(value for method in rows for value in method.partition(f", {argument}=")[2:] if value))
    figure = Figure(figsize=(4.3 * len(panels), 3.8), layout="constrained")
    for axes, (key, title) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        for method in dict.fromkeys(method.partition(",")[0] for method in rows):
            groups = [rows.get(f"{method}, {argument}={value}", []) for value in values]
            points = [[result[key] for result in group if key in result] for group in groups]
            places = [place for place, found in enumerate(points) if found]
            means = [statistics.mean(points[place]) for place in places]
            deviations = [statistics.stdev(points[place]) if len(points[place]) > 1 else 0 for place in places]
            if places:
                axes.errorbar(places, means, deviations, fmt="o-", capsize=3, label=method)
            unvaried = [result[key] for result in rows.get(method, []) if key in result]
            if unvaried and not places:  # what does not know the argument
                axes.axhline(statistics.mean(unvaried), color="black", lw=1, ls="--", label=method)
        axes.set(title=title, xlabel=argument, ylim=(0, 1.02))
        axes.set_xticks(range(len(values)), values)
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=max(1, len(labels)))
    figure.savefig(folder / f"{argument}-{fusion}.png", dpi=110)


def curve_of(run: Path, key: str) -> dict[float, float]:
    """What a run logged under a key, by epoch; training logs are averaged within an epoch."""
    history = json.loads((run / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    points: dict[float, list[float]] = {}
    for entry in history:
        if key in entry:
            points.setdefault(float(np.ceil(entry["epoch"])), []).append(entry[key])
    if key.startswith("eval_"):  # the last evaluation is of the best epoch once more
        return {epoch: values[0] for epoch, values in points.items()}
    return {epoch: statistics.mean(values) for epoch, values in points.items()}
