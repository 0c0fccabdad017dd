"""
A hook of MkDocs: equations in $...$ and $$...$$ become MathML, which browsers show without a script or a network.
GitHub renders the same pages by itself.
"""

import re

from latex2mathml.converter import convert


# Code is matched first, so that a dollar of a shell stays one.
CODE = r"^```.*?^```|`[^`\n]+`"
MATH = r"\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$\n]+)\$"
CODE_OR_MATH = re.compile(f"{CODE}|{MATH}", re.DOTALL | re.MULTILINE)
equations = {}  # by page, what stands for each mark in it


def on_page_markdown(markdown, page, **_):
    """Put marks that Markdown leaves alone in place of the equations."""
    found = equations[page.file.src_uri] = []

    def mark(match):
        block, inline = match["block"], match["inline"]
        if block is None and inline is None:
            return match[0]
        found.append(convert(block or inline, display="block" if block else "inline"))
        return f"xEQUATION{len(found) - 1}x"

    return CODE_OR_MATH.sub(mark, markdown)


def on_page_content(html, page, **_):
    """Put the equations in place of their marks."""
    return re.sub(r"xEQUATION(\d+)x", lambda match: equations[page.file.src_uri][int(match[1])], html)
