"""The fingerprint of cached features depends on what decides the features, and on nothing else."""

import copy
from pathlib import Path

import pytest
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

        monkeypatch.setattr("pmr_hf.model.processor.custom_object_save", save_code)
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
