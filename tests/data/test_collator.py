"""From rows of a dataset to a batch: every kind of modality, missing and unreadable values."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.strategies import EXTREME, JUNK, LABELS
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from transformers import Wav2Vec2FeatureExtractor

from pmr_hf import MultimodalCollator, MultimodalProcessor, NumericProcessor, TabularProcessor
from pmr_hf.data.missing_values import present_rows
from pmr_hf.model.media import UnreadableError


NUMBER = EXTREME | st.none() | st.just(math.nan) | st.integers(-(10**15), 10**15)
MISSING = st.sampled_from([None, "", "  ", math.nan, []])
PICTURES = st.just((8, 8)).flatmap(lambda shape: arrays(np.uint8, shape)).map(Image.fromarray)
ROW = {
    "picture": PICTURES | st.none(),
    "caption": st.text(max_size=20) | st.sampled_from(["the digit two", 3, 2.5]) | MISSING,
    "sound": arrays(np.float32, st.integers(1, 900), elements=st.floats(-1, 1, width=32)) | st.none(),
    "numbers": st.lists(NUMBER, min_size=2, max_size=2)
    | st.lists(st.lists(NUMBER, min_size=2, max_size=2), min_size=1, max_size=4)
    | MISSING,
}
COLUMNS = {"image": "picture", "text": "caption", "audio": "sound", "stats": "numbers"}


@pytest.fixture(scope="module")
def collate(processor):
    others = {"audio": Wav2Vec2FeatureExtractor(), "stats": NumericProcessor([1.0, -2.0], [3.0, 1e-3])}
    return MultimodalCollator(MultimodalProcessor(processor.processors | others), COLUMNS, num_labels=4)


@given(st.lists(st.fixed_dictionaries({**ROW, "label": LABELS}), min_size=1, max_size=4), st.booleans())
@example([dict.fromkeys(ROW) | {"numbers": n, "label": 0} for n in ([1.0, 2.0], [[3.0, 4.0]])], False)
def test_a_row_is_collated_as_it_is_alone_and_padded_with_zeros(collate, rows, twice):
    rows = rows * (1 + twice)
    batch = collate(rows)
    assert batch["labels"].tolist() == [int(row["label"]) for row in rows] and batch["labels"].dtype == torch.long
    for name in COLUMNS:
        assert {len(value) for value in batch[name].values()} == {len(rows)}
        assert all(value.isfinite().all() for value in batch[name].values())
        for i, row in enumerate(rows):
            for key, value in collate([row])[name].items():
                found, alone = batch[name].get(key, torch.ones(len(rows), dtype=torch.bool))[i], value[0]
                if found.dim() > alone.dim():  # a vector among sequences
                    found, padding = found[0], found[1:]
                elif alone.dim():
                    found, padding = found[: len(alone)], found[len(alone) :]
                else:
                    padding = alone.new_zeros(0)
                assert torch.equal(found, alone) and not padding.any(), (name, key)


@given(st.sampled_from([*COLUMNS.items()]), JUNK)
@example(("audio", "sound"), {"array": [0.1], "sampling_rate": 0})
@example(("audio", "sound"), {"array": [0.1], "sampling_rate": "16000"})
def test_a_bad_value_is_named_or_taken_as_missing(collate, place, value):
    (name, column), row = place, {"picture": None, "caption": "two", "sound": None, "numbers": [1, 2], "label": 0}
    rows = [row, {**row, column: value}]
    try:
        batch = collate(rows)
    except ValueError as error:
        assert str(error).startswith(f"Expected {name!r} in row 1 of this batch, column {column!r}, but ")
        batch = MultimodalCollator(collate.processor, COLUMNS, on_error="missing")(rows)
        assert not batch[name]["present"][1]
    assert all(
        value.isfinite().all()
        for inputs in batch.values()
        if inputs is not batch["labels"]
        for value in inputs.values()
    )


@given(st.lists(st.dictionaries(st.sampled_from([*ROW, "label"]), st.none()), max_size=3))
def test_rows_without_their_columns_stop_with_a_sentence(collate, rows):
    with pytest.raises(ValueError, match=r"^Expected "):
        collate(rows)


def test_columns_and_processor_with_other_names(processor):
    with pytest.raises(ValueError, match=r"Expected a column for each of the processor's modalities"):
        MultimodalCollator(processor, {"image": "picture"})


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


def test_every_kind_in_one_batch(media):
    dataset, collator = media
    batch = collator(list(dataset))
    shapes = {
        name: {key: tuple(value.shape) for key, value in inputs.items()}
        for name, inputs in batch.items()
        if name != "labels"
    }
    assert shapes == {
        "image": {"pixel_values": (6, 3, 8, 8), "present": (6,)},
        "frames": {"pixel_values": (6, 3, 3, 8, 8), "frame_mask": (6, 3)},
        "video": {"pixel_values": (6, 4, 3, 8, 8)},
        "text": {"input_ids": (6, 3), "attention_mask": (6, 3), "present": (6,)},
        "speech": {"input_values": (6, 1800), "attention_mask": (6, 1800)},
        "spectrum": {"pixel_values": (6, 1, 33, 49)},
        "vitals": {"values": (6, 2)},
    }
    # clips of 8 kHz, at the 16 kHz of the extractor
    assert batch["speech"]["attention_mask"].sum(1).tolist() == [800 + 200 * i for i in range(6)]
    assert batch["vitals"]["values"][4].tolist() == [1.5, 0.0]


def test_a_file_that_cannot_be_read(media, tmp_path, caplog):
    dataset, collator = media
    (tmp_path / "3.png").write_bytes(b"no picture")
    rows = [{**row, "source_row": f"train.csv, row {i + 1}"} for i, row in enumerate(dataset)]
    message = r"Expected 'image' in train.csv, row 4, column 'img', but file '.*3.png' is not an image that can be read"
    with pytest.raises(UnreadableError, match=message):
        collator(rows)
    with pytest.raises(UnreadableError, match=r"in row 3 of this batch, column 'img'"):
        collator(list(dataset))
    tolerant = MultimodalCollator(collator.processor, collator.columns, on_error="missing")
    batch = tolerant(rows)
    assert batch["image"]["present"].tolist() == [False, True, True, False, True, True]
    assert "Taking 'image' as missing in train.csv, row 4, column 'img'" in caplog.text
    with pytest.raises(ValueError, match="Expected `on_error` to be"):
        MultimodalCollator(collator.processor, collator.columns, on_error="ignore")


def test_a_value_of_another_kind(media):
    dataset, collator = media
    for column, value, message in [
        ("caption", ["a", "b"], "a list is not a text"),
        ("speech", 3, "a int is not audio"),
        ("age", "old", "is not a vector of numbers"),
    ]:
        with pytest.raises(UnreadableError, match=message):
            collator([{**dataset[1], column: value}])


def test_a_video_where_pictures_are_expected(media):
    dataset, collator = media
    tolerant = MultimodalCollator(
        MultimodalProcessor({"image": collator.processor.processors["image"]}), {"image": "clip"}, on_error="missing"
    )
    with pytest.raises(ValueError, match=r"got the video .*mp4'; say how many frames to take of each"):
        tolerant(list(dataset))


def test_a_column_with_the_name_of_features(processor, digits):
    collator = MultimodalCollator(processor, {"image": "picture", "text": "text_features"})
    rows = [{**row, "text_features": row["caption"]} for row in digits.select(range(3))]
    assert collator(rows)["text"]["input_ids"].shape[0] == 3


def test_a_table_is_read_by_the_names_of_its_columns():
    rows = [{"city": "a", "age": 1.0, "label": 0}, {"city": None, "age": None, "label": 1}]
    rows += [{"city": "b", "age": 3.0, "label": 1}, {"city": "b", "age": None, "label": 0}]
    processor = MultimodalProcessor({"stats": TabularProcessor.fit(rows, ["age"], ["city"])})
    collator = MultimodalCollator(processor, {"stats": ["city", "age"]})
    assert collator.columns == {"stats": ["age", "city"]}
    batch = collator(rows)["stats"]
    assert batch["values"].tolist() == [[-1.0], [0.0], [1.0], [0.0]]
    assert batch["categories"].tolist() == [[2], [0], [3], [3]]
    assert batch["present"].tolist() == present_rows(rows, collator.columns)["stats"].tolist() == [1, 0, 1, 1]
    cached = collator.cache(Dataset.from_list(rows))
    assert cached.column_names == ["label", "__features__stats"]
    for key, value in collator([cached[i] for i in range(4)])["stats"].items():
        assert torch.equal(value, batch[key])
    with pytest.raises(ValueError, match=r"Expected the columns \['age', 'city'\] of 'stats', .* \['age', 'town'\]"):
        MultimodalCollator(processor, {"stats": ["age", "town"]})
    with pytest.raises(UnreadableError, match=r"Expected 'stats' in row 0 .*'old' in column 'age' is not a number"):
        collator([rows[0] | {"age": "old"}])
    one = MultimodalProcessor({"stats": TabularProcessor.fit(rows, ["age"])})
    assert MultimodalCollator(one, {"stats": "age"})(rows[:1])["stats"]["values"].tolist() == [[-1.0]]
