"""
Predict the class, the labels or the numbers of each row of a table with a trained model, and write one JSON line per
row.

    python examples/predict.py --model outputs/shop-posts-concat-pmr --input new.csv --keep id \\
        --columns image=picture text=title --output predictions.jsonl

When a stopped run is started again, it continues where it stopped. If the input, the model or an option that changes
the output differs by then, it ends with an error. Beside the output, the script keeps its options in a JSON file, and a
lock. A row that cannot be read, or that has none of the modalities, gets an `error` in place of `labels`, or of the
`values` of a regression. `row` counts the rows from 1, without the line of the names. The columns of `--keep` are
copied from the input.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any


def existing_file(path: str) -> Path:
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"expected a table {path}, found none there; correct the path")
    return Path(path)


def argument_parser() -> argparse.ArgumentParser:
    """The parser of the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Hub name or folder of a trained model")
    parser.add_argument(
        "--input",
        required=True,
        type=existing_file,
        help="csv, tsv, json, jsonl or parquet file; relative paths start at its folder",
    )
    parser.add_argument("--output", required=True, type=Path, help="JSON lines file, in the order of the input")
    parser.add_argument(
        "--columns",
        required=True,
        nargs="+",
        metavar="modality=column",
        help="column of each modality; several for numbers and tables, as in vitals=age,weight; a name that contains a "
        "comma stands in double quotes",
    )
    parser.add_argument(
        "--keep", nargs="+", default=[], metavar="column", help="columns to copy to the output, such as an id"
    )
    parser.add_argument("--encoding", default="utf-8", help="encoding of a csv, tsv, json or jsonl input")
    parser.add_argument("--top_k", type=int, default=1, help="number of best classes or labels to write for each row")
    parser.add_argument("--explain", action="store_true", help="also write the answer and the share of each modality")
    parser.add_argument(
        "--missing",
        default="prototypes",
        choices=["fused", "prototypes"],
        help="what answers for rows that lack modalities: the fusion head, or the prototypes of the others",
    )
    parser.add_argument("--batch_size", type=int, default=32, help="rows at once; by default 32")
    parser.add_argument("--allow_urls", action="store_true", help="open public http addresses among the values")
    return parser


if __name__ == "__main__":
    argument_parser().parse_args()  # a mistake shows before torch is imported, which takes seconds

from datasets import Dataset
from tqdm.auto import tqdm

from pmr_hf import MediaLimits, MultimodalPipeline
from pmr_hf.command_line.run_script import run_script
from pmr_hf.data.columns import as_list, number_columns, parse_column, undecoded, with_class_names, with_numbers
from pmr_hf.data.table_files import read_table
from pmr_hf.data.tables import absolute_path
from pmr_hf.training.checksums import crc32_of
from pmr_hf.training.folder_lock import InUseError, held
from pmr_hf.training.whole_files import write_json


# What a line of the output may have beside the columns of --keep
WRITTEN = ("row", "labels", "values", "modalities", "error")


def main() -> None:
    parser = argument_parser()
    args = parser.parse_args()
    if args.top_k < 1:
        parser.error(f"expected --top_k of at least 1, got {args.top_k}")
    wrong = [pair for pair in args.columns if not all(pair.partition("="))]
    if wrong:
        parser.error(f"expected --columns as modality=column, got {wrong}")
    columns = {name: parse_column(column) for name, column in (pair.split("=", 1) for pair in args.columns)}
    if len(columns) < len(args.columns):
        parser.error(f"expected each modality once in --columns, got {args.columns}")

    taken = [name for name in args.keep if name in WRITTEN]
    if taken:
        parser.error(f"expected --keep of other columns than {list(WRITTEN)}, got {taken}; rename them in the input")

    used = {part for column in columns.values() for part in as_list(column)} | set(args.keep)
    table = with_class_names(undecoded(read_table(args.input, used, args.encoding)), used)
    missing = sorted(used - set(table.column_names))
    if missing:
        parser.error(f"expected the columns {missing} in {args.input}, which has {table.column_names}")
    limits = MediaLimits(allow_urls=args.allow_urls)
    pipe = MultimodalPipeline(args.model, batch_size=args.batch_size, missing=args.missing, limits=limits)
    unknown = [name for name in columns if name not in pipe.model.config.modalities]
    if unknown:
        parser.error(f"expected --columns of the modalities {pipe.model.config.modalities}, got {unknown}")
    try:
        columns = {name: pipe.processor.kind(name).arrange(column) for name, column in columns.items()}
    except ValueError as error:
        parser.error(str(error))
    numbers = [name for name in columns if pipe.processor.kind(name).medium == "numbers"]
    table = with_numbers(table, number_columns(columns, numbers))
    lock = args.output.with_name(f".{args.output.name}.lock")
    try:
        with held(lock, str(args.output), "give another --output"):
            check_options(args)
            begin = resume(args.output, len(table))
            errors = write_predictions(args, table, columns, pipe, begin)
    except (ValueError, InUseError) as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(
            f"Expected to write {args.output}, but got {error}; it keeps what it has. Once that is mended, the same "
            "command continues."
        )
    before = f", after {begin:,} of an earlier run" if begin else ""
    wrong = f"; {errors:,} could not be predicted, see their `error`" if errors else ""
    print(f"read {len(table):,} rows of {args.input}; predicted {len(table) - begin - errors:,}{before}{wrong}")
    left_out = [name for name in pipe.model.config.modalities if name not in columns]
    if left_out:
        print(f"--columns leaves out {', '.join(left_out)}, so these answers are without")
    print(f"saved to {args.output}")


