"""Each kind of modality: what the processor makes of pictures, lists of pictures, sound and text."""

import copy

import numpy as np
import pytest
import torch
from datasets import Array3D, Dataset, Features
from PIL import Image as PILImage
from transformers import MPNetConfig, TimmWrapperImageProcessor, ViTImageProcessor

from pmr_hf import MultimodalProcessor
from pmr_hf.model.kinds import Text


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_any_mode_take_the_channels_of_the_encoder(mode, channels):
    image = ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5] * channels, image_std=[0.5] * channels)
    picture = PILImage.new("RGB", (12, 9), (200, 200, 200)).convert(mode)
    pixels = MultimodalProcessor({"image": image})(image=[picture, picture.resize((5, 8))])["image"]["pixel_values"]
    assert pixels.shape == (2, channels, 8, 8)


def test_audio_is_padded(three):
    batch = three(audio=[np.ones(500, dtype=np.float32), np.ones(800, dtype=np.float32), np.ones(3)])["audio"]
    assert batch["input_values"].shape == (3, 800)
    assert batch["attention_mask"].sum(1).tolist() == [500, 800, 200]  # at least 25 ms, at 8 kHz


def test_numbers_are_texts_too(processor):
    tokens = processor.processors["text"]
    assert processor(text=[7, "two"])["text"]["input_ids"].tolist() == tokens(["7", "two"])["input_ids"]


def test_lists_of_pictures_of_any_length(media):
    _, collator = media
    pictures = [PILImage.new("RGB", (8, 8), (40 * i, 0, 0)) for i in range(4)]
    free = MultimodalProcessor({"image": collator.processor.processors["image"]})
    batch = free(image=[pictures[:3], pictures[3:], None])["image"]
    assert batch["frame_mask"].tolist() == [[True] * 3, [True, False, False], [False] * 3]
    assert batch["present"].tolist() == [True, True, False]
    one = free(image=pictures)["image"]["pixel_values"]
    assert torch.equal(batch["pixel_values"][0], one[:3]) and torch.equal(batch["pixel_values"][1, 0], one[3])
    two = MultimodalProcessor(free.processors, num_frames={"image": 2})
    assert torch.equal(two(image=[pictures])["image"]["pixel_values"][0], one[[1, 3]])


def test_the_processor_of_a_timm_model_is_saved(tmp_path):
    """By our own code: `TimmWrapperImageProcessor.save_pretrained` writes nothing."""
    config = {"input_size": [3, 20, 20], "mean": [0.1, 0.2, 0.3], "std": [0.5] * 3, "crop_pct": 0.8}
    processor = MultimodalProcessor({"image": TimmWrapperImageProcessor(config, architecture="resnet10t")})
    picture = PILImage.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    processor.save_pretrained(tmp_path)
    pixels = processor(image=[picture])["image"]["pixel_values"]
    assert pixels.shape == (1, 3, 20, 20)
    loaded = MultimodalProcessor.from_pretrained(tmp_path)
    assert torch.equal(loaded(image=[picture])["image"]["pixel_values"], pixels)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (1, 5), (4, 7), (3, 200)])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiny_pictures_are_not_turned(shape, channels):
    """Each pixel of a striped picture keeps its row, for any height."""
    stripes = (np.arange(shape[0]) * 60 + 10).astype(np.uint8)[:, None].repeat(shape[1], 1)
    size = {"height": shape[0] * 2, "width": shape[1] * 2}
    image = ViTImageProcessor(size=size, resample=0, image_mean=[0.0] * channels, image_std=[1.0] * channels)
    pixels = MultimodalProcessor({"image": image})(image=[PILImage.fromarray(stripes)])["image"]["pixel_values"]
    assert pixels.shape == (1, channels, *size.values())
    np.testing.assert_allclose(pixels[0, 0] * 255, stripes.repeat(2, 0).repeat(2, 1), atol=1e-3)


def test_an_array_feature_is_one_picture(media, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    features = Features({"image": Array3D((8, 8, 3), "uint8")})
    rows = Dataset.from_dict({"image": list(pixels)}, features)
    processor = MultimodalProcessor({"image": media[1].processor.processors["image"]})
    assert isinstance(rows[0]["image"], list)
    found = processor(image=[row["image"] for row in rows])["image"]["pixel_values"]
    assert torch.equal(found, processor(image=list(pixels))["image"]["pixel_values"])


def test_pictures_and_lists_of_them_in_one_batch(media):
    processor = MultimodalProcessor({"image": media[1].processor.processors["image"]})
    picture = PILImage.new("RGB", (8, 8), (40, 0, 0))
    batch = processor(image=[picture, [picture, picture]])["image"]
    assert batch["frame_mask"].tolist() == [[True, False], [True, True]]


def test_a_tokenizer_pads_on_the_right_and_needs_a_pad_token(processor):
    left = copy.deepcopy(processor.processors["text"])
    left.padding_side = "left"
    batch = MultimodalProcessor({"text": left})(text=["two", "the digit"])["text"]
    assert batch["attention_mask"].tolist() == [[1, 0], [1, 1]]
    left.pad_token = None
    with pytest.raises(ValueError, match="Expected the tokenizer of 'text' to have a pad token"):
        MultimodalProcessor({"text": left})


def test_the_trainer_tells_a_tokenizer_how_much_its_encoder_reads(make_trainer, digits):
    trainer = make_trainer()
    assert trainer.processing_class.processors["text"].model_max_length == 16
    config = MPNetConfig(max_position_embeddings=10, pad_token_id=1)
    tokenizer = copy.deepcopy(trainer.processing_class.processors["text"])
    tokenizer.model_max_length = 10**30
    Text("text", tokenizer).match_encoder(config)
    assert tokenizer.model_max_length == 8  # positions start after the padding id


def test_pictures_of_unequal_sizes_without_resizing(processor):
    with pytest.raises(ValueError, match=r"Expected pictures of one size, .* got .* \[\(8, 8\), \(8, 9\)\]"):
        processor(image=[PILImage.new("L", (8, 8)), PILImage.new("L", (8, 9))])
