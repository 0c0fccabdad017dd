import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from transformers import AutoTokenizer, ViTImageProcessor, Wav2Vec2FeatureExtractor

from pmr_hf import MultimodalCollator, MultimodalProcessor


@pytest.fixture
def three(processor):
    audio = Wav2Vec2FeatureExtractor(feature_size=1, sampling_rate=8000, return_attention_mask=True)
    return MultimodalProcessor(
        {"text": processor.processors["text"], "audio": audio, "image": processor.processors["image"]}
    )


def test_rows_become_the_nested_batch(collator, digits):
    batch = collator([digits[i] for i in range(3)])
    assert list(batch) == ["image", "text", "labels"]
    assert batch["image"]["pixel_values"].shape == (3, 1, 8, 8)
    assert batch["labels"].tolist() == digits["label"][:3] and batch["labels"].dtype == torch.int64
    tokenizer = collator.processor.processors["text"]
    assert tokenizer.batch_decode(batch["text"]["input_ids"], skip_special_tokens=True) == digits["caption"][:3]
    assert batch["text"]["attention_mask"].sum(1).tolist() == [len(text.split()) for text in digits["caption"][:3]]
    scan = np.asarray(digits[1]["picture"]) / 255
    np.testing.assert_allclose(batch["image"]["pixel_values"][1, 0], (scan - 0.3) / 0.35, atol=1e-5)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_any_mode_take_the_channels_of_the_encoder(mode, channels):
    image = ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5] * channels, image_std=[0.5] * channels)
    picture = PILImage.new("RGB", (12, 9), (200, 200, 200)).convert(mode)
    pixels = MultimodalProcessor({"image": image})(image=[picture, picture.resize((5, 8))])["image"]["pixel_values"]
    assert pixels.shape == (2, channels, 8, 8)


def test_audio_is_padded(three):
    batch = three(audio=[np.ones(50, dtype=np.float32), np.ones(80, dtype=np.float32)])["audio"]
    assert batch["input_values"].shape == (2, 80) and batch["attention_mask"].sum(1).tolist() == [50, 80]


def test_one_folder_each_and_back(three, tmp_path, digits):
    three.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"text", "audio", "image", "processor_config.json"}
    AutoTokenizer.from_pretrained(tmp_path / "text")  # each folder is what its own class saves
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


def test_labels_of_any_integer_type(processor, digits):
    collator = MultimodalCollator(processor, {"image": "picture", "text": "caption"}, label="label")
    rows = [{**digits[0], "label": label} for label in (1, np.int32(2), torch.tensor(3))]
    assert collator(rows)["labels"].tolist() == [1, 2, 3]
    for bad in (True, 1.0, None, "one"):
        with pytest.raises(ValueError, match="Expected integer labels"):
            collator([{**digits[0], "label": bad}])
