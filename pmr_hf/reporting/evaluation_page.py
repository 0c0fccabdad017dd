"""The page of an evaluation: pictures and tables in one HTML file that needs nothing else."""

from html import escape

from ..model.targets import MULTI_LABEL
from .evaluation import MOST_CELLS, EvaluationReport
from .evaluation_plots import as_base64, confusion_figure, predictions_figure, reliability_figure, sweep_figure


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Evaluation</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
img {{ max-width: 100%; }}
table {{ border-collapse: collapse; width: 100%; }}
td, th {{ padding: .35rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }}
td:first-child, th:first-child {{ text-align: left; overflow-wrap: anywhere; }}
small {{ color: #666; }}
</style>
<h1>Evaluation on {rows} rows</h1>
{parts}
<p><small>"Alone" is the answer of the model from one modality, measured on the rows that have it; "prototypes" is that
of the modality's prototype classifier. "Share" is the mean Shapley value of a modality for {truth}.
A set of modalities is measured on the rows that have all of them; the others are taken away.</small></p>
</html>
"""


def page_of(report: EvaluationReport) -> str:
    """The page as HTML, with its pictures inside."""
    parts = [part for title, table in report.tables().items() for part in (heading(title), html_table(table))]
    by_subset = picture("Bars: score by which modalities are there", as_base64(sweep_figure(report)))
    parts.insert(parts.index(heading(list(report.tables())[2])) + 1, by_subset)
    if report.targets:
        drawn = picture("Points: predicted over true values", as_base64(predictions_figure(report)))
        parts += [heading("Predicted and true values"), drawn]
    if report.confusion is not None or report.confused:
        whole = report.confusion is not None and len(report.classes) <= MOST_CELLS
        title = "Confusion matrix" if whole else "Most frequent mistakes"
        parts += [heading(title), picture(title, as_base64(confusion_figure(report)))]
    if report.calibration is not None:
        figure = reliability_figure(report.calibration, report.problem_type == MULTI_LABEL)
        parts += [heading("Calibration"), f"<p>{escape(report.calibration_sentence)}</p>"]
        parts.append(picture("Bars: accuracy by confidence", as_base64(figure)))
    truth = "minus the absolute error" if report.targets else "the probability of the truth"
    return PAGE.format(rows=report.rows, parts="\n".join(parts), truth=truth)


def heading(title: str) -> str:
    """A heading of HTML."""
    return f"<h2>{escape(title)}</h2>"


def picture(alt: str, png: str) -> str:
    """A picture within the page."""
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{png}">'


def html_table(table: list[list[str]]) -> str:
    """A table of HTML, from a header and lines."""
    header, *lines = table
    rows = [f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in header)}</tr>"]
    rows += [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in lines]
    return "<table>\n" + "\n".join(rows) + "\n</table>"
