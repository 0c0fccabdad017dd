"""Model folders of strangers: no code runs, nothing is asked, and no file from elsewhere is read or pushed."""

import json

import pytest
from transformers import (
    AutoConfig,
    BertConfig,
    BertModel,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)

from pmr_hf import MultimodalModel
from pmr_hf.model.hub_card import push_card


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


def test_the_auto_class_still_finds_the_config(tmp_path):
    MultimodalModel.from_backbones({"text": BERT}, num_labels=2).save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)).__name__ == "MultimodalConfig"
