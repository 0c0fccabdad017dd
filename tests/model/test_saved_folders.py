"""Folders saved by an earlier version of the code load, and give what they gave."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

from pmr_hf import MultimodalModel, MultimodalPipeline, MultimodalProcessor


FOLDERS = Path(__file__).parents[1] / "saved_folders"
MODEL, PROCESSOR = FOLDERS / "model", FOLDERS / "processor_of_each_kind"
KINDS = {
    "caption": "tokenizer",
    "photo": "timm",
    "picture": "image_processor",
    "film": "video_processor",
    "sound": "feature_extractor",
    "speech": "spectrogram",
    "vitals": "numbers",
}


def raw_values():
    values = {name: list(value) for name, value in np.load(MODEL / "values.npz").items()}
    return values | {"caption": [str(text) for text in values["caption"]]}


@pytest.mark.parametrize(
    ("model_class", "processor_class"), [(MultimodalModel, MultimodalProcessor), (AutoModel, AutoProcessor)]
)
def test_a_saved_model_and_its_processor_give_the_same_logits(model_class, processor_class):
    model, processor = model_class.from_pretrained(MODEL).eval(), processor_class.from_pretrained(MODEL)
    expected = load_file(MODEL / "expected.safetensors")
    with torch.no_grad():
        output = model(**processor(**raw_values()))
        found = {f"prototypes_{name}": logits for name, logits in model.prototypes(output.embeddings).items()}
    found["fused"] = output.logits
    assert found.keys() == expected.keys()
    for name, logits in expected.items():
        torch.testing.assert_close(found[name], logits, atol=1e-4, rtol=1e-4)


def test_a_saved_model_has_all_its_settings():
    config = MultimodalModel.from_pretrained(MODEL).config
    assert config.modalities == ["picture", "clip", "caption", "speech", "vitals"]
    assert (config.fusion, config.embedding_dim, config.modality_dropout) == ("film", 4, 0.1)
    assert config.unimodal_heads and config.pooling["caption"] == "mean" and config.id2label == {0: "a", 1: "b", 2: "c"}
    assert MultimodalProcessor.from_pretrained(MODEL).num_frames == {"clip": 2}


def test_the_pipeline_takes_a_saved_folder():
    values = raw_values()
    pipe = MultimodalPipeline(MODEL)
    (best, *_) = pipe(vitals=values["vitals"][0].tolist(), caption=values["caption"][0])
    assert best["label"] in {"a", "b", "c"} and 0 < best["score"] <= 1


def test_a_processor_of_each_kind_loads_and_is_saved_by_the_same_words(tmp_path):
    processor = MultimodalProcessor.from_pretrained(PROCESSOR)
    assert processor.kinds == KINDS
    processor.save_pretrained(tmp_path)
    before, after = (json.loads((folder / "processor_config.json").read_text()) for folder in (PROCESSOR, tmp_path))
    assert {**after, "auto_map": None} == {**before, "auto_map": None}  # which names the file of the code
    picture = np.zeros((8, 8, 3), np.uint8)
    batch = MultimodalProcessor.from_pretrained(tmp_path)(
        caption=["one"],
        photo=[picture],
        picture=[picture],
        film=[[picture] * 16],
        sound=[np.zeros(800, np.float32)],
        speech=[np.zeros(800, np.float32)],
        vitals=[[1.0, 4.0]],
    )
    assert batch["vitals"]["values"].tolist() == [[0.0, 1.0]]
    assert batch["caption"]["input_ids"].tolist() == [[2]]
    assert batch["photo"]["pixel_values"].flatten().unique().tolist() == [-1.0]
    assert batch["film"]["pixel_values"].shape == (1, 16, 3, 8, 8)
