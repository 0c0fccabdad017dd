"""The pictures of an evaluation: confusion matrix, reliability, and predicted against true values."""

from matplotlib.figure import Figure

from .evaluation import MOST_CELLS, Calibration, EvaluationReport


BLUE, ORANGE = "#1b4965", "#f2a65a"


def confusion_figure(report: EvaluationReport) -> Figure:
    """The confusion matrix, in rows; of more than 20 classes, bars of the 20 most frequent mistakes."""
    if report.confusion is None or len(report.classes) > MOST_CELLS:
        return mistakes_figure(report)
    names = [for_plot(each.name) for each in report.classes]
    size = max(4.0, 0.5 * len(names) + 2.5)
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axes = figure.subplots()
    # Colours are shares of the true class, so that rare classes are seen too.
    shares = [[cell / max(sum(line), 1) for cell in line] for line in report.confusion]
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i, line in enumerate(report.confusion):
        for j, cell in enumerate(line):
            color = "white" if shares[i][j] > 0.5 else "#222"
            axes.text(j, i, str(cell) if cell else "", ha="center", va="center", color=color, fontsize="small")
    slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 3 else {}
    axes.set_xticks(range(len(names)), names, **slanted)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="true")
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    return figure


def mistakes_figure(report: EvaluationReport) -> Figure:
    """Bars of the most frequent mistakes."""
    pairs = report.confused[::-1]
    figure = Figure(figsize=(8.5, 0.28 * len(pairs) + 1.2), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(range(len(pairs)), [rows for *_, rows in pairs], color=BLUE)
    axes.bar_label(bars, fontsize="small")
    axes.set_yticks(range(len(pairs)), [f"{for_plot(true)}, taken for {for_plot(guess)}" for true, guess, _ in pairs])
    axes.set_xlabel("rows")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def reliability_figure(calibration: Calibration, several: bool = False) -> Figure:
    """Accuracy over confidence, by bins, with the line of perfect calibration; below, the samples in each bin."""
    figure = Figure(figsize=(5.2, 5.2), layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = [each for each in calibration.bins if each.samples]
    style = {"align": "edge", "edgecolor": "white", "color": BLUE}
    lows = [each.low for each in filled]
    widths = [each.high - each.low for each in filled]
    axes.bar(lows, [each.accuracy for each in filled], widths, label="accuracy", **style)
    means = [each.confidence for each in filled]
    axes.plot(means, means, "o", color=ORANGE, label="mean confidence")
    axes.plot([0, 1], [0, 1], ls="--", lw=1, color="gray")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share of rows with the label" if several else "accuracy")
    axes.legend(loc="upper left", frameon=False, fontsize="small")
    counts.bar(lows, [each.samples for each in filled], widths, **style)
    counts.set(xlabel="probability of a label" if several else "probability of the best class", ylabel="samples")
    for each in (axes, counts):
        each.spines[["top", "right"]].set_visible(False)
    return figure


def predictions_figure(report: EvaluationReport) -> Figure:
    """Predicted over true values of each target, at most six, with the line of no error."""
    targets = report.targets[:6]
    columns = min(3, len(targets))
    lines = -(-len(targets) // columns)
    figure = Figure(figsize=(3.8 * columns + 0.4, 3.6 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for axes, target in zip(panels, targets, strict=False):
        axes.plot(*zip(*target.pairs, strict=True), ".", ms=4, color=BLUE, alpha=0.6)
        ends = min(map(min, target.pairs)), max(map(max, target.pairs))
        axes.plot(ends, ends, ls="--", lw=1, color="gray")
        axes.set(title=for_plot(target.name), xlabel="true", ylabel="predicted")
        axes.spines[["top", "right"]].set_visible(False)
    for axes in list(panels)[len(targets) :]:
        axes.set_axis_off()
    return figure


def sweep_figure(report: EvaluationReport) -> Figure:
    """A bar for each set of modalities."""
    found = [each for each in report.sweep if each.score is not None][::-1]
    factor = 1 if report.targets else 100
    figure = Figure(figsize=(8.5, 0.28 * len(found) + 1.1), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(range(len(found)), [factor * each.score for each in found], color=BLUE)
    axes.bar_label(bars, [report.number(each.score) for each in found], fontsize="small", padding=3)
    axes.set_yticks(range(len(found)), [for_plot(" + ".join(each.modalities), 50) for each in found])
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("error" if report.targets else "percent")
    axes.margins(x=0.1)
    return figure


def for_plot(name: str, most: int = 24) -> str:
    """A name of at most `most` characters, in which matplotlib reads no formula."""
    return (name if len(name) <= most else f"{name[: most - 1]}…").replace("$", r"\$")
