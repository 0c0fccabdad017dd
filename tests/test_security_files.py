"""What has held against hostile files in folders of models and checkpoints, and must go on holding."""

import json
import os
import pickle
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import SafetensorError
from transformers import BertConfig, BertModel

from pmr_hf import MultimodalModel, MultimodalPipeline, MultimodalProcessor


pytestmark = pytest.mark.usefixtures("limited")
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
BERT = BertConfig(vocab_size=16, max_position_embeddings=16, **SIZES)


class Payload:
    """Its pickle runs a command when it is read without care."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def write_payload(file, mark):
    file.write_bytes(pickle.dumps(Payload(mark)))


def test_the_payload_works(tmp_path):
    write_payload(tmp_path / "a.bin", tmp_path / "ran")
    pickle.loads((tmp_path / "a.bin").read_bytes())
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("place", ["whole", "encoder", "beside", "adapter"])
def test_a_pickle_in_a_model_folder_is_not_run(tmp_path, place):
    folder, mark = tmp_path / "model", tmp_path / "ran"
    model = BertModel(BERT) if place == "encoder" else MultimodalModel.from_backbones({"text": BERT}, num_labels=2)
    model.save_pretrained(folder)
    name = "adapter_model.bin" if place == "adapter" else "pytorch_model.bin"
    if place in ("whole", "encoder"):
        (folder / "model.safetensors").unlink()
    write_payload(folder / name, mark)
    load = (
        (lambda: MultimodalModel.from_backbones({"text": folder}, num_labels=2))
        if place == "encoder"
        else (lambda: MultimodalModel.from_pretrained(folder))
    )
    if place in ("whole", "encoder"):
        with pytest.raises(OSError, match=r"model\.safetensors"):
            load()
    else:
        load()
    assert not mark.exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_a_pickle_in_a_checkpoint_is_not_run(make_trainer, tmp_path, name):
    make_trainer(num_train_epochs=1, save_strategy="epoch").train()
    (checkpoint,) = (tmp_path / "out").glob("checkpoint-*")
    write_payload(checkpoint / name, tmp_path / "ran")
    trainer = make_trainer(num_train_epochs=2, save_strategy="epoch")
    if name == "training_args.bin":
        trainer.train(resume_from_checkpoint=str(checkpoint))
    else:
        with pytest.raises(ValueError, match="Expected"):
            trainer.train(resume_from_checkpoint=str(checkpoint))
    assert not (tmp_path / "ran").exists()


HEADERS = {
    "truncated": ({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}, 8),
    "overlapping": (
        {
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        },
        12,
    ),
    "beyond": ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [10**12, 10**12 + 8]}}, 8),
    "shape": ({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 8]}}, 8),
    "negative": ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}, 8),
}


@pytest.mark.parametrize("kind", [*HEADERS, "header of any length", "no header"])
def test_damaged_safetensors_are_refused(tmp_path, kind):
    MultimodalModel.from_backbones({"text": BERT}, num_labels=2).save_pretrained(tmp_path)
    if kind in HEADERS:
        header, size = HEADERS[kind]
        text = json.dumps(header).encode()
        content = struct.pack("<Q", len(text)) + text + bytes(size)
    else:
        content = struct.pack("<Q", 2**62) + b"{}" if kind == "header of any length" else b"\0\0"
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises((SafetensorError, OSError, ValueError, RuntimeError)):
        MultimodalModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "word", ["os.system", "subprocess.Popen", "BertModel", "pathlib.Path", "__import__", "tokenizers"]
)
def test_a_processor_of_an_arbitrary_class_is_refused(tmp_path, processor, word):
    processor.save_pretrained(tmp_path)
    for file, key in (
        (tmp_path / "image" / "preprocessor_config.json", "image_processor_type"),
        (tmp_path / "text" / "tokenizer_config.json", "tokenizer_class"),
        (tmp_path / "processor_config.json", "modalities"),
    ):
        before = file.read_text()
        content = json.loads(before)
        content[key] = {"image": word, "text": "tokenizer"} if key == "modalities" else word
        file.write_text(json.dumps(content))
        try:
            loaded = MultimodalProcessor.from_pretrained(tmp_path)
        except (ValueError, AttributeError, OSError):  # an OSError: transformers looks for the weights of a model
            pass
        else:  # transformers takes the class of the tokenizer's own file instead
            assert key == "tokenizer_class"
            assert type(loaded.processors["text"]).__module__.startswith("transformers.")
        file.write_text(before)


@pytest.mark.parametrize("name", ["../x", "/etc", "a/b", "..", "", "a\\b", "a\0b", "__class__", "con flict"])
@pytest.mark.parametrize("part", ["model", "processor"])
def test_a_modality_cannot_leave_its_folder(tmp_path, processor, name, part):
    if part == "model":
        MultimodalModel.from_backbones({"text": BERT}, num_labels=2).save_pretrained(tmp_path)
        file = tmp_path / "config.json"
        content = json.loads(file.read_text())
        content["backbones"], content["modalities"] = {name: content["backbones"]["text"]}, [name]
        content["pooling"] = {name: "auto"}
    else:
        processor.save_pretrained(tmp_path)
        file = tmp_path / "processor_config.json"
        content = json.loads(file.read_text()) | {"modalities": {name: "tokenizer"}}
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="Expected modality names such as"):
        (MultimodalModel if part == "model" else MultimodalProcessor).from_pretrained(tmp_path)


def test_code_at_the_top_level_is_not_run(tmp_path, processor, monkeypatch):
    folder = tmp_path / "model"
    MultimodalModel.from_backbones({"text": BERT}, num_labels=2).save_pretrained(folder)
    MultimodalProcessor({"text": processor.processors["text"]}).save_pretrained(folder)
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    for name in ("config.json", "processor_config.json", "text/tokenizer_config.json"):
        content = json.loads((folder / name).read_text())
        content["auto_map"] = dict.fromkeys(
            ("AutoConfig", "AutoModel", "AutoProcessor", "AutoTokenizer"), "evil.Anything"
        )
        if name.startswith("text"):
            content["auto_map"]["AutoTokenizer"] = ["evil.Anything", "evil.Anything"]
        (folder / name).write_text(json.dumps(content))
    asked = []
    monkeypatch.setattr("builtins.input", lambda *question: asked.append(question) or "y")
    try:
        MultimodalPipeline(folder)
    except ValueError as error:
        assert "code" in str(error)
    assert not asked and not (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_of_one_process_ends_both(tmp_path, failing):
    """Within half a minute, also if the other process waits for it."""
    helper = Path(__file__).parent / "helpers" / "one_process_fails.py"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(helper)]
    start = time.monotonic()
    done = subprocess.run([*launch, str(failing), str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "the row cannot be read" in done.stderr
    assert time.monotonic() - start < 60  # half of it is the start of both
