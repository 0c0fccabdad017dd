"""Colored-and-gray MNIST: its splits and its colors, made from scikit-learn's digits."""

import gzip
import struct

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PILImage
from sklearn.datasets import load_digits

from pmr_hf.data.cg_mnist import (
    COLOR_VARIANCE,
    COLORS,
    cg_mnist,
    class_colors,
    read_dataset,
    read_mnist,
    read_sklearn_digits,
)


@pytest.fixture(scope="module")
def digits():
    return read_sklearn_digits()


@pytest.fixture(scope="module")
def splits(digits):
    return cg_mnist(digits, max_train_samples=300, seed=1)


def gray_rows(split):
    return {np.asarray(row).tobytes() for row in split["gray"][:]}


def test_three_disjoint_splits_of_real_digits(digits, splits):
    assert {name: len(split) for name, split in splits.items()} == {"train": 300, "validation": 135, "test": 450}
    rows = {name: gray_rows(split) for name, split in splits.items()}
    assert not rows["train"] & rows["validation"]
    assert not rows["train"] & rows["test"]
    assert not rows["validation"] & rows["test"]
    # they are the scans of scikit-learn, with their labels
    scans = {
        (scan * 255 / 16).round().astype(np.uint8).tobytes(): y
        for scan, y in zip(*load_digits(return_X_y=True), strict=True)
    }
    for row in splits["test"].select(range(20)):
        assert scans[np.asarray(row["gray"]).tobytes()] == row["label"]


def test_the_same_seed_gives_the_same_data(digits, splits):
    again, other = cg_mnist(digits, max_train_samples=300, seed=1), cg_mnist(digits, max_train_samples=300, seed=2)
    for name, split in splits.items():
        assert split.data.table.equals(again[name].data.table)
        assert not split.data.table.equals(other[name].data.table)


def test_both_pictures_show_one_digit(splits):
    for row in splits["train"].select(range(20)):
        gray, colored = np.asarray(row["gray"]).astype(float), np.asarray(row["colored"]).astype(float)
        assert gray.shape == (8, 8) and colored.shape == (8, 8, 3)
        color = colored[gray.argmax() // 8, gray.argmax() % 8] / gray.max()
        np.testing.assert_allclose(colored, gray[:, :, None] * color, atol=2)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 1.0])
def test_colors_follow_the_class_as_often_as_asked(correlation):
    labels = np.repeat(np.arange(10), 2000)
    colors = class_colors(labels, correlation, np.random.default_rng(0))
    assert colors.min() >= 0 and colors.max() <= 1
    # How often the nearest mean color is that of the class: `correlation` of the time, and for a tenth of the rest by
    # chance. Jitter confuses some neighbors, so the same rule on colors that always follow the class is the reference.
    nearest = ((colors[:, None] - COLORS[None] / 255) ** 2).sum(2).argmin(1) == labels
    sure = class_colors(labels, 1.0, np.random.default_rng(1))
    recognised = (((sure[:, None] - COLORS[None] / 255) ** 2).sum(2).argmin(1) == labels).mean()
    expected = correlation * recognised + (1 - correlation) * 0.1
    assert nearest.mean() == pytest.approx(expected, abs=0.02)


def test_jitter_has_the_papers_variance():
    # Green and blue of class 1 are 128, far from where a normal distribution of deviation 0.17 is clipped.
    colors = class_colors(np.ones(20000, dtype=int), 1.0, np.random.default_rng(0))
    assert colors[:, 1].mean() == pytest.approx(128 / 255, abs=0.01)
    assert colors[:, 1].var() == pytest.approx(COLOR_VARIANCE, rel=0.05)


def test_a_correlation_outside_its_range(digits):
    with pytest.raises(ValueError, match=r"test_correlation` in \[0, 1\], got 1.5"):
        cg_mnist(digits, test_correlation=1.5)


def idx(array, header):
    return struct.pack(">" + "I" * len(header), *header) + array.tobytes()


def test_raw_mnist_files(tmp_path):
    images = np.arange(3 * 28 * 28, dtype=np.uint8).reshape(3, 28, 28)
    labels = np.array([7, 0, 9], dtype=np.uint8)
    with pytest.raises(FileNotFoundError, match=r"\['train-images-idx3-ubyte', .*are missing there"):
        read_mnist(tmp_path)
    for split in ("train", "t10k"):
        (tmp_path / f"{split}-images-idx3-ubyte").write_bytes(idx(images, (2051, 3, 28, 28)))
        (tmp_path / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels, (2049, 3))))
    for read_images, read_labels in read_mnist(tmp_path).values():
        assert np.array_equal(read_images, images) and read_labels.tolist() == [7, 0, 9]


def test_a_copy_in_a_folder(digits, tmp_path):
    features = Features({"image": Image(), "label": ClassLabel(num_classes=10)})
    for split, (images, labels) in digits.items():
        rows = {"image": [PILImage.fromarray(image) for image in images[:20]], "label": labels[:20].tolist()}
        DatasetDict({split: Dataset.from_dict(rows, features=features)})[split].to_parquet(
            tmp_path / f"{split}.parquet"
        )
    for split, (images, labels) in read_dataset(str(tmp_path)).items():
        assert np.array_equal(images, digits[split][0][:20]) and np.array_equal(labels, digits[split][1][:20])


def test_reference_digits_are_in_no_other_split_and_in_random_colours(digits):
    plain, splits = cg_mnist(digits, seed=3), cg_mnist(digits, seed=3, reference_samples=100)
    assert "prototypes" not in plain and splits["prototypes"].num_rows == 100
    assert splits["train"].num_rows == plain["train"].num_rows - 100
    for name in ("validation", "test"):
        assert splits[name][:] == plain[name][:]

    def pictures(name):
        return [image.tobytes() for image in splits[name]["gray"]]

    reference, others = set(pictures("prototypes")), {"train", "validation", "test"}
    assert len(reference) == 100 and not any(reference & set(pictures(name)) for name in others)
    labels = np.asarray(splits["prototypes"]["label"])
    assert np.bincount(labels, minlength=10).min() >= 9  # as many of each class
    # The colour of the brightest pixel is not that of the class: far from it for most digits
    brightest = np.stack([np.asarray(image).reshape(-1, 3).max(0) / 255 for image in splits["prototypes"]["colored"]])
    away = np.abs(brightest - COLORS[labels] / 255).max(1)
    assert (away > 0.4).mean() > 0.5
    train = splits["train"]
    own = np.stack([np.asarray(image).reshape(-1, 3).max(0) / 255 for image in train["colored"]])
    assert (np.abs(own - COLORS[np.asarray(train["label"])] / 255).max(1) > 0.4).mean() < 0.2


@pytest.mark.parametrize("count", [5, 10**6])
def test_too_few_or_too_many_reference_digits(digits, count):
    with pytest.raises(ValueError, match=rf"Expected `reference_samples` of 10 to \d+, got {count}"):
        cg_mnist(digits, reference_samples=count)
