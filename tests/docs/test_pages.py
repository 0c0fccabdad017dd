"""The code of the pages: it is Python, it imports what exists, and the fusion head that is printed works."""

import ast
import re
from pathlib import Path

import pytest
import torch

import pmr_hf
from pmr_hf.model.fusion import FUSIONS, build_fusion


ROOT = Path(__file__).parents[2]
BLOCKS = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}-{index}")
    for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
    for index, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
]


@pytest.mark.parametrize("code", BLOCKS)
def test_each_block_is_python_and_imports_what_exists(code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module == "pmr_hf":
            assert {alias.name for alias in node.names} <= set(pmr_hf.__all__)


def test_the_fusion_head_works():
    page = (ROOT / "docs" / "how_to" / "fusion.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "@register_fusion" in block]
    exec(code, {})
    head = build_fusion("max", {"image": 3, "text": 2}, num_labels=4)
    FUSIONS.pop("max")
    assert head({"image": torch.ones(5, 3), "text": torch.ones(5, 2)}).shape == (5, 4)


def test_the_reference_has_every_public_name():
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    shown = re.findall(r"^::: pmr_hf\.(\w+)$", page, re.MULTILINE)
    assert len(shown) == len(set(shown))
    assert set(shown) == set(pmr_hf.__all__) - {"METHODS", "__version__"}
