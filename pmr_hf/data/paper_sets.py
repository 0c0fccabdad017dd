"""The datasets of the paper, by their names in `--dataset`: how each is read, and the settings to train on it."""

from collections.abc import Callable
from dataclasses import dataclass

from datasets import DatasetDict

from .ave import read_ave
from .cg_mnist import Digits, cg_mnist, read_dataset, read_mnist, read_sklearn_digits
from .crema_d import read_crema_d
from .tables import draw_rows


@dataclass
class ReadOptions:
    """The user's options for reading a dataset of the paper. Each dataset uses only some of them."""

    data_dir: str | None = None  # folder of the raw download
    dataset_name: str | None = None  # cg_mnist: a copy of MNIST on the Hub or in a folder, in place of `data_dir`
    split: str = "public"  # crema_d: "public" or "speaker"
    validation_size: float = 0.1  # share of the training rows, for sets without a validation split
    test_correlation: float = 0.0  # digits and cg_mnist: see `cg_mnist`
    max_train_samples: int | None = None
    reference_samples: int = 0  # digits and cg_mnist
    seed: int = 0


@dataclass
class PaperSet:
    """One dataset: how to read it, and the settings to train on it."""

    read: Callable[[ReadOptions], DatasetDict]
    columns: dict[str, str]  # column of each modality
    encoders: dict[str, str]  # encoder of each modality, a name in `NEW_ENCODERS`
    frames: dict[str, int]  # number of frames to take from each video, by modality
    rate: float  # default learning rate
    epochs: int  # default number of epochs
    preprocess: str = "on_the_fly"  # default of `--preprocess`
    clip_seconds: float = 3  # length of every spectrogram, in seconds
    # A step of SGD is as long as its gradient. The gradients of PMR's terms are longer than those of the fused loss, so
    # clipping their sum would shorten the steps along the fused loss. The authors do not clip.
    max_grad_norm: float = 0.0


# ---- Reading ----


def _read_digits(options: ReadOptions) -> DatasetDict:
    return _color(read_sklearn_digits(), options)


def _read_cg_mnist(options: ReadOptions) -> DatasetDict:
    if options.dataset_name is not None:
        return _color(read_dataset(options.dataset_name), options)
    return _color(read_mnist(_folder("cg_mnist", options)), options)


def _color(digits: dict[str, Digits], options: ReadOptions) -> DatasetDict:
    return cg_mnist(
        digits,
        test_correlation=options.test_correlation,
        validation_size=options.validation_size,
        max_train_samples=options.max_train_samples,
        reference_samples=options.reference_samples,
        seed=options.seed,
    )


def _read_crema_d(options: ReadOptions) -> DatasetDict:
    splits = read_crema_d(_folder("crema_d", options), options.split, options.validation_size, options.seed)
    splits["train"] = draw_rows(splits["train"], options.max_train_samples, options.seed)
    return splits


def _read_ave(options: ReadOptions) -> DatasetDict:
    splits = read_ave(_folder("ave", options))
    splits["train"] = draw_rows(splits["train"], options.max_train_samples, options.seed)
    return splits


def _folder(dataset: str, options: ReadOptions) -> str:
    if options.data_dir is None:
        raise ValueError(f"Expected --data_dir with --dataset {dataset}; give the folder of its raw download.")
    return options.data_dir


# ---- The table ----

# For the paper's datasets: the paper's batch size and optimizer.
PAPER_DEFAULTS = {
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 256,
    "optim": "sgd",
    "optim_args": "momentum=0.9,weight_decay=1e-4",
}
PAPER_INITIALIZATION = "kaiming"  # as the authors draw new weights
PAPER_ALPHA = 2.0
PAPER_SETS = {
    "digits": PaperSet(  # CG-MNIST with the small digits of scikit-learn, which need no download
        read=_read_digits,
        columns={"gray": "gray", "colored": "colored"},
        encoders={"gray": "cg_mnist_gray", "colored": "cg_mnist"},
        frames={},
        rate=3e-1,  # the best of 0.03, 0.1 and 0.3 on validation, for joint training and for PMR
        epochs=40,
        preprocess="cached",
        max_grad_norm=1.0,  # so few digits would diverge without clipping
    ),
    "cg_mnist": PaperSet(
        read=_read_cg_mnist,
        columns={"gray": "gray", "colored": "colored"},
        encoders={"gray": "cg_mnist_gray", "colored": "cg_mnist"},
        frames={},
        rate=1e-2,  # a tenth of the paper's epochs at ten times its rate
        epochs=10,
        preprocess="cached",
    ),
    "crema_d": PaperSet(
        read=_read_crema_d,
        columns={"audio": "audio", "visual": "video"},
        encoders={"audio": "spectrogram", "visual": "resnet18"},
        frames={"visual": 3},
        rate=1e-3,
        epochs=130,
    ),
    "ave": PaperSet(
        read=_read_ave,
        columns={"audio": "audio", "visual": "video"},
        encoders={"audio": "spectrogram", "visual": "resnet18"},
        frames={"visual": 4},
        rate=1e-3,
        epochs=130,
        clip_seconds=10,
    ),
}
