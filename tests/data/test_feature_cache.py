"""Cached features: extracted once, then read from disk. Only what decides the features changes their fingerprint."""

import copy
import os
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import ViTImageProcessor

from pmr_hf import MultimodalProcessor
from pmr_hf.data import feature_cache
from pmr_hf.data.feature_cache import feature_fingerprint


@pytest.fixture
def rows(tmp_path):
    (tmp_path / "a.png").write_bytes(b"1234")
    return Dataset.from_list([{"picture": str(tmp_path / "a.png"), "caption": "the digit two"}])


@pytest.fixture
def fingerprint(rows, processor):
    """The fingerprint of the rows, for a processor with these settings."""

    def of(num_frames=None, on_error="raise", columns=None, **settings):
        processors = {"image": ViTImageProcessor(**settings), "text": copy.deepcopy(processor.processors["text"])}
        whole = MultimodalProcessor(processors, num_frames=num_frames)
        return feature_fingerprint(rows, whole, columns or {"image": "picture", "text": "caption"}, on_error)

    return of


def test_a_comment_in_the_code_that_is_saved_does_not_change_it(fingerprint, monkeypatch):
    """Neither in the code of this package, which travels with a processor, nor in that of one modality's processor."""
    found, save = set(), ViTImageProcessor.save_pretrained
    for comment in ("# a comment", "# another comment"):

        def save_code(processor, folder, config=None, comment=comment):
            Path(folder, "travelling.py").write_text(comment)

        def save_with_code(processor, folder, comment=comment):
            save(processor, folder)
            Path(folder, "own.py").write_text(comment)

        monkeypatch.setattr("pmr_hf.model.multimodal_processor.custom_object_save", save_code)
        monkeypatch.setattr(ViTImageProcessor, "save_pretrained", save_with_code)
        found.add(fingerprint())
    assert len(found) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"do_resize": False},
        {"image_mean": [0.1, 0.2, 0.3]},
        {"num_frames": {"image": 2}},
        {"on_error": "missing"},
        {"columns": {"image": "caption", "text": "picture"}},
    ],
)
def test_a_setting_changes_it(fingerprint, change):
    assert fingerprint(**change) != fingerprint()


def test_a_named_file_changes_it(fingerprint, rows):
    before = fingerprint()
    Path(rows[0]["picture"]).write_bytes(b"12345")
    assert fingerprint() != before


def test_the_version_of_the_extraction_changes_it(fingerprint, monkeypatch):
    before = fingerprint()
    monkeypatch.setattr(feature_cache, "EXTRACTION_VERSION", feature_cache.EXTRACTION_VERSION + 1)
    assert fingerprint() != before


def test_cached_features_make_the_same_batches(media, tmp_path):
    dataset, collator = media
    dataset.save_to_disk(tmp_path / "saved")
    dataset = Dataset.load_from_disk(tmp_path / "saved")
    cached = collator.cache(dataset)
    assert "clip" not in cached.column_names and cached["label"][:] == dataset["label"][:]
    expected, found = collator(list(dataset)), collator(list(cached))
    assert torch.equal(expected.pop("labels"), found.pop("labels")) and expected.keys() == found.keys()
    for name, inputs in expected.items():
        assert inputs.keys() == found[name].keys()
        for key, value in inputs.items():
            assert value.dtype == found[name][key].dtype and torch.equal(value, found[name][key]), (name, key)


def test_the_cache_is_found_again_and_left_when_something_changes(media, tmp_path):
    dataset, collator = media
    dataset.save_to_disk(tmp_path / "saved")
    dataset = Dataset.load_from_disk(tmp_path / "saved")

    def files(collator):
        return collator.cache(dataset).cache_files

    first = files(collator)
    os.utime(first[0]["filename"], (1, 1))
    assert files(collator) == first and os.path.getmtime(first[0]["filename"]) == 1  # read, not written
    os.utime(dataset["clip"][2], (1, 1))
    second = files(collator)
    assert second != first
    collator.processor.processors["vitals"].mean[0] = 7.0
    assert files(collator) not in (first, second)


def test_the_cache_of_an_in_memory_dataset_and_after_other_calls(media, processor):
    dataset, collator = media  # from a list, in memory
    first = collator.cache(dataset).cache_files
    assert first and os.path.isfile(first[0]["filename"])
    processor.processors["text"](["the", "digit two"], padding=True)
    assert collator.cache(Dataset.from_list(dataset.to_list())).cache_files == first
    os.remove(first[0]["filename"])


def test_a_subclass_of_the_processor_has_features_of_its_own(rows, processor):
    class Doubled(MultimodalProcessor):
        pass

    found = {
        feature_fingerprint(rows, cls(processor.processors), {"image": "picture", "text": "caption"}, "raise")
        for cls in (MultimodalProcessor, Doubled)
    }
    assert len(found) == 2
