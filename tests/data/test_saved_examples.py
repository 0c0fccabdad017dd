"""The examples beside a model: which rows, how large, and that they come back as they were."""

import json
import wave

import numpy as np
import pytest
from datasets import Dataset
from PIL import ExifTags, Image
from transformers import ViTImageProcessor

from pmr_hf import MultimodalCollator, MultimodalProcessor, SpectrogramFeatureExtractor, TabularProcessor
from pmr_hf.data.saved_examples import draw_examples, read_examples, save_examples
from pmr_hf.model.media import UnreadableError


def test_classes_differ_as_far_as_they_can():
    rows = Dataset.from_dict({"x": range(6), "label": [0, 0, 1, 0, 2, 1]})
    drawn = {count: draw_examples(rows, "label", count)["x"][:] for count in (0, 2, 4, 9)}
    assert drawn == {0: [], 2: [0, 2], 4: [0, 2, 4, 1], 9: [0, 2, 4, 1, 3, 5]}
    several = Dataset.from_dict({"x": range(3), "label": [["a"], ["a"], []]})
    assert draw_examples(several, "label", 2)["x"][:] == [0, 2]


def test_every_kind_comes_back(media, tmp_path):
    dataset, collator = media
    save_examples(tmp_path / "model", dataset, collator)
    examples = read_examples(tmp_path / "model", collator.processor)
    assert [list(example) for example in examples] == [list(collator.columns)] * 6
    for i, (row, example) in enumerate(zip(dataset, examples, strict=True)):
        assert example["frames"] is example["video"] is None
        assert example["text"] == (row["caption"] or None)
        np.testing.assert_array_equal(example["vitals"], [row["age"], np.nan if i == 4 else row["weight"]])
        np.testing.assert_allclose(example["speech"], collator.read("speech", i, row), atol=1e-4)
        if i == 0:
            assert example["image"] is None
        else:
            assert np.array_equal(np.asarray(example["image"]), np.asarray(Image.open(row["img"])))
    # the next run's examples replace these
    save_examples(tmp_path / "model", dataset.select([1]), collator)
    names = {path.name for path in (tmp_path / "model" / "_examples").iterdir()}
    assert names == {"examples.json", "0-image.png", "0-speech.wav", "0-spectrum.wav"}


def test_a_row_of_a_table_keeps_its_cells(tmp_path):
    table = TabularProcessor({"age": (2.0, 1.0)}, {"city": ["a"], "year": ["1990"]})
    collator = MultimodalCollator(MultimodalProcessor({"stats": table}), {"stats": ["age", "city", "year"]}, label=None)
    rows = [{"age": "3", "city": " b ", "year": 1990.0}, {"age": None, "city": "a", "year": None}]
    save_examples(tmp_path, Dataset.from_list([rows[0]]), collator)
    assert read_examples(tmp_path, collator.processor) == [{"stats": {"age": 3.0, "city": "b", "year": "1990"}}]
    save_examples(tmp_path, Dataset.from_list([rows[1]]), collator)
    assert read_examples(tmp_path, collator.processor) == [{"stats": {"age": None, "city": "a", "year": None}}]


@pytest.fixture
def two_media():
    """A collator of the columns "photo" and "sound"."""
    processors = {"photo": ViTImageProcessor(), "sound": SpectrogramFeatureExtractor(sampling_rate=8000)}
    return MultimodalCollator(MultimodalProcessor(processors), {name: name for name in processors}, label=None)


def test_they_are_small_and_say_nothing_of_the_camera_or_the_place(two_media, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    exif[ExifTags.Base.Make] = "a camera"
    Image.fromarray(noise).save(tmp_path / "a.jpg", exif=exif, icc_profile=b"of a camera")
    assert b"a camera" in (tmp_path / "a.jpg").read_bytes()
    row = {"photo": str(tmp_path / "a.jpg"), "sound": np.ones(12 * 8000, np.float32)}
    save_examples(tmp_path, [row], two_media)
    photo = (tmp_path / "_examples" / "0-photo.png").read_bytes()
    assert len(photo) <= 64 * 1024 and not [chunk for chunk in (b"a camera", b"eXIf", b"iCCP") if chunk in photo]
    with Image.open(tmp_path / "_examples" / "0-photo.png") as image:
        assert 100 < image.width <= 512 and image.width / image.height == pytest.approx(4 / 3, abs=0.02)
    with wave.open(str(tmp_path / "_examples" / "0-sound.wav")) as sound:
        assert sound.getnframes() == 10 * 8000 and sound.getframerate() == 8000


def test_a_file_that_cannot_be_read(two_media, tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    row = {"photo": str(tmp_path / "a.png"), "sound": None}
    with pytest.raises(UnreadableError, match=r"Expected 'photo' in row 0 of this batch, column 'photo', but file"):
        save_examples(tmp_path, [row], two_media)
    two_media.on_error = "missing"
    save_examples(tmp_path, [row], two_media)
    assert json.loads((tmp_path / "_examples" / "examples.json").read_text()) == [{"photo": None, "sound": None}]
    assert read_examples(tmp_path, two_media.processor) == []
