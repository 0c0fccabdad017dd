"""Load the splits of a dataset of the paper, or of the user's own data."""

from datasets import DatasetDict

from ..data.columns import ROW
from ..data.paper_sets import PAPER_SETS, ReadOptions
from ..data.tables import draw_rows, load_table
from ..model.multimodal_processor import MultimodalProcessor
from .script_arguments import ScriptArguments


CELLS = ("numbers", "tabular")  # new encoders that read the cells of a table


def load_splits(args: ScriptArguments, processor: MultimodalProcessor, seed: int) -> DatasetDict:
    """
    Load the splits `train`, `validation` and, where there are such rows, `test` and `prototypes`.

    Args:
        args (`ScriptArguments`): names the data to read.
        processor (`MultimodalProcessor`): the processors of at least the pretrained encoders. They tell which columns
            of the user's own data hold paths of files.
        seed (`int`): seed of the splits and of the draw of training rows.
    """
    if args.own_data:
        return _load_own_data(args, processor, seed)
    options = ReadOptions(
        data_dir=args.data_dir,
        dataset_name=args.dataset_name,
        split=args.split,
        validation_size=args.validation_size,
        test_correlation=args.test_correlation,
        max_train_samples=args.max_train_samples,
        reference_samples=args.reference_samples,
        seed=seed,
    )
    return PAPER_SETS[args.dataset].read(options)


def _load_own_data(args: ScriptArguments, processor: MultimodalProcessor, seed: int) -> DatasetDict:
    files = {"train": args.train_file, "validation": args.validation_file, "test": args.test_file}
    files |= {"prototypes": args.prototype_file}
    splits = load_table(
        args.columns,
        label=args.target_columns,
        dataset_name=args.dataset_name,
        config_name=args.dataset_config_name,
        files={name: file for name, file in files.items() if file is not None},
        files_in=[name for name in args.columns if _strings_are_paths(name, args, processor)],
        check_files=args.on_error == "raise",
        validation_size=args.validation_size,
        seed=seed,
        numbers_in=[name for name in args.columns if _reads_numbers(name, args, processor)],
        encoding=args.encoding,
        problem_type=args.problem_type,
        label_separator=args.label_separator,
    )
    if "prototypes" in splits:
        _check_own_rows(splits)
    splits["train"] = draw_rows(splits["train"], args.max_train_samples, seed)
    return splits


def _check_own_rows(splits: DatasetDict) -> None:
    """Raise `ValueError` if validation or test have rows that prototypes are taken from, which would be a leak."""
    rows = {name: {repr(row) for row in splits[name].remove_columns(ROW)} for name in splits if name != "train"}
    for name in rows.keys() - {"prototypes"}:
        shared = rows["prototypes"] & rows[name]
        if shared:
            raise ValueError(
                f"Expected rows for the prototypes that are in no other split, got {len(shared)} that are in {name} "
                f"too, such as {min(shared):.200}; take them out of one of the two."
            )


def _strings_are_paths(name: str, args: ScriptArguments, processor: MultimodalProcessor) -> bool:
    """Whether a string in a modality's column is the path of a file, as for all modalities but texts and numbers."""
    if name in processor.processors:
        return processor.kind(name).strings_are_paths
    return args.backbones[name] not in CELLS


def _reads_numbers(name: str, args: ScriptArguments, processor: MultimodalProcessor) -> bool:
    """Whether the cells of a modality's column are numbers."""
    if name in processor.processors:
        return processor.kind(name).medium == "numbers"
    return args.backbones[name] == "numbers"
