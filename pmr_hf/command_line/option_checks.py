"""The checks of the options of `examples/run_pmr.py`, before any data is read."""

from typing import TYPE_CHECKING

from ..data.augmentation import AUGMENTATIONS
from ..data.paper_sets import PAPER_SETS
from ..data.saved_examples import MOST_EXAMPLES
from ..methods import METHODS
from ..methods.method_checks import reason_against, require_no_dropout
from ..model.configuration import check_fields
from ..model.fusion import FUSIONS
from ..model.targets import REGRESSION, SINGLE_LABEL


if TYPE_CHECKING:
    from .script_arguments import ScriptArguments


# Options of a user's own data alone, which have no meaning without --train_file or --dataset_name
OF_OWN_DATA = (
    "dataset_config_name",
    "validation_file",
    "test_file",
    "prototype_file",
    "columns",
    "encoding",
    "label_column",
)
# The lowest and the highest value of each number
RANGES = {
    "preprocess_workers": (1, 1024),
    "clip_seconds": (0.1, 3600),
    "reference_samples": (0, 10**12),
    "test_correlation": (0, 1),
    "validation_size": (0.01, 0.9),
    "max_train_samples": (1, 10**12),
    "max_eval_samples": (1, 10**12),
    "search": (1, 10**6),
    "save_examples": (0, MOST_EXAMPLES),
}


def check_ranges(args: "ScriptArguments") -> None:
    """Raise `ValueError` for a number outside its range."""
    check_fields({"embedding_dim": args.embedding_dim, "modality_dropout": args.modality_dropout})
    for name, (least, most) in RANGES.items():
        value = getattr(args, name)
        if value is not None and not least <= value <= most:
            raise ValueError(f"Expected --{name} from {least} to {most}, got {value}; correct it.")


def check_no_table_is_forgotten(args: "ScriptArguments") -> None:
    """Raise `ValueError` for options of a user's own data without a table, which would train on another one."""
    given = [f"--{name}" for name in OF_OWN_DATA if getattr(args, name) not in (None, [])]
    known = PAPER_SETS[args.dataset].encoders
    given += ["--backbones" for pair in args.backbones or [] if pair.partition("=")[0] not in known and "=" in pair]
    if given:
        raise ValueError(
            f"Expected --train_file or --dataset_name with {', '.join(dict.fromkeys(given))}, got neither, so that "
            f"{args.dataset} would be trained on; name the table of your own data, or leave these options out."
        )


def check_problem_type(args: "ScriptArguments") -> None:
    """
    Raise `ValueError` for data or a method that do not fit the problem type, for a method that does not train the
    fusion head or takes no modality dropout, or for an empty separator of labels.
    """
    if args.problem_type != SINGLE_LABEL and not args.own_data:
        raise ValueError(
            f"Expected --problem_type {SINGLE_LABEL} with --dataset {args.dataset}, whose samples have one class "
            f"each, got {args.problem_type}; give your own data, as with --train_file."
        )
    if args.problem_type == REGRESSION and METHODS[args.method].needs_classes:
        able = [name for name, method in METHODS.items() if not method.needs_classes]
        raise ValueError(
            f"Expected --method among {able} with --problem_type {REGRESSION}, since {args.method!r} needs class "
            "prototypes; choose one of them."
        )
    reason = reason_against(METHODS[args.method], args.problem_type, FUSIONS[args.fusion])
    if reason is not None:
        raise ValueError(
            f"Expected a --method that can train with --fusion {args.fusion} and --problem_type {args.problem_type}, "
            f"got {args.method}: {reason}; choose another."
        )
    require_no_dropout(METHODS[args.method], args.modality_dropout)
    if not args.label_separator:
        raise ValueError("Expected --label_separator to be a character or more, got none; give one, such as '|'.")


def check_augmentation(args: "ScriptArguments") -> None:
    """Raise `ValueError` for an unknown modality or word, or for varied data whose features are cached."""
    wrong = {name: word for name, word in args.augment.items() if word not in AUGMENTATIONS}
    unknown = [name for name in args.augment if name not in args.columns]
    if wrong or unknown:
        raise ValueError(
            f"Expected --augment as modality=word, with a modality among {list(args.columns)} and a word among "
            f"{list(AUGMENTATIONS)}, got {args.augment}; correct it."
        )
    if args.varies and args.preprocess == "cached":
        raise ValueError(
            "Expected --preprocess on_the_fly with --augment or --frames random, got 'cached', whose features are "
            "the same in each epoch; leave one of them out."
        )
