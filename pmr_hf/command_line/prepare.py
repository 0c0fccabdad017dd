"""Read the data of a command and build what turns its rows into batches."""

from typing import NamedTuple

from datasets import Dataset, DatasetDict
from transformers import PreTrainedConfig

from ..data.collator import MultimodalCollator
from ..data.columns import ROW, as_list
from ..data.saved_examples import draw_examples
from ..data.tables import draw_rows
from ..model.multimodal_processor import MultimodalProcessor
from ..training.arguments import PrototypeTrainingArguments
from .build import add_new_encoders, build_collator, class_names, pretrained_processor
from .parse_arguments import lengthen_training, log_short_epochs
from .script_arguments import ScriptArguments
from .splits import load_splits


class Prepared(NamedTuple):
    """What a model and a trainer are made from."""

    dataset: DatasetDict  # train, validation, and where there are some, test and prototypes
    backbones: dict[str, str | PreTrainedConfig]  # the encoder of each modality, or the config of a new one
    processor: MultimodalProcessor
    collator: MultimodalCollator
    classes: list[str]  # names of the classes, labels or targets, in the order of their ids
    examples: Dataset  # rows of validation to save beside the model, not extracted


def check_cells(collator: MultimodalCollator, dataset: DatasetDict) -> None:
    """
    Read the numbers and categories of all splits but the training split, whose encoders have read them already. Raises
    `UnreadableError` for a cell that would stop the run later, unless it counts as missing.
    """
    names = [name for name in collator.columns if collator.processor.kind(name).medium in ("numbers", "table")]
    for split, rows in dataset.items() if collator.on_error == "raise" else ():
        if split == "train":
            continue
        used = {part for name in names for part in as_list(collator.columns[name])} | {ROW}
        for i, row in enumerate(rows.select_columns(sorted(used & set(rows.column_names)))) if names else ():
            for name in names:
                collator.read(name, i, row)


def prepare(script_args: ScriptArguments, training_args: PrototypeTrainingArguments) -> Prepared:
    """
    Load the splits, the processors of all encoders and the collator, and extract features if they are cached. On a
    small table, `training_args` get more epochs, see [`lengthen_training`].

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for data that cannot be read or do not fit the arguments.
    """
    pretrained = pretrained_processor(script_args)
    dataset = load_splits(script_args, pretrained, training_args.seed)
    dataset["validation"] = draw_rows(dataset["validation"], script_args.max_eval_samples, training_args.seed)
    lengthen_training(script_args, training_args, len(dataset["train"]))
    log_short_epochs(script_args, training_args, len(dataset["train"]))
    backbones, processor = add_new_encoders(script_args, pretrained, dataset["train"])
    collator = build_collator(script_args, processor)
    check_cells(collator, dataset)
    classes = class_names(script_args, dataset["train"])
    examples = draw_examples(dataset["validation"], script_args.label_column, script_args.save_examples)
    if script_args.preprocess == "cached":
        with training_args.main_process_first(desc="extraction of features"):
            dataset = collator.cache(dataset, num_proc=script_args.preprocess_workers)
    return Prepared(dataset, backbones, processor, collator, classes, examples)
