"""Links between the pages of the documentation."""

import re
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/**/*.md"),
    *ROOT.glob("examples/**/*.md"),
    *ROOT.glob("benchmarks/**/*.md"),
]
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)\s]*)\)")
CODE = re.compile(r"```.*?```", re.DOTALL)


def anchors(file):
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", CODE.sub("", file.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_local_link_leads_to_a_file_and_a_heading(page):
    for link in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = link.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{link}: no such file; correct the link."
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{link}: {file.name} has no such heading; correct the link."
