"""
Colored-and-gray digits (CG-MNIST): two pictures of each digit, one in gray and one in a colour.

One of the paper's datasets (PMR, CVPR 2023, section 4.1; the colours follow Kim et al. 2019, "Learning Not to Learn").
In training, the colour gives the label away. A model therefore learns the modality "colored" at once. In the test
split, however, the colour says little about the label. The modality "gray" takes longer to learn and generalises.
"""

import gzip
import io
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, load_dataset
from PIL import Image as PILImage
from tqdm.auto import tqdm


# Mean colours of the ten classes, RGB
COLORS = np.array(
    [
        (220, 20, 60),
        (0, 128, 128),
        (253, 233, 16),
        (0, 149, 182),
        (237, 145, 33),
        (145, 30, 188),
        (70, 240, 240),
        (250, 197, 187),
        (210, 245, 60),
        (128, 0, 0),
    ]
)
COLOR_VARIANCE = 0.030  # of the Gaussian jitter of each channel, for colours in [0, 1]
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
MNIST_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}

Digits = tuple[np.ndarray, np.ndarray]  # images (N, H, W) uint8, labels (N,)


def read_sklearn_digits() -> dict[str, Digits]:
    """Read the 1,797 digits of 8 x 8 pixels in scikit-learn, as `train` (three quarters) and `test` (a quarter)."""
    from sklearn.datasets import load_digits  # slow to import
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = (digits.images * (255 / 16)).round().astype(np.uint8)
    train, test = train_test_split(np.arange(len(images)), test_size=0.25, stratify=digits.target, random_state=0)
    return {name: (images[rows], digits.target[rows]) for name, rows in (("train", train), ("test", test))}


def read_mnist(data_dir: str | Path) -> dict[str, Digits]:
    """
    Read the raw MNIST files, `train` (60,000) and `test` (10,000), from one folder, gzipped or not.

    Raises:
        FileNotFoundError: if files are missing; the message names them.
    """
    folder = Path(data_dir)
    missing = [
        name
        for names in MNIST_FILES.values()
        for name in names
        if not (folder / name).is_file() and not (folder / f"{name}.gz").is_file()
    ]
    if missing:
        raise FileNotFoundError(
            f"Expected the raw MNIST files in {folder}, but {missing} are missing there (with or without .gz); give "
            "the folder that holds all four as --data_dir."
        )

    def read(name: str, header: int) -> np.ndarray:
        file = folder / name
        data = file.read_bytes() if file.is_file() else gzip.decompress((folder / f"{name}.gz").read_bytes())
        return np.frombuffer(data, np.uint8, offset=header)

    return {
        split: (read(images, 16).reshape(-1, 28, 28), read(labels, 8).astype(np.int64))
        for split, (images, labels) in MNIST_FILES.items()
    }


def read_dataset(name_or_path: str) -> dict[str, Digits]:
    """
    Read a copy of MNIST on the Hub or in a folder, with the splits `train` and `test` and the columns `image` and
    `label`.
    """
    splits = load_dataset(name_or_path)
    return {
        split: (
            np.stack(
                [np.asarray(image.convert("L")) for image in tqdm(splits[split]["image"], desc=f"Reading {split}")]
            ),
            np.asarray(splits[split]["label"]),
        )
        for split in ("train", "test")
    }


def class_colors(labels: np.ndarray, correlation: float, generator: np.random.Generator) -> np.ndarray:
    """
    Draw a colour for each digit, (N, 3) in [0, 1]: the mean colour of a class plus Gaussian jitter.

    Args:
        labels (`np.ndarray`): (N,) classes in 0..9.
        correlation (`float`): share of the digits, in [0, 1], that get the colour of their own class. The others get
            the colour of a random class.
        generator (`np.random.Generator`): the source of all randomness.
    """
    own = generator.random(len(labels)) < correlation
    classes = np.where(own, labels, generator.integers(0, len(COLORS), len(labels)))
    jitter = generator.normal(0, np.sqrt(COLOR_VARIANCE), (len(labels), 3))
    return (COLORS[classes] / 255 + jitter).clip(0, 1)


