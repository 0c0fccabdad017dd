"""The page of an evaluation: pictures and tables in one HTML file that needs nothing else."""

from html import escape

from ..model.targets import MULTI_LABEL
from .evaluation import MOST_CELLS, EvaluationReport
from .evaluation_plots import confusion_figure, predictions_figure, reliability_figure, sweep_figure
from .html_page import heading, html_page, html_table, picture


LEGEND = """<p><small>"Alone" is the answer of the model from one modality, measured on the rows that have it;
"prototypes" is that of the modality's prototype classifier. "Share" is the mean Shapley value of a modality for
{truth}. A set of modalities is measured on the rows that have all of them; the others are taken away.</small></p>"""


def page_of(report: EvaluationReport) -> str:
    """The page as HTML, with its pictures inside."""
    parts = [f"<h1>Evaluation on {report.rows} rows</h1>"]
    parts += [part for title, table in report.tables().items() for part in (heading(title), html_table(table))]
    by_subset = picture("Bars: score by which modalities are there", sweep_figure(report))
    parts.insert(parts.index(heading(list(report.tables())[2])) + 1, by_subset)
    if report.targets:
        drawn = picture("Points: predicted over true values", predictions_figure(report))
        parts += [heading("Predicted and true values"), drawn]
    if report.confusion is not None or report.confused:
        whole = report.confusion is not None and len(report.classes) <= MOST_CELLS
        title = "Confusion matrix" if whole else "Most frequent mistakes"
        parts += [heading(title), picture(title, confusion_figure(report))]
    if report.calibration is not None:
        figure = reliability_figure(report.calibration, report.problem_type == MULTI_LABEL)
        parts += [heading("Calibration"), f"<p>{escape(report.calibration_sentence)}</p>"]
        parts.append(picture("Bars: accuracy by confidence", figure))
    truth = "minus the absolute error" if report.targets else "the probability of the truth"
    return html_page("Evaluation", [*parts, LEGEND.format(truth=truth)])
