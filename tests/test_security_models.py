"""Model folders of strangers: no code runs, nothing is asked, and no file from elsewhere is read or pushed."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.attack_models import ATTACKS
from transformers import (
    ASTFeatureExtractor,
    AutoConfig,
    BertConfig,
    BertModel,
    TimmWrapperConfig,
    TimmWrapperImageProcessor,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
)

from pmr_hf import (
    MultimodalModel,
    MultimodalProcessor,
    NumericProcessor,
    SpectrogramFeatureExtractor,
    TabularProcessor,
)
from pmr_hf.model.backbones import new_backbone
from pmr_hf.model.hub_card import push_card


pytestmark = pytest.mark.usefixtures("limited")
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
VIT = ViTConfig(image_size=8, patch_size=4, num_channels=1, **SIZES)
BERT = BertConfig(vocab_size=16, max_position_embeddings=16, **SIZES)


@pytest.mark.parametrize("what", ["encoder", "whole"])
def test_code_of_a_nested_config_is_neither_run_nor_asked_about(tmp_path, what, monkeypatch):
    """The class of the pair builds its encoder by `AutoModel`, which would ask on stdin."""
    decoder = BertConfig(vocab_size=16, max_position_embeddings=16, is_decoder=True, add_cross_attention=True, **SIZES)
    pair = VisionEncoderDecoderModel(VisionEncoderDecoderConfig.from_encoder_decoder_configs(VIT, decoder))
    if what == "encoder":
        pair.save_pretrained(tmp_path)
        file = json.loads((tmp_path / "config.json").read_text())
        encoder = file["encoder"]
    else:
        MultimodalModel.from_backbones({"image": VIT}, num_labels=2).save_pretrained(tmp_path)
        file = json.loads((tmp_path / "config.json").read_text())
        file["backbones"]["image"] = pair.config.to_dict()
        encoder = file["backbones"]["image"]["encoder"]
    encoder["auto_map"] = {"AutoConfig": "code.Config", "AutoModel": "code.Model"}
    (tmp_path / "config.json").write_text(json.dumps(file))
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    asked = []
    monkeypatch.setattr("builtins.input", lambda *question: asked.append(question) or "y")
    with pytest.raises(ValueError, match="Expected a backbone"):
        if what == "encoder":
            MultimodalModel.from_backbones({"image": tmp_path}, num_labels=2)
        else:
            MultimodalModel.from_pretrained(tmp_path)
    assert not asked and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", ["../other.safetensors", "/tmp/other.safetensors", "a/../../b.safetensors", "..\\b"])
@pytest.mark.parametrize("whole", [True, False])
def test_an_index_of_weights_stays_in_its_folder(tmp_path, file, whole):
    model = MultimodalModel.from_backbones({"text": BERT}, num_labels=2) if whole else BertModel(BERT)
    model.save_pretrained(tmp_path, max_shard_size="2KB")
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    key = next(iter(content["weight_map"]))
    content["weight_map"][key] = file
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"Expected names of files beside .*index\.json, got"):
        if whole:
            MultimodalModel.from_pretrained(tmp_path)
        else:
            MultimodalModel.from_backbones({"text": tmp_path}, num_labels=2)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 3}'])
def test_a_broken_index_is_a_sentence(tmp_path, content):
    BertModel(BERT).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match="Expected a `weight_map` of files in"):
        MultimodalModel.from_backbones({"text": tmp_path}, num_labels=2)


@pytest.mark.parametrize("link", ["README.md", "text/vocab.txt", "text", "plot.png", "processor_config.json"])
def test_a_card_is_pushed_without_files_from_elsewhere(tmp_path, link):
    model = MultimodalModel.from_backbones({"text": BERT}, num_labels=2)
    folder, secret = tmp_path / "model", tmp_path / "secret"
    (folder / "text").mkdir(parents=True)
    secret.mkdir() if link == "text" else secret.write_text("secret")
    (folder / "README.md").write_text("a card")
    (folder / link).unlink(missing_ok=True) if link != "text" else (folder / link).rmdir()
    (folder / link).symlink_to(secret)
    with pytest.raises(ValueError, match=f"got the symbolic link {link}; put a copy of the file there"):
        push_card("me/model", model.config, folder)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """What each attack of `attack_models.py` came to: the seconds and the error."""
    script = Path(__file__).parent / "helpers" / "attack_models.py"
    memory = str(8 * 2**30)
    command = [sys.executable, str(script), memory, str(tmp_path_factory.mktemp("attacks"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: (seconds, error) for name, seconds, error in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_config_of_any_size_is_refused_at_once(attacked, name):
    seconds, error = attacked[name]
    assert error is not None and error.startswith("ValueError: Expected"), error
    assert "; " in error  # what to do
    assert seconds < 5  # 1.5 on one free core


def test_an_attack_is_what_stops_the_model(attacked):
    assert attacked["none"][1] is None


def test_large_real_encoders_are_not_refused():
    """On the device without memory: 64 layers of 1,024 units, and a network of many modules."""
    with torch.device("meta"):
        for config in (
            BertConfig(hidden_size=1024, num_hidden_layers=64, num_attention_heads=16, intermediate_size=4096),
            TimmWrapperConfig(architecture="tf_efficientnet_l2", do_pooling=True),
        ):
            assert new_backbone("m", config) is not None


def write_processor(folder, modality, file, **changes):
    """Save a processor of pictures, sound and numbers, then change the JSON file of one of them."""
    processor = MultimodalProcessor(
        {
            "image": ViTImageProcessor(),
            "sound": ASTFeatureExtractor(num_mel_bins=8, max_length=16),
            "spectrum": SpectrogramFeatureExtractor(),
            "numbers": NumericProcessor([0.0], [1.0]),
            "table": TabularProcessor({"age": (0.0, 1.0)}, {"city": ["a"]}),
            "timm": TimmWrapperImageProcessor({"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.5,) * 3}),
        }
    )
    processor.save_pretrained(folder)
    path = folder / modality / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


LARGE = 10**9
SETTINGS = [
    ("image", {"size": {"height": LARGE, "width": 8}}),
    ("image", {"size": {"shortest_edge": LARGE}}),
    ("image", {"size": {"longest_edge": 10**6}}),
    ("image", {"size": LARGE}),
    ("image", {"crop_size": {"height": 8, "width": LARGE}, "do_center_crop": True}),
    ("image", {"pad_size": {"height": 8, "width": LARGE}}),
    ("image", {"image_mean": "none"}),
    ("image", {"image_mean": [[0.5], [0.5], [0.5]]}),
    ("image", {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5]}),
    ("image", {"image_std": [0.5, 0.5, None]}),
    ("image", {"rescale_factor": float("nan")}),
    ("sound", {"sampling_rate": LARGE}),
    ("sound", {"num_mel_bins": LARGE}),
    ("sound", {"max_length": LARGE}),
    ("sound", {"mean": {"a": 1}}),
    ("spectrum", {"seconds": 1e12}),
    ("spectrum", {"window": LARGE, "overlap": 0}),
    ("spectrum", {"seconds": 3600, "window": 2**16, "overlap": 2**16 - 1}),
    ("numbers", {"mean": 0.0}),
    ("numbers", {"mean": [0.0, 0.0]}),
    ("numbers", {"mean": [[0.0]]}),
    ("numbers", {"mean": "a"}),
    ("numbers", {"mean": [], "std": []}),
    ("numbers", {"std": [float("inf")]}),
    ("table", {"numbers": [{"name": "age", "mean": 0.0, "std": 0.0}]}),
    ("table", {"categories": [{"name": "city", "values": "a"}]}),
    ("timm", {"pretrained_cfg": {"input_size": [3, LARGE, LARGE], "mean": [0.5] * 3, "std": [0.5] * 3}}),
    ("timm", {"pretrained_cfg": {"input_size": [3, 8, 8], "crop_pct": 1e-6, "mean": [0.5] * 3, "std": [0.5] * 3}}),
]


@pytest.mark.parametrize(("modality", "changes"), SETTINGS, ids=[f"{name}-{change}" for name, change in SETTINGS])
def test_settings_of_a_processor_are_checked_before_it_reads_anything(tmp_path, modality, changes):
    file = "config.json" if modality == "timm" else "preprocessor_config.json"
    write_processor(tmp_path, modality, file, **changes)
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"Expected .*(;|,) "):
        MultimodalProcessor.from_pretrained(tmp_path)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"modalities": []}',
        '{"modalities": {}}',
        '{"modalities": {"a": 3}}',
        '{"modalities": {"a": "os.system"}}',
        '{"modalities": {"../a": "tokenizer"}}',
        '{"modalities": {"/etc": "tokenizer"}}',
        '{"modalities": {"a": "tokenizer"}, "num_frames": 3}',
        '{"modalities": {"a": "image_processor"}, "num_frames": {"a": 1000000000}}',
        '{"modalities": {"a": "image_processor"}, "num_frames": {"b": 3}}',
        json.dumps({"modalities": {f"m{i}": "tokenizer" for i in range(10**5)}}),
    ],
)
def test_a_processor_config_of_another_shape(tmp_path, content):
    (tmp_path / "processor_config.json").write_text(content)
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"^Expected [^\n]*$"):
        MultimodalProcessor.from_pretrained(tmp_path)
    assert time.monotonic() - start < 1


def test_the_auto_class_still_finds_the_config(tmp_path):
    MultimodalModel.from_backbones({"text": BERT}, num_labels=2).save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)).__name__ == "MultimodalConfig"
