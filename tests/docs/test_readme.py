"""The README's code, as far as it runs without a hub."""

import ast
import re
from pathlib import Path

import pytest
import torch

import pmr_hf
from pmr_hf.model.fusion import FUSIONS, build_fusion


README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS)
def test_each_block_is_python_and_imports_what_exists(code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module == "pmr_hf":
            assert {alias.name for alias in node.names} <= set(pmr_hf.__all__)


def test_the_fusion_head_works():
    (code,) = [block for block in BLOCKS if "@register_fusion" in block]
    exec(code, {})
    head = build_fusion("max", {"image": 3, "text": 2}, num_labels=4)
    FUSIONS.pop("max")
    assert head({"image": torch.ones(5, 3), "text": torch.ones(5, 2)}).shape == (5, 4)


def test_the_defaults_in_the_table_are_the_arguments(tmp_path):
    args = pmr_hf.PMRTrainingArguments(str(tmp_path))
    rows = re.findall(r"^\| `(pmr_\w+|prototype_\w+)` \|[^|]*\| `?\"?([\w.]+)\"?`? \|", README, re.MULTILINE)
    assert len(rows) == 7 and args.prototype_refresh_steps is None
    for name, default in rows:
        value = getattr(args, name)
        assert value == (default if isinstance(value, str) else float(default)), name
