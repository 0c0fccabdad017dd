"""The model that a script builds from its arguments."""

import pytest
from datasets import Dataset

from pmr_hf import CGMNISTConfig
from pmr_hf.command_line.build import add_new_encoders, build_collator, build_model, pretrained_processor
from pmr_hf.command_line.script_arguments import ScriptArguments


@pytest.mark.parametrize(("given", "expected"), [(None, True), (True, True), (False, False)])
def test_channels_last_reaches_the_model(given, expected):
    args = ScriptArguments(channels_last=given)
    model = build_model(args, {"gray": CGMNISTConfig(num_channels=1, hidden_size=4)}, ["a", "b"])
    assert model.channels_last is given and model.reads_channels_last("gray") == expected


@pytest.mark.parametrize(("modalities", "frames"), [(None, "random"), (["visual"], "random"), (["audio"], "even")])
def test_random_frames_are_of_the_videos_that_a_run_has(modalities, frames):
    args = ScriptArguments(
        dataset="crema_d", augment=["visual=basic"], frames="random", modalities=modalities, method="joint"
    )
    _, processor = add_new_encoders(args, pretrained_processor(args), Dataset.from_dict({}))
    collator = build_collator(args, processor)
    assert collator.frames == frames and collator.augment.keys() == ({"visual"} & processor.processors.keys())


def test_random_frames_without_videos_are_refused():
    args = ScriptArguments(frames="random", method="joint")
    _, processor = add_new_encoders(args, pretrained_processor(args), Dataset.from_dict({}))
    with pytest.raises(ValueError, match="Expected `num_frames` of a modality with frames='random', got none"):
        build_collator(args, processor)
