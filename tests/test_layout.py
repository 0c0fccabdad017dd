"""The rooms of the package: which may import which, and which files travel with a saved model."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import ViTImageProcessor

import pmr_hf
from pmr_hf import CGMNISTConfig, MultimodalModel, MultimodalProcessor


PACKAGE = Path(pmr_hf.__file__).parent
# By room, the rooms that its files may import from, beside their own
MAY_IMPORT = {
    "model": set(),
    "data": {"model"},
    "training": {"model", "data", "reporting"},
    "methods": {"model", "data", "training", "inference"},
    "reporting": {"model"},
    "inference": {"model", "data", "training"},
    "diagnosis": {"model", "data", "training", "reporting", "inference"},
    "command_line": {"model", "data", "training", "methods", "inference", "reporting"},
}
TRAVELS = {
    "backbones.py",
    "building_limits.py",
    "cg_mnist_encoder.py",
    "channels_last.py",
    "configuration.py",
    "distance.py",
    "exact_sums.py",
    "fp32_buffers.py",
    "fusion.py",
    "hub_card.py",
    "initialization.py",
    "kind_registry.py",
    "kinds.py",
    "label_prototypes.py",
    "lora.py",
    "media.py",
    "media_download.py",
    "media_files.py",
    "media_limits.py",
    "media_values.py",
    "missing_modalities.py",
    "modeling.py",
    "multimodal_processor.py",
    "numeric_encoder.py",
    "numeric_processor.py",
    "pictures.py",
    "pooling.py",
    "processor_checks.py",
    "prototypes.py",
    "sound.py",
    "spectrogram_processor.py",
    "tabular_encoder.py",
    "tabular_kind.py",
    "tabular_processor.py",
    "targets.py",
    "unimodal_models.py",
    "video.py",
}


def imports_of(file):
    """Every import of a file as (level, module): `from ..model.fusion import Fusion` is (2, "model.fusion")."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""
        elif isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)


def test_the_rooms_are_those_that_are_named():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and list(path.glob("*.py"))}
    assert rooms == set(MAY_IMPORT)
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "equations.py", "version.py"}
    filled = {path.parent.name for path in PACKAGE.glob("*/__init__.py") if path.read_text(encoding="utf-8").strip()}
    assert filled == {"methods"}  # the registry


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_go_one_way(room):
    for file in (PACKAGE / room).glob("*.py"):
        for level, module in imports_of(file):
            assert not (level == 0 and module.split(".")[0] == "pmr_hf"), f"{file} imports {module} by its full name"
            assert level < 3, f"{file} imports from above the package"
            if level == 2 and module not in ("equations", "version"):
                assert module.split(".")[0] in MAY_IMPORT[room], f"{file} imports {module}"


def test_the_room_of_the_model_is_closed():
    """transformers follows `from .x import y` alone, within one folder."""
    files = {path.stem for path in (PACKAGE / "model").glob("*.py")}
    for file in (PACKAGE / "model").glob("*.py"):
        for level, module in imports_of(file):
            assert level == 0 or (level == 1 and module in files), f"{file}: level {level}, {module!r}"


def test_all_of_the_room_travels_with_a_saved_model_and_processor_and_nothing_else(tmp_path):
    model = MultimodalModel.from_backbones({"gray": CGMNISTConfig(num_channels=1, hidden_size=4)}, num_labels=2)
    model.save_pretrained(tmp_path)
    MultimodalProcessor({"gray": ViTImageProcessor(do_resize=False)}).save_pretrained(tmp_path)
    travelled = {path.name for path in tmp_path.glob("*.py")} - {"__init__.py"}
    assert travelled == TRAVELS
    assert travelled == {path.name for path in (PACKAGE / "model").glob("*.py")} - {"__init__.py"}


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_what_docstrings_refer_to_exists(file):
    """References such as [`~pmr_hf.model.pooling.pool`]."""
    for module, name in re.findall(r"\[`~(pmr_hf[\w.]*)\.(\w+)`\]", file.read_text(encoding="utf-8")):
        assert hasattr(importlib.import_module(module), name), f"{file} refers to {module}.{name}"


def test_what_is_slow_to_import_waits_until_it_is_needed():
    slow = {"av", "evaluate", "matplotlib", "scipy.signal", "scipy.stats", "sklearn.metrics", "sklearn.linear_model"}
    code = f"import sys, pmr_hf; print(sorted(sys.modules.keys() & {slow}))"
    code += "; from pmr_hf import Accuracy; print(Accuracy.__name__, hasattr(pmr_hf, 'Precision'))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == ["[]", "Accuracy False"]


@pytest.mark.skipif(not (PACKAGE.parent / "examples").is_dir(), reason="an installed package has no examples")
def test_no_example_imports_another():
    examples = {path.stem: path for path in (PACKAGE.parent / "examples").glob("*.py")}
    for file in examples.values():
        for _, module in imports_of(file):
            assert module.split(".")[0] not in examples, f"{file} imports {module}"


@pytest.mark.skipif(not (PACKAGE.parent / "docs").is_dir(), reason="an installed package has no docs")
def test_the_files_that_docs_name_exist():
    root = PACKAGE.parent
    for page in [root / "README.md", *sorted((root / "docs").rglob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        named = re.findall(r"\b(?:pmr_hf|tests|examples|benchmarks)/[\w/]+\.(?:py|sh|yaml)\b", text)
        lost = sorted({name for name in named if not (root / name).is_file()})
        assert not lost, f"{page} names {lost}"
