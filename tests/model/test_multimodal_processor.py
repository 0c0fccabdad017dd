"""The processor: raw values of each modality to model inputs, saved and loaded."""

import copy

import numpy as np
import pytest
import torch
from transformers import (
    AutoTokenizer,
    BaseImageProcessor,
    BertConfig,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPProcessor,
    VideoMAEConfig,
    VideoMAEImageProcessor,
    ViTImageProcessor,
)

from pmr_hf import MultimodalProcessor


def test_each_processor_is_saved_in_its_own_folder_and_loaded(three, tmp_path, digits):
    three.save_pretrained(tmp_path)
    saved = {path.name for path in tmp_path.iterdir() if path.suffix != ".py"}  # apart from the code that loads it
    assert saved == {"text", "audio", "image", "processor_config.json"}
    AutoTokenizer.from_pretrained(tmp_path / "text")  # each folder is in the format of its own class
    loaded = MultimodalProcessor.from_pretrained(tmp_path)
    assert list(loaded.processors) == ["text", "audio", "image"]
    raw = {"text": ["the digit two"], "image": [digits[0]["picture"]], "audio": [np.ones(20, dtype=np.float32)]}
    before, after = three(**raw), loaded(**raw)
    for name, inputs in before.items():
        assert inputs.keys() == after[name].keys()
        assert all(torch.equal(value, after[name][key]) for key, value in inputs.items())


def test_from_backbones_takes_folders_and_processors(three, tmp_path):
    three.save_pretrained(tmp_path)
    loaded = MultimodalProcessor.from_backbones(
        {"image": tmp_path / "image", "text": str(tmp_path / "text"), "audio": three.processors["audio"]}
    )
    assert isinstance(loaded.processors["image"], ViTImageProcessor)
    assert loaded.processors["audio"] is three.processors["audio"]
    assert len(loaded.processors["text"]) == len(three.processors["text"])


def test_a_modality_without_a_processor(processor):
    with pytest.raises(ValueError, match=r"Expected modalities among \['image', 'text'\], got \['sound'\]"):
        processor(sound=[1])


def test_num_frames_is_saved_and_checked(media, tmp_path):
    _, collator = media
    collator.processor.save_pretrained(tmp_path)
    assert MultimodalProcessor.from_pretrained(tmp_path).num_frames == {"frames": 3, "video": 4}
    for wrong in ({"text": 3}, {"video": 0}, {"nothing": 1}):
        with pytest.raises(ValueError, match=r"Expected `num_frames` in 1\.\.4096 for modalities among"):
            MultimodalProcessor(collator.processor.processors, num_frames=wrong)


def test_processors_of_encoders_by_name(processor, tmp_path):
    """They take the number of frames, the longest text, and the image part of CLIP's processor from the encoders."""
    VideoMAEConfig(num_frames=6).save_pretrained(tmp_path / "video")
    VideoMAEImageProcessor().save_pretrained(tmp_path / "video")
    text = copy.deepcopy(processor.processors["text"])
    text.model_max_length = 10**30  # the value of a tokenizer that was never given a length
    BertConfig(max_position_embeddings=5).save_pretrained(tmp_path / "text")
    text.save_pretrained(tmp_path / "text")
    CLIPConfig().save_pretrained(tmp_path / "clip")
    CLIPProcessor(CLIPImageProcessor(), text).save_pretrained(tmp_path / "clip")
    loaded = MultimodalProcessor.from_backbones({name: tmp_path / name for name in ("video", "text", "clip")})
    assert loaded.num_frames == {"video": 6}
    assert loaded(text=["the digit two one zero three four five"])["text"]["input_ids"].shape == (1, 5)
    assert isinstance(loaded.processors["clip"], BaseImageProcessor)


def test_another_number_of_frames_than_the_encoder_takes():
    with pytest.raises(ValueError, match=r"Expected num_frames=\{'clip': 4\}, which the encoder .*, got 8"):
        MultimodalProcessor({"clip": VideoMAEImageProcessor()}, num_frames={"clip": 8}).match_encoders(
            {"clip": VideoMAEConfig(num_frames=4)}
        )


def test_values_that_are_not_in_lists(processor, digits):
    with pytest.raises(ValueError, match="Expected a list of values for 'text', got one str"):
        processor(text="the digit two")
    with pytest.raises(ValueError, match="Expected a list of values for 'image'"):
        processor(image=digits[0]["picture"])
    with pytest.raises(ValueError, match=r"the same number of values of each modality, got \{'image': 1, 'text': 2\}"):
        processor(image=digits["picture"][:1], text=digits["caption"][:2])


def test_a_folder_without_a_saved_processor(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"found no processor_config.json there"):
        MultimodalProcessor.from_pretrained(tmp_path)


def test_a_processor_of_another_kind():
    with pytest.raises(TypeError, match="image processor, a feature extractor or a tokenizer"):
        MultimodalProcessor({"text": str.split})
