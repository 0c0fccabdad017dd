"""Augmentation: what the collator draws for a row, and what it refuses."""

import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2
from transformers import CLIPImageProcessor, ViTImageProcessor

from pmr_hf import MultimodalCollator, MultimodalProcessor
from pmr_hf.data.augmentation import DRAW, CropAndFlip, basic_augmentation
from pmr_hf.model.media import read_frames


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def drawn(rows, epoch=0, seed=0):
    return [{**row, DRAW: (seed, epoch, i)} for i, row in enumerate(rows)]


@pytest.fixture
def varying(media):
    """A collator that varies four modalities, with the generators of torch, NumPy and Python."""
    collator = media[1]
    augment = {
        "image": v2.RandomResizedCrop(8),
        "frames": v2.RandomHorizontalFlip(),
        "speech": lambda wave: wave * np.float32(np.random.uniform(0.5, 1)),
        "text": lambda text: " ".join(random.sample(text.split(), 3)),
    }
    return MultimodalCollator(collator.processor, collator.columns, augment=augment, frames="random")


def different(left, right):
    """The modalities whose inputs differ between two batches."""
    names = left.keys() - {"labels"}
    return {
        name for name in names if any(not torch.equal(value, right[name][key]) for key, value in left[name].items())
    }


def test_draws_depend_on_seed_epoch_and_row_alone(varying, media):
    rows = list(media[0])
    before = states()
    first = varying(drawn(rows))
    torch.rand(1), random.random()
    assert different(first, varying(drawn(rows))) == set()
    alone = varying(drawn(rows)[3:4])
    assert torch.equal(alone["image"]["pixel_values"][0], first["image"]["pixel_values"][3])
    varied = {"image", "frames", "video", "speech", "text"}
    assert different(first, varying(drawn(rows, epoch=1))) == different(first, varying(drawn(rows, seed=1))) == varied
    twins = varying(drawn([rows[1], rows[1]]))["image"]["pixel_values"]
    assert not torch.equal(twins[0], twins[1])
    random.setstate(before[0]), torch.set_rng_state(torch.tensor(before[2], dtype=torch.uint8))
    varying(drawn(rows))
    assert states() == before


def test_other_rows_and_caches_are_read_as_they_are(varying, media):
    dataset, plain = media
    assert different(varying(list(dataset)), plain(list(dataset))) == set()
    assert different(varying(list(varying.cache(dataset))), plain(list(dataset))) == set()


def test_a_transform_gets_what_was_read(media):
    dataset, plain = media
    collator = MultimodalCollator(plain.processor, plain.columns, augment={"image": ImageOps.invert})
    row = dataset[2]
    inverted = {**row, "img": ImageOps.invert(Image.open(row["img"]))}
    assert different(collator(drawn([row])), plain([inverted])) == set()
    assert not collator(drawn([dataset[0]]))["image"]["present"].any()  # a missing picture stays missing


def test_the_frames_of_a_video_are_cropped_alike(media):
    dataset, plain = media
    frame = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    collator = MultimodalCollator(plain.processor, plain.columns, augment={"frames": v2.RandomResizedCrop(16)})
    pixels = collator(drawn([{**dataset[1], "clip": [frame] * 3}]))["frames"]["pixel_values"][0]
    assert torch.equal(pixels[0], pixels[1]) and torch.equal(pixels[0], pixels[2])
    assert not torch.equal(pixels[0], plain([{**dataset[1], "clip": [frame]}])["frames"]["pixel_values"][0, 0])


def test_random_frames_are_one_of_each_segment():
    """Ten frames in three segments of 10/3: frame 3 is in the first with 1/3 of its length, in the second with 2/3."""
    video = np.stack([np.full((4, 4, 3), i, dtype=np.uint8) for i in range(10)])
    draws = np.array(
        [[np.asarray(frame)[0, 0, 0] for frame in read_frames(video, 3, at_random=True)] for _ in range(3000)]
    )
    for segment, (first, last) in enumerate([(0, 3), (3, 6), (6, 9)]):
        assert set(draws[:, segment]) == set(range(first, last + 1))
    assert (draws[:, 0] == 3).mean() == pytest.approx(0.1, abs=0.03)
    assert (draws[:, 1] == 3).mean() == pytest.approx(0.2, abs=0.03)


