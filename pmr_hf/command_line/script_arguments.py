"""
The command-line arguments of `examples/run_pmr.py` for the method, the data and the model.

The options of training are the fields of `training/arguments.py` and of the method's file, and are not repeated here.
"""

from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from ..data.columns import as_list, parse_column
from ..data.default_encoders import DEFAULT_ENCODERS
from ..data.infer_columns import CELLS, TABULAR, InferredColumns
from ..data.new_encoders import NEW_ENCODERS
from ..data.paper_sets import PAPER_SETS
from ..data.table_files import check_encoding
from ..data.target_columns import target_name
from ..methods import METHODS
from ..model.fusion import FUSIONS
from ..model.initialization import INITIALIZATIONS
from ..model.targets import PROBLEM_TYPES, REGRESSION, SINGLE_LABEL
from .defaults import RECIPES
from .option_checks import check_augmentation, check_no_table_is_forgotten, check_problem_type, check_ranges


# Arguments that are given as modality=value and become a dict by modality
BY_MODALITY = ("columns", "backbones", "augment", "pooling", "num_frames", "lora")
PAIRS = {"metavar": "modality=..."}


@dataclass
class ScriptArguments:
    """
    Arguments for the method, the data and the model. Lists of modality=value become dicts by modality.

    Raises:
        ValueError: for a value outside its range, modalities that do not match, or options of a user's own data
            without its table.
    """

    #: For a user's own data, the kind of each inferred column of cells: "number" or "category"
    cell_kinds = MappingProxyType({})
    #: For a user's own data, the inferred modalities that are videos
    inferred_videos = ()
    #: The modalities that --modalities does not name
    left_out = ()
    #: The columns to predict, whose names `label_column` joins. A regression may have several.
    target_columns = ("label",)
    #: Whether the length of training is a default, which depends on the number of training rows
    default_length = False
    #: Whether the command leaves open when to log
    default_logging = False

    method: str | None = field(
        default=None,
        metadata={
            "help": "The training method. 'joint' is plain training, monitored with prototypes. Default: pmr; joint "
            "in a regression, which has no classes.",
            "choices": list(METHODS),
        },
    )
    recipe: str = field(
        default="recommended",
        metadata={
            "help": "The defaults of --method pmr: 'recommended' has hard weights, alpha 1, no entropy term, modality "
            "dropout of 0.3 and the better answer of head and prototypes; 'paper' has those of the paper.",
            "choices": list(RECIPES),
        },
    )
    compare_with: str = field(
        default="none",
        metadata={
            "help": "First train with this method too, in <output_dir>-joint, and print both results. 'joint' is the "
            "default for --method pmr on the digits.",
            "choices": ["none", "joint"],
        },
    )
    search: int | None = field(
        default=None,
        metadata={
            "help": "First train this number of times with other values of the method's arguments, and take those of "
            "the best validation. Needs optuna: pip install pmr_hf[search]."
        },
    )
    # The data
    dataset: str = field(
        default="digits",
        metadata={
            "help": "One of the paper's datasets, or the digits of scikit-learn.",
            "choices": list(PAPER_SETS),
        },
    )
    data_dir: str | None = field(default=None, metadata={"help": "Folder with the raw download of --dataset."})
    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Hub name or folder of your own data, or of a copy of MNIST with --dataset cg_mnist."},
    )
    dataset_config_name: str | None = field(
        default=None, metadata={"help": "Configuration of --dataset_name on the Hub."}
    )
    train_file: str | None = field(
        default=None,
        metadata={
            "help": "Your own data: a csv, tsv, json, jsonl or parquet file, or a folder, in place of --dataset_name."
        },
    )
    validation_file: str | None = field(
        default=None,
        metadata={"help": "Validation table. By default, --validation_size of the training rows are taken out."},
    )
    validation_size: float = field(
        default=0.1,
        metadata={
            "help": "Share of the training rows to take out for validation, where the data have no validation split. "
            "diagnose.py takes 0.3."
        },
    )
    test_file: str | None = field(default=None, metadata={"help": "Test table, evaluated once, after training."})
    prototype_file: str | None = field(
        default=None,
        metadata={"help": "Table of labelled rows that the prototypes are taken from, instead of training rows."},
    )
    columns: list[str] | None = field(
        default=None,
        metadata={
            "help": "Column of each modality, as in image=picture text=title vitals=age,weight. A name that contains a "
            "comma stands in double quotes. Columns that are not named here are inferred from the training table, "
            "unless --columns and --backbones name the same modalities, in which case the model has no others.",
            **PAIRS,
        },
    )
    encoding: str | None = field(
        default=None,
        metadata={
            "help": "Encoding of csv, tsv, json and jsonl tables, such as cp1252 for Excel on Windows. Default: utf-8."
        },
    )
    label_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of the classes, labels or numbers. Default: label. Several numbers to predict have commas "
            "between them, as in width,height."
        },
    )
    problem_type: str = field(
        default=SINGLE_LABEL,
        metadata={
            "help": "What to predict of your own data: one class, any number of labels, or numbers.",
            "choices": list(PROBLEM_TYPES),
        },
    )
    label_separator: str = field(
        default="|", metadata={"help": "What stands between two labels of a cell, for multi_label_classification."}
    )
    on_error: str = field(
        default="raise",
        metadata={
            "help": "What to do with a file that cannot be read: stop, or treat the modality as missing.",
            "choices": ["raise", "missing"],
        },
    )
    preprocess: str = field(
        default="on_the_fly",
        metadata={
            "help": "Extract features batch by batch, or once to disk, which is the default for the digits and "
            "cg_mnist.",
            "choices": ["on_the_fly", "cached"],
        },
    )
    preprocess_workers: int | None = field(
        default=None, metadata={"help": "Number of processes that extract features to disk."}
    )
    augment: list[str] | None = field(
        default=None,
        metadata={
            "help": "Vary the training pictures of a modality: 'basic' crops them at random and flips half of them.",
            **PAIRS,
        },
    )
    frames: str = field(
        default="even",
        metadata={
            "help": "Frames to take from a training video: evenly spaced ones, or a random one of each equal segment.",
            "choices": ["even", "random"],
        },
    )
    modalities: list[str] | None = field(
        default=None, metadata={"help": "Train on these modalities only. By default, all are used."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on at most this many samples."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Validate on at most this many samples."})
    test_correlation: float = field(
        default=0.0,
        metadata={
            "help": "cg_mnist and digits: share of the validation and test digits in the colour of their class; the "
            "others get a random colour."
        },
    )
    reference_samples: int = field(
        default=0,
        metadata={
            "help": "cg_mnist and digits: take this number of digits out of training, colour them at random, and take "
            "the prototypes from them."
        },
    )
    split: str = field(
        default="public",
        metadata={
            "help": "crema_d: the 'public' split, or 'speaker', where no actor is in two splits.",
            "choices": ["public", "speaker"],
        },
    )
    # The model
    backbones: list[str] | None = field(
        default=None,
        metadata={
            "help": "Encoder of each modality: a Hub name, a folder, or an encoder with new weights: "
            f"{', '.join(NEW_ENCODERS)}. On your own data, a modality that is not named here gets the encoder of its "
            f"kind: {', '.join(f'{kind}: {encoder.name}' for kind, encoder in DEFAULT_ENCODERS.items())}.",
            **PAIRS,
        },
    )
    normalize_embeddings: bool = field(
        default=False,
        metadata={
            "help": "Give the embeddings of all modalities the same scale, before prototypes and fusion. Frozen "
            "encoders need it most."
        },
    )
    initialization: str = field(
        default="default",
        metadata={
            "help": "Initialisation of new encoders and heads: 'kaiming' is that of the paper's authors, and the "
            "default for new encoders on its datasets and the digits.",
            "choices": list(INITIALIZATIONS),
        },
    )
    fusion: str | None = field(
        default=None,
        metadata={
            "help": "Fusion head. Default: concat; late with --method late_fusion, shared with mla.",
            "choices": sorted(FUSIONS),
        },
    )
    embedding_dim: int | None = field(
        default=None, metadata={"help": "Project the embedding of every modality to this width."}
    )
    pooling: list[str] | None = field(
        default=None, metadata={"help": "Pooling of a modality: auto, cls, mean or max.", **PAIRS}
    )
    num_frames: list[str] | None = field(
        default=None, metadata={"help": "Number of frames to take from each video of a modality.", **PAIRS}
    )
    clip_seconds: float | None = field(
        default=None, metadata={"help": "Length of every spectrogram in seconds: 3 by default, 10 for ave."}
    )
    modality_dropout: float = field(
        default=0.0, metadata={"help": "Probability of dropping a modality of a training sample."}
    )
    lora: list[str] | None = field(
        default=None, metadata={"help": "Rank of the LoRA layers of a modality's encoder, as in text=8.", **PAIRS}
    )
    channels_last: bool | None = field(
        default=None,
        metadata={
            "help": "Whether encoders read pictures in the channels-last memory format. Default: convolutional ones do "
            "on a CPU."
        },
    )

    license: str | None = field(
        default=None,
        metadata={"help": "License of the model in its card, by its identifier on the Hub, such as apache-2.0."},
    )
    save_examples: int = field(
        default=0,
        metadata={
            "help": "Save this number of validation rows beside the model, for the demo. They are not pushed. "
            "Default: 4 of the digits, none of other data."
        },
    )
    verbose: bool = field(
        default=False,
        metadata={"help": "Print all that transformers and datasets say, each log, and the tracebacks of errors."},
    )
    overwrite_output_dir: bool = field(
        default=False,
        metadata={"help": "Remove the model, results and checkpoints of an earlier run from --output_dir first."},
    )

    def __post_init__(self):
        check_ranges(self)
        if self.method is None:
            self.method = "joint" if self.problem_type == REGRESSION else "pmr"
        self._take_fusion()
        if not self.own_data:
            check_no_table_is_forgotten(self)
        self.encoding = "utf-8" if self.encoding is None else self.encoding
        label = "label" if self.label_column is None else self.label_column
        self.target_columns = as_list(parse_column(label)) if self.problem_type == REGRESSION else [label]
        self.label_column = target_name(self.target_columns, self.problem_type)
        for name in BY_MODALITY:
            setattr(self, name, _by_modality(name, getattr(self, name) or []))
        self.columns = {name: parse_column(column) for name, column in self.columns.items()}
        check_encoding(self.encoding)
        self.num_frames = {name: _whole_number(name, value) for name, value in self.num_frames.items()}
        self.lora = {name: {"r": _whole_number(name, value)} for name, value in self.lora.items()}
        if not self.own_data:
            self._take_paper_set()
        check_problem_type(self)
        if not self.infers:
            self._check_modalities()

    @property
    def varies(self) -> bool:
        """Whether the training data differ from epoch to epoch."""
        return bool(self.augment) or self.frames == "random"

    @property
    def infers(self) -> bool:
        """Whether modalities are still to be inferred from the training table, see [`ScriptArguments.complete`]."""
        return self.own_data and (not self.columns or self.columns.keys() != self.backbones.keys())

    def complete(self, inferred: InferredColumns) -> None:
        """
        Take the modalities that were inferred beside those of --columns, and the default encoder of each modality
        for which --backbones has none.

        Raises:
            ValueError: for a table without a column to use, an encoder of an unknown modality, or a modality of
                --columns whose encoder cannot be told.
        """
        kinds = {name: _kind_of_named(name, column, inferred) for name, column in self.columns.items()}
        rest = inferred.without(self.columns)
        self.columns = self.columns | rest.columns
        if not self.columns:
            reasons = "; ".join(f"{column.name!r}: {column.reason}" for column in inferred.found) or "there are none"
            raise ValueError(f"Expected columns to train on, but all are left out ({reasons}); name some in --columns.")
        kinds |= rest.modality_kinds
        untold = [name for name, kind in kinds.items() if kind is None and name not in self.backbones]
        if untold:
            raise ValueError(
                f"Expected --backbones for {untold}, since their columns do not tell which encoder they need; give one "
                "for each."
            )
        for name in [name for name in self.columns if name not in self.backbones]:
            encoder = DEFAULT_ENCODERS[kinds[name]]
            self.backbones[name] = encoder.name
            self.pooling.setdefault(name, encoder.pooling)
        self.backbones = {name: self.backbones[name] for name in [*self.columns, *self.backbones]}  # in this order
        self.cell_kinds = {column.name: column.kind for column in inferred.found if column.kind in CELLS}
        self._check_modalities()
        self.inferred_videos = [name for name in self.columns if kinds[name] == "video"]

    @property
    def own_data(self) -> bool:
        """Whether the data is the user's own, not a dataset of the paper."""
        return self.train_file is not None or (self.dataset_name is not None and self.dataset != "cg_mnist")

    @property
    def data_name(self) -> str:
        """The name of the data for the model card: a Hub name, or the name of a file or folder without its path."""
        name = self.dataset_name or self.train_file or self.dataset
        path = Path(name).absolute()
        return name if not path.exists() else path.stem if path.is_file() else path.resolve().name

    def _take_fusion(self) -> None:
        """Fill in the fusion head. Raises `ValueError` if it is not that of the method."""
        own = METHODS[self.method].own_fusion
        self.fusion = self.fusion or own or "concat"
        if own is not None and self.fusion != own:
            raise ValueError(f"Expected --fusion {own} with --method {self.method}, got {self.fusion}; leave it out.")

    def _take_paper_set(self) -> None:
        """Fill in the columns, encoders and frames of the paper's dataset. The user may replace the last two."""
        paper_set = PAPER_SETS[self.dataset]
        self.label_column = "label"
        self.columns = paper_set.columns
        self.backbones = paper_set.encoders | self.backbones
        self.num_frames = paper_set.frames | self.num_frames

    def _check_modalities(self) -> None:
        """Check that each modality has a column and an encoder, and keep those that --modalities names."""
        if not self.backbones or self.columns.keys() != self.backbones.keys():
            unknown = [name for name in self.backbones if name not in self.columns]
            raise ValueError(
                f"Expected --backbones for the modalities {list(self.columns)}, got {unknown} too; correct these "
                "names, or name their columns with --columns."
            )
        unknown = [name for name in self.modalities or [] if name not in self.columns]
        if unknown:
            raise ValueError(f"Expected --modalities among {list(self.columns)}, got {unknown}; correct it.")
        if self.modalities:
            self._keep_modalities()
        check_augmentation(self)

    def _keep_modalities(self) -> None:
        """Drop the settings of modalities that --modalities does not name."""
        self.left_out = [name for name in self.columns if name not in self.modalities]
        for name in BY_MODALITY:
            kept = {modality: value for modality, value in getattr(self, name).items() if modality in self.modalities}
            setattr(self, name, kept)


