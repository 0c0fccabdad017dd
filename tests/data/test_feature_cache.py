"""Cached features: extracted once, then read from disk."""

import os

import torch
from datasets import Dataset


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