def test_random_frames_of_a_file_are_frames_of_the_file(media):
    clip = media[0][0]["clip"]
    whole = [np.asarray(frame) for frame in read_frames(clip, 6)]
    for frame, segment in zip(read_frames(clip, 2, at_random=True), (whole[:3], whole[3:]), strict=True):
        assert any(np.array_equal(np.asarray(frame), other) for other in segment)


@pytest.mark.parametrize(
    ("processor", "size"),
    [
        (ViTImageProcessor(size={"height": 6, "width": 4}), (4, 6)),
        (CLIPImageProcessor(size={"shortest_edge": 5}), (5, 5)),
        (ViTImageProcessor(do_resize=False), (9, 7)),
    ],
)
def test_the_basic_augmentation_crops_to_the_size_that_the_processor_takes(processor, size):
    """Widths and heights, of a picture of 9 x 7."""
    crop = basic_augmentation(MultimodalProcessor({"image": processor}), "image")
    assert crop(Image.new("L", (9, 7))).size == size


def test_the_basic_augmentation_flips_half_and_keeps_parts():
    """A gradient from left to right stays one, or is flipped, and is seldom whole."""
    picture = Image.fromarray(np.tile(np.arange(0, 240, 4, dtype=np.uint8), (60, 1)))
    torch.manual_seed(0)
    crops = [np.asarray(CropAndFlip()(picture)).astype(int) for _ in range(200)]
    flipped = [crop[0, 0] > crop[0, -1] for crop in crops]
    spans = [abs(crop[0, 0] - crop[0, -1]) for crop in crops]
    assert np.mean(flipped) == pytest.approx(0.5, abs=0.12) and min(spans) < 120 < max(spans)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": {"pictures": ImageOps.invert}}, r"Expected `augment` for modalities among .*got \['pictures'\]"),
        ({"augment": {"image": "basic"}}, "Expected a callable for each modality in `augment`, got {'image': 'basic'}"),
        ({"frames": "some"}, "Expected `frames` to be 'even' or 'random', got 'some'"),
        ({"frames": "random"}, "Expected `num_frames` of a modality with frames='random', got none"),
    ],
)
def test_what_a_collator_cannot_vary_is_refused(processor, options, message):
    with pytest.raises(ValueError, match=message):
        MultimodalCollator(processor, {"image": "picture", "text": "caption"}, **options)
    with pytest.raises(ValueError, match=r"among \['image'\], got 'text'"):
        basic_augmentation(processor, "text")


@pytest.mark.parametrize(
    ("name", "transform", "message"),
    [
        (
            "image",
            v2.ToImage(),
            "transform of 'image' in `augment` to return the type that it gets, PIL.Image, got .*tv_tensors",
        ),
        ("video", v2.ToImage(), "transform of 'video' in `augment` to return the type that it gets"),
        (
            "speech",
            torch.tensor,
            "transform of 'speech' in `augment` to return the type that it gets, ndarray, got .*torch.Tensor",
        ),
        ("speech", lambda wave: wave / 0, "transform of 'speech' in `augment` .* finite samples"),
        ("text", str.encode, "transform of 'text' in `augment` to return the type that it gets, str, got .*bytes"),
        ("vitals", lambda values: values[:1], r"transform of 'vitals' .* is not a vector \(2,\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value", "ignore:divide by zero")
@pytest.mark.parametrize("on_error", ["raise", "missing"])
def test_a_transform_that_returns_something_else_is_named(media, name, transform, message, on_error):
    """Also where values that cannot be read are taken as missing: all of them would be."""
    dataset, plain = media
    collator = MultimodalCollator(plain.processor, plain.columns, augment={name: transform}, on_error=on_error)
    with pytest.raises(ValueError, match=message):
        collator(drawn([dataset[1]]))