def _kind_of_named(name: str, column: str | list[str], inferred: InferredColumns) -> str | None:
    """The kind of a modality that --columns names: that of its name if it is a kind, else of its column."""
    if name in DEFAULT_ENCODERS or isinstance(column, list):
        return name if name in DEFAULT_ENCODERS else TABULAR
    kind = next((found.kind for found in inferred.found if found.name == column), None)
    return TABULAR if kind in CELLS else kind if kind in DEFAULT_ENCODERS else None


def _by_modality(name: str, pairs: list[str]) -> dict[str, str]:
    """Turn ["image=picture", "text=title"] into {"image": "picture", "text": "title"}."""
    wrong = [pair for pair in pairs if not all(pair.partition("="))]
    if wrong:
        raise ValueError(f"Expected --{name} as modality=value, got {wrong}; correct it.")
    values = dict(pair.split("=", 1) for pair in pairs)
    if len(values) < len(pairs):
        raise ValueError(f"Expected each modality once in --{name}, got {pairs}; remove one.")
    return values


def _whole_number(modality: str, value: str) -> int:
    if not value.isdecimal() or len(value) > 6 or int(value) < 1:
        raise ValueError(
            f"Expected a whole number for {modality!r} in --num_frames or --lora, got {value!r}; correct it."
        )
    return int(value)
