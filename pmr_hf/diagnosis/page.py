"""The page of a diagnosis: verdict, pictures and table in one HTML file that needs nothing else."""

from html import escape
from itertools import cycle

import matplotlib
from matplotlib.figure import Figure

from ..reporting.dynamics import scale_for_ratio
from ..reporting.html_page import heading, html_page, html_table, picture
from .findings import Diagnosis


BARS = {
    "alone": "trained alone",
    "joint_probe": "joint training, linear probe",
    "joint_prototypes": "joint training, prototypes",
}
SHADES = ("#1b4965", "#62a8c9", "#f2a65a")
VERDICT = """<div class="verdict" style="border-left: .4rem solid {color}; background: #f6f6f4; padding: .1rem 1.2rem">
<p>{sentence}</p><p>{advice}</p></div>"""
LEGEND = """<p><small>{metric} in percent on {rows} evaluation rows. Each model was trained for {steps} steps with the
same arguments. "Lost" is what an encoder has alone minus what it has after joint training. It counts from 5 points on,
if it is at least two of its standard errors, which stand after "±". "Averaged" are the probabilities of the models
alone. "Share" is the mean Shapley value of a modality for the probability of the truth. "Ratio" is its score over that
of the fastest modality, the mean over training.</small></p>"""
COLORS = {"starved": "#c0392b", "ignored": "#d68910", "balanced": "#1e8449", "too short": "#5d6d7e"}


def page_of(diagnosis: Diagnosis) -> str:
    """The page as HTML, with its pictures inside."""
    metric = diagnosis.metric_name
    parts = [
        "<h1>Does a modality stop learning?</h1>",
        VERDICT.format(
            color=COLORS[diagnosis.verdict], sentence=escape(diagnosis.sentence), advice=escape(diagnosis.advice)
        ),
        heading("What each encoder learns"),
        picture(f"Bars: {metric} of each modality alone and after joint training", bars_of(diagnosis)),
        heading("Which modality was ahead during joint training"),
        picture("Lines: score of each modality over the highest score", lines_of(diagnosis)),
        heading("All numbers"),
        html_table(diagnosis.table()),
        LEGEND.format(metric=metric, rows=diagnosis.rows, steps=diagnosis.steps),
    ]
    return html_page(f"Diagnosis of {', '.join(modality.name for modality in diagnosis.modalities)}", parts)


def bars_of(diagnosis: Diagnosis) -> Figure:
    """Three bars for each modality, and lines for the joint model and the most frequent class."""
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    axes = figure.subplots()
    places = range(len(diagnosis.modalities))
    for i, ((field, label), shade) in enumerate(zip(BARS.items(), SHADES, strict=True)):
        heights = [100 * getattr(modality, field) for modality in diagnosis.modalities]
        bars = axes.bar([place + 0.27 * (i - 1) for place in places], heights, 0.25, label=label, color=shade)
        # On white, since a line may cross a number.
        axes.bar_label(bars, fmt="%.0f", fontsize="small", padding=1.5, bbox={"color": "white", "pad": 0.4})
    axes.axhline(100 * diagnosis.joint, color="black", lw=1.2, label="all modalities, jointly")
    axes.axhline(100 * diagnosis.majority, color="gray", lw=1, ls=":", label="most frequent class")
    axes.set_xticks(places, [modality.name for modality in diagnosis.modalities])
    axes.set(ylim=(0, 108), ylabel="percent")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return figure


def lines_of(diagnosis: Diagnosis) -> Figure:
    """The ratio of each modality over the epochs of joint training."""
    figure = Figure(figsize=(8.5, 2.8), layout="constrained")
    axes = figure.subplots()
    for modality, color in zip(diagnosis.modalities, cycle(matplotlib.color_sequences["tab10"]), strict=False):
        axes.plot(*zip(*modality.ratios, strict=True), marker=".", label=modality.name, color=color)
    scale_for_ratio(axes)
    axes.set(xlabel="epoch", ylabel="score / highest score")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return figure
