"""
An extension of Griffe, which reads docstrings for the reference. In this package they are written as in transformers: a
type stands in backticks, and a name of the package in brackets. These become types and links.
"""

import re
from pathlib import Path

from griffe import Extension


TYPE = re.compile(r"\(`([^`]+)`(, \*optional\*)?(?:, defaults to [^)]*)?\):")
NAME = re.compile(r"\[`(\w+)`\](?![\[(])")
REFERENCE = Path(__file__).parents[1] / "reference.md"
shown = set(re.findall(r"^::: pmr_hf\.(\w+)$", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE))


def link(match):
    return f"[`{match[1]}`][pmr_hf.{match[1]}]" if match[1] in shown else f"`{match[1]}`"


class TransformersDocstrings(Extension):
    def on_object(self, *, obj, **_):
        if obj.docstring:
            text = TYPE.sub(lambda match: f"({match[1]}{', optional' if match[2] else ''}):", obj.docstring.value)
            obj.docstring.value = NAME.sub(link, text)
