"""The README's code runs as printed, with tiny folders in the places of the Hub's names."""

import re
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image


README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
TRAINING, ASKING = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def folders(make_model, processor, digits, tmp_path, monkeypatch):
    """A working directory with an image encoder, a text encoder and a dataset by the names in the README."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    encoders = make_model().backbones
    for name, modality in (("google/vit-base-patch16-224", "image"), ("bert-base-uncased", "text")):
        encoders[modality].save_pretrained(name)
        processor.processors[modality].save_pretrained(name)
    Path("user/posts").mkdir(parents=True)
    digits.rename_column("caption", "title").to_parquet("user/posts/train.parquet")
    digits[0]["picture"].save("cat.png")


def test_the_code_trains_and_the_saved_model_answers(folders):
    names = {}
    exec(compile(TRAINING, "README.md", "exec"), names)
    model, trainer = names["model"].eval(), names["trainer"]
    assert trainer.state.global_step == 3 * 8
    assert model.config.modalities == ["image", "text"] and model.config.num_labels == 4
    assert all(torch.count_nonzero(value) for value in model.prototypes.state_dict().values())

    exec(compile(ASKING, "README.md", "exec"), names)
    with Image.open("cat.png") as picture, torch.no_grad():
        expected = model(**names["processor"](image=[picture], text=["a title"])).logits.softmax(-1).max().item()
    assert names["pipe"](image="cat.png", text="a title")[0]["score"] == pytest.approx(expected, abs=1e-5)
    assert set(names["pipe"](text="a title", explain=True)["modalities"]) == {"image", "text"}


def test_it_is_short():
    assert len(README.splitlines()) <= 150


def test_the_code_that_trains_has_about_ten_lines():
    """What a user writes beside the imports, and no line that hides two."""
    lines = [line for line in TRAINING.splitlines() if line and not line.startswith(("from", "import"))]
    assert len(lines) <= 10 and not any(";" in line for line in lines)