def write_predictions(
    args: argparse.Namespace, table: Dataset, columns: dict[str, str | list[str]], pipe: MultimodalPipeline, begin: int
) -> int:
    """Append the predictions of the rows after the first `begin`. Returns how many of these rows got an `error`."""
    done, errors = begin, 0
    folder = str(args.input.parent.absolute())
    rows = (row_of(table[i], columns, pipe, folder) for i in range(done, len(table)))
    kept = {name: table[name] for name in args.keep}
    with args.output.open("a", encoding="utf-8") as file, tqdm(total=len(table), initial=done, unit="row") as progress:
        while batch := list(islice(rows, args.batch_size)):
            for result in predict(pipe, batch, args.top_k, args.explain):
                line = {"row": done + 1} | {name: json_value(cells[done]) for name, cells in kept.items()} | result
                file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
                done += 1
                errors += "error" in result
            file.flush()
            progress.update(len(batch))
    return errors


def json_value(cell: Any) -> Any:
    """A cell as JSON has it: a number, truth value, text or `None`; a text for any other value, such as a date."""
    if isinstance(cell, float) and not math.isfinite(cell):
        return None
    return cell if cell is None or isinstance(cell, (bool, int, float, str)) else str(cell)


def check_options(args: argparse.Namespace) -> None:
    """
    Save the options of a run beside its output, with checksums of the input and the model. Raises `ValueError` if the
    output was begun with others.
    """
    file = args.output.with_name(f"{args.output.name}.options.json")
    names = ("model", "input", "columns", "keep", "encoding", "top_k", "explain", "missing")
    options = {name: str(getattr(args, name)) for name in names}
    options["content of the input"] = f"{crc32_of(args.input):08x}"
    options["weights of the model"] = weights_of(args.model)
    if file.exists() and args.output.exists() and args.output.stat().st_size:
        try:
            found = json.loads(file.read_bytes())
        except ValueError:
            found = None
        if not isinstance(found, dict):
            print(f"Cannot read {file}: taking {args.output} as begun with the same options.", file=sys.stderr)
            found = {}
        if any(options[name] != found.get(name, options[name]) for name in options):  # an older version had fewer
            raise ValueError(
                f"Expected {args.output} to have the options {options}, but it was begun with {found}; give another "
                "--output, or delete it."
            )
    write_json(file, options)


def weights_of(model: str) -> str:
    """The checksums of a folder's weights, or `""` for a model on the Hub."""
    files = sorted(Path(model).glob("*.safetensors"))
    return " ".join(f"{crc32_of(file):08x}" for file in files)


def resume(output: Path, size: int) -> int:
    """
    The number of finished predictions in the output. An unfinished last line is cut off. Raises `ValueError` if the
    lines are not those of the first rows of an input of this size.
    """
    if not output.exists():
        return 0
    lines = output.read_bytes().splitlines(keepends=True)
    whole = lines if not lines or lines[-1].endswith(b"\n") else lines[:-1]
    wrong = next((i for i, line in enumerate(whole) if not line.startswith(b'{"row": %d,' % (i + 1))), None)
    if wrong is not None or len(whole) > size:
        found = f"{len(whole)} predictions" if wrong is None else f"line {wrong + 1} of another row"
        raise ValueError(
            f"Expected one prediction for each of the {size} rows in {output}, in their order, got {found}; is it the "
            "output for another input? Give another --output, or delete it."
        )
    if len(whole) < len(lines):
        os.truncate(output, sum(map(len, whole)))
    return len(whole)


def row_of(
    row: dict[str, Any], columns: dict[str, str | list[str]], pipe: MultimodalPipeline, folder: str
) -> dict[str, Any]:
    """The values of a row, by modality. A relative path starts from the table's folder."""
    values = {}
    for name, column in columns.items():
        kind = pipe.processor.kind(name)
        value = kind.value_in(row, column)
        is_path = isinstance(value, (str, list)) and kind.strings_are_paths
        values[name] = absolute_path(value, folder) if is_path else value
    return values


def predict(
    pipe: MultimodalPipeline, batch: list[dict[str, Any]], top_k: int, explain: bool
) -> Iterator[dict[str, Any]]:
    """Yield what to write for each row. If one row is wrong, the rows are classified one by one to find it."""
    try:
        results = list(pipe.stream(batch, top_k, explain))
    except ValueError as error:
        if len(batch) == 1:
            yield {"error": str(error)}
        else:
            for row in batch:
                yield from predict(pipe, [row], top_k, explain)
        return
    for result in results:
        yield result if explain else {"values" if pipe.model.config.problem == "regression" else "labels": result}


if __name__ == "__main__":
    run_script(main, "Stopped. The same command continues after the last row.")
