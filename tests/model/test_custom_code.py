"""Code beside a saved model: ours loads it where pmr_hf is not installed, and that of others is never run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor, ViTImageProcessor
from transformers.dynamic_module_utils import get_imports

import pmr_hf
from pmr_hf import (
    CGMNISTConfig,
    MultimodalModel,
    MultimodalProcessor,
    NumericConfig,
    NumericProcessor,
    TabularProcessor,
)


# Run without pmr_hf: for each folder, the model's outputs for what its processor makes of the raw values.
LOAD = """
import sys
sys.modules["pmr_hf"] = None  # importing it fails, as if it were not installed
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor
for folder in sys.argv[1:]:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    values = {name: list(value) for name, value in np.load(folder + "/values.npz").items()}
    values["stats"] = [{"city": "b", "age": age} for age in values["stats"]]
    with torch.no_grad():
        output = model(**processor(**values))
        logits = model.prototypes(output.embeddings)
    save_file({"fused": output.logits, **logits}, folder + "/found.safetensors")
    model.save_pretrained(folder + "/again")  # with the code
    processor.save_pretrained(folder + "/again")
    assert type(AutoModel.from_pretrained(folder + "/again", trust_remote_code=True)).__name__ == "MultimodalModel"
"""


TABLE = TabularProcessor({"age": (1.0, 2.0)}, {"city": ["a", "b"]})


def small_model(fusion):
    backbones = {
        "gray": CGMNISTConfig(num_channels=1, hidden_size=8),
        "colored": CGMNISTConfig(num_channels=3, hidden_size=8),
        "vitals": NumericConfig(num_features=3, hidden_size=8),
        "stats": TABLE.encoder_config(hidden_size=8),
    }
    return MultimodalModel.from_backbones(backbones, num_labels=4, fusion=fusion).eval()


def raw_values(count):
    random = np.random.default_rng(0)
    pictures = {
        "gray": random.integers(0, 255, (count, 8, 8), dtype=np.uint8),
        "colored": random.integers(0, 255, (count, 8, 8, 3), dtype=np.uint8),
    }
    return {**pictures, "vitals": random.normal(size=(count, 3)), "stats": random.normal(size=count)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved model for each built-in fusion, with its outputs, and those of a process without the package."""
    processor = MultimodalProcessor(
        {
            "gray": ViTImageProcessor(do_resize=False, image_mean=[0.3], image_std=[0.35]),
            "colored": ViTImageProcessor(do_resize=False),
            "vitals": NumericProcessor([1.0, 2.0, 3.0], [1.0, 2.0, 1.0]),
            "stats": TABLE,
        }
    )
    folders = []
    for fusion in ("concat", "sum", "film", "gated", "attention", "late", "shared"):
        folder = tmp_path_factory.mktemp(fusion)
        model, values = small_model(fusion), raw_values(5)
        with torch.no_grad():
            rows = {"stats": [{"age": age, "city": "b"} for age in values["stats"]]}
            inputs = processor(**{name: list(value) for name, value in values.items()} | rows)
            sums = model.prototypes.class_sums(model(**inputs).embeddings, torch.tensor([0, 1, 2, 3, 3]))
            model.prototypes.momentum_update(sums, 0.0)
            output = model(**inputs)
        save_file({"fused": output.logits, **model.prototypes(output.embeddings)}, folder / "expected.safetensors")
        np.savez(folder / "values.npz", **values)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        folders.append(folder)
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path_factory.mktemp("modules"))}
    run = subprocess.run(
        [sys.executable, "-c", LOAD, *map(str, folders)], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return folders


def test_a_saved_model_loads_without_the_package_and_gives_equal_logits(saved):
    for folder in saved:
        expected, found = load_file(folder / "expected.safetensors"), load_file(folder / "found.safetensors")
        assert expected.keys() == found.keys() == {"fused", "gray", "colored", "vitals", "stats"}
        assert all(torch.equal(expected[key], found[key]) for key in expected), folder
        assert expected["fused"].std() > 0.01


@pytest.mark.parametrize("file", ["media_files.py", "sound.py", "video.py"])
def test_transformers_asks_for_pyav(file):
    """It says which of these packages are missing. The files import PyAV within functions."""
    assert "av" in get_imports(Path(pmr_hf.__file__).with_name("model") / file)


def test_the_code_of_a_users_subclass_stays_at_home(tmp_path):
    class Mine(MultimodalModel):
        pass

    Mine(small_model("sum").config).save_pretrained(tmp_path)
    assert not list(tmp_path.glob("test_*.py")) and not (tmp_path / "modeling.py").exists()


def test_a_saved_model_loads_by_the_auto_classes_with_the_package(saved):
    model, processor = AutoModel.from_pretrained(saved[0]), AutoProcessor.from_pretrained(saved[0])
    assert type(model) is MultimodalModel and type(processor) is MultimodalProcessor


CODE = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, ViTImageProcessor
class CustomConfig(BertConfig):
    model_type = "custom"
class CustomModel(BertModel):
    config_class = CustomConfig
class CustomTokenizer(PreTrainedTokenizerFast):
    pass
class CustomImageProcessor(ViTImageProcessor):
    pass
"""


@pytest.fixture
def foreign(tmp_path, processor, monkeypatch):
    """A saved encoder and processor that come with their own code, and a user who answers yes to every question."""
    folder, marker = tmp_path / "foreign", tmp_path / "marker"
    processor.save_pretrained(folder)
    (folder / "config.json").write_text(
        json.dumps(
            {"model_type": "custom", "auto_map": {"AutoConfig": "code.CustomConfig", "AutoModel": "code.CustomModel"}}
        )
    )
    for name, key, cls in [
        ("text/tokenizer_config.json", "AutoTokenizer", ["code.CustomTokenizer", "code.CustomTokenizer"]),
        ("image/preprocessor_config.json", "AutoImageProcessor", "code.CustomImageProcessor"),
    ]:
        saved = json.loads((folder / name).read_text())
        kind = "tokenizer_class" if key == "AutoTokenizer" else "image_processor_type"
        (folder / name).write_text(json.dumps(saved | {"auto_map": {key: cls}, kind: "Custom"}))
    for place in (folder, folder / "text", folder / "image"):
        (place / "code.py").write_text(CODE.format(marker=str(marker)))
    monkeypatch.setattr("builtins.input", lambda prompt="": "y")
    yield folder
    assert not marker.exists()


def test_code_that_comes_with_a_backbone_is_not_run(foreign):
    for from_backbones in (
        lambda names: MultimodalModel.from_backbones(names, num_labels=2),
        MultimodalProcessor.from_backbones,
    ):
        with pytest.raises(ValueError, match=r"Expected a backbone of transformers itself for 'text', but .*foreign"):
            from_backbones({"text": foreign})
        with pytest.raises(ValueError, match=r"Expected a backbone of transformers itself for 'text', but .*foreign"):
            from_backbones({"text": str(foreign)})


def test_code_that_comes_with_a_processor_is_not_run(foreign):
    with pytest.raises(ValueError, match="trust_remote_code"):
        MultimodalProcessor.from_pretrained(foreign)
    for part in ("text", "image"):
        with pytest.raises((ValueError, OSError)):
            MultimodalProcessor.from_backbones({part: foreign / part})
