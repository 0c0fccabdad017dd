"""The frame, the headings, the pictures and the tables of an HTML page that needs no other file."""

import base64
import io
from html import escape

from matplotlib.figure import Figure


FRAME = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
img {{ max-width: 100%; }}
table {{ border-collapse: collapse; width: 100%; }}
td, th {{ padding: .35rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }}
td:first-child, th:first-child {{ text-align: left; overflow-wrap: anywhere; }}
small {{ color: #666; }}
</style>
{body}
</html>
"""


def html_page(title: str, parts: list[str]) -> str:
    """A page of parts in HTML. The title is plain text."""
    return FRAME.format(title=escape(title), body="\n".join(parts))


def heading(text: str) -> str:
    """A heading."""
    return f"<h2>{escape(text)}</h2>"


def picture(alt: str, figure: Figure) -> str:
    """A figure inside the page, as a PNG file in base64. `alt` is the text for who cannot see it."""
    file = io.BytesIO()
    figure.savefig(file, dpi=110, format="png")
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'


def html_table(table: list[list[str]]) -> str:
    """A table, from a header and lines."""
    header, *lines = table
    rows = [f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in header)}</tr>"]
    rows += [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in lines]
    return "<table>\n" + "\n".join(rows) + "\n</table>"
