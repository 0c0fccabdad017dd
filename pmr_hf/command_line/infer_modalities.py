"""Infer the modalities that a command leaves out from its training table."""

from ..data.columns import as_list
from ..data.infer_columns import InferredColumns, infer_columns
from ..data.table_sources import read_tables
from .script_arguments import ScriptArguments


def inferred_columns(args: ScriptArguments) -> InferredColumns | None:
    """
    What the columns of the training table hold, for [`ScriptArguments.complete`]. `None` if the command names the
    columns and encoders of all modalities.

    Raises:
        FileNotFoundError: for a missing table.
        ValueError: for a table that cannot be read, or without the label or a column that --columns names.
    """
    if not args.infers:
        return None
    files = None if args.train_file is None else {"train": args.train_file}
    rows = read_tables(args.dataset_name, args.dataset_config_name, files, encoding=args.encoding)["train"].rows
    named = [part for column in args.columns.values() for part in as_list(column)]
    missing = [name for name in named if name not in rows.column_names]
    if missing:
        raise ValueError(
            f"Expected --columns to name columns among {rows.column_names}, got {missing} too; correct these names."
        )
    return infer_columns(rows, args.target_columns)