def colored_and_gray(
    images: np.ndarray, labels: np.ndarray, correlation: float, generator: np.random.Generator, description: str = ""
) -> Dataset:
    """
    Build a dataset with the columns `gray` (the digit), `colored` (the digit in its colour) and `label`.

    Args:
        images (`np.ndarray`): (N, H, W) uint8.
        labels (`np.ndarray`): (N,) classes in 0..9.
        correlation (`float`): see [`class_colors`].
        generator (`np.random.Generator`): the source of all randomness.
        description (`str`, *optional*): label of the progress bar.
    """
    colors = class_colors(labels, correlation, generator)
    rows = tqdm(zip(images, colors, strict=True), total=len(images), desc=f"Coloring {description}", leave=False)
    pictures = [(_png(image), _png((image[:, :, None] * color).round().astype(np.uint8))) for image, color in rows]
    return Dataset.from_dict(
        {
            "gray": [{"bytes": gray, "path": None} for gray, _ in pictures],
            "colored": [{"bytes": colored, "path": None} for _, colored in pictures],
            "label": labels.tolist(),
        },
        features=Features({"gray": Image(), "colored": Image(), "label": ClassLabel(names=NAMES)}),
    )


def cg_mnist(
    digits: dict[str, Digits],
    test_correlation: float = 0.0,
    validation_size: float | int = 0.1,
    max_train_samples: int | None = None,
    seed: int = 0,
    reference_samples: int = 0,
) -> DatasetDict:
    """
    Build the colored-and-gray splits `train`, `validation` and `test`. The same seed gives the same splits.

    Training digits have the colours of their classes. Validation digits are taken out of the training digits, so the
    splits share no digit. They are coloured like the test digits, so that models are selected under test conditions.

    Args:
        digits (`dict[str, Digits]`): `train` and `test` digits.
        test_correlation (`float`, *optional*, defaults to `0.0`): share of the validation and test digits, in [0, 1],
            that get the colour of their own class. The others get the colour of a random class, so that 0.0 leaves no
            correlation. The paper calls its correlation weak and gives no number.
        validation_size (`float | int`, *optional*, defaults to `0.1`): share or number of the training digits to take
            out for validation.
        max_train_samples (`int`, *optional*): train on at most this many digits, at least 1, drawn at random.
        seed (`int`, *optional*, defaults to `0`): seed of the splits and the colours.
        reference_samples (`int`, *optional*, defaults to `0`): number of training digits to set aside as the split
            `prototypes`, for `PMRTrainer(prototype_dataset=...)`, with the same share of each class. They are coloured
            at random, and are in no other split.

    Raises:
        ValueError: for a `test_correlation` outside [0, 1], `max_train_samples` below 1, or `reference_samples` that
            are fewer than the classes or leave no training digits.
    """
    from sklearn.model_selection import train_test_split  # slow to import

    if not 0 <= test_correlation <= 1:
        raise ValueError(f"Expected `test_correlation` in [0, 1], got {test_correlation}; 0 leaves no correlation.")
    if max_train_samples is not None and max_train_samples < 1:
        raise ValueError(f"Expected `max_train_samples` of at least 1, got {max_train_samples}; leave it out for all.")
    images, labels = digits["train"]
    train, validation = train_test_split(
        np.arange(len(labels)), test_size=validation_size, stratify=labels, random_state=seed
    )
    reference = train[:0]
    if reference_samples:
        if not len(NAMES) <= reference_samples <= len(train) - len(NAMES):
            raise ValueError(
                f"Expected `reference_samples` of {len(NAMES)} to {len(train) - len(NAMES)}, got {reference_samples}; "
                "10 to 50 of each class are enough."
            )
        train, reference = train_test_split(
            train, test_size=reference_samples, stratify=labels[train], random_state=seed
        )
    if max_train_samples is not None:
        train = np.random.default_rng([seed, len(train)]).permutation(train)[:max_train_samples]
    splits = {
        "train": (images[train], labels[train], 1.0),
        "validation": (images[validation], labels[validation], test_correlation),
        "test": (*digits["test"], test_correlation),
    }
    if reference_samples:
        splits["prototypes"] = (images[reference], labels[reference], 0.0)
    return DatasetDict(
        {
            name: colored_and_gray(*split, np.random.default_rng([seed, i]), description=name)
            for i, (name, split) in enumerate(splits.items())
        }
    )


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    PILImage.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
