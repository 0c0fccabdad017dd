"""
Predict the class of each row of a table with a trained model, and write one JSON line per row.

    python examples/predict.py --model outputs/posts-concat-pmr --input new.csv --columns image=picture text=title \\
        --output predictions.jsonl

When a stopped run is started again, it continues where it stopped. A row that cannot be read, or that has none of the
modalities, gets an `error` in place of `labels`.
"""

import argparse
import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from pmr_hf import MultimodalPipeline
from pmr_hf.data.columns import as_list, number_columns, parse_column
from pmr_hf.data.table_files import read_table
from pmr_hf.data.tables import absolute_path, cell_values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Hub name or folder of a trained model")
    parser.add_argument(
        "--input",
        required=True,
        type=Path,
        help="csv, tsv, json, jsonl or parquet file; relative paths start at its folder",
    )
    parser.add_argument("--output", required=True, type=Path, help="JSON lines file, in the order of the input")
    parser.add_argument(
        "--columns",
        required=True,
        nargs="+",
        metavar="modality=column",
        help="or modality=a,b for numbers; a name that contains a comma stands in double quotes",
    )
    parser.add_argument("--encoding", default="utf-8", help="encoding of a csv, tsv, json or jsonl input")
    parser.add_argument("--top_k", type=int, default=1, help="number of best classes to write for each row")
    parser.add_argument("--explain", action="store_true", help="also write the answer and the share of each modality")
    parser.add_argument(
        "--missing", default="prototypes", choices=["fused", "prototypes"], help="see MultimodalPipeline"
    )
    parser.add_argument("--batch_size", type=int, default=32)
    args = parser.parse_args()
    wrong = [pair for pair in args.columns if not all(pair.partition("="))]
    if wrong:
        parser.error(f"expected --columns as modality=column, got {wrong}")
    columns = {name: parse_column(column) for name, column in (pair.split("=", 1) for pair in args.columns)}
    if len(columns) < len(args.columns):
        parser.error(f"expected each modality once in --columns, got {args.columns}")

    used = {part for column in columns.values() for part in as_list(column)}
    table = read_table(args.input, used, args.encoding)
    missing = sorted(used - set(table.column_names))
    if missing:
        parser.error(f"expected the columns {missing} in {args.input}, which has {table.column_names}")
    pipe = MultimodalPipeline(args.model, batch_size=args.batch_size, missing=args.missing)
    unknown = [name for name in columns if name not in pipe.model.config.modalities]
    if unknown:
        parser.error(f"expected --columns of the modalities {pipe.model.config.modalities}, got {unknown}")
    numbers = [name for name in columns if pipe.processor.kind(name).medium == "numbers"]
    table = cell_values(table, number_columns(columns, numbers))
    done = resume(args.output)
    if done > len(table):
        parser.error(f"{args.output} has {done} predictions of {len(table)} rows; is it the output for another input?")
    rows = (row_of(table[i], columns, pipe, args.input.parent) for i in range(done, len(table)))
    check_options(args)
    errors = 0
    with args.output.open("a", encoding="utf-8") as file, tqdm(total=len(table), initial=done, unit="row") as progress:
        while batch := list(islice(rows, args.batch_size)):
            for result in predict(pipe, batch, args.top_k, args.explain):
                file.write(json.dumps({"row": done} | result, ensure_ascii=False) + "\n")
                done += 1
                errors += "error" in result
            file.flush()
            progress.update(len(batch))
    if errors:
        print(f"{errors} rows could not be predicted; see their `error` in {args.output}")


def check_options(args: argparse.Namespace) -> None:
    """
    Save the options of a run beside its output. Raises `ValueError` if the output was begun with other options.
    """
    file = args.output.with_name(f"{args.output.name}.options.json")
    names = ("model", "input", "columns", "top_k", "explain", "missing")
    options = {name: str(getattr(args, name)) for name in names}
    if file.exists() and args.output.exists():
        found = json.loads(file.read_text(encoding="utf-8"))
        if found != options:
            raise ValueError(
                f"Expected {args.output} to have the options {options}, but it was begun with {found}; give another "
                "--output, or delete it."
            )
    file.write_text(json.dumps(options), encoding="utf-8")


def resume(output: Path) -> int:
    """The number of finished predictions in the output. An unfinished last line is cut off."""
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        return 0
    lines = output.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        os.truncate(output, sum(map(len, lines[:-1])))
        lines.pop()
    return len(lines)


def row_of(
    row: dict[str, Any], columns: dict[str, str | list[str]], pipe: MultimodalPipeline, folder: Path
) -> dict[str, Any]:
    """The values of a row, by modality. A relative path starts from the table's folder."""
    values = {}
    for name, column in columns.items():
        value = row[column] if isinstance(column, str) else [row[part] for part in column]
        is_path = isinstance(value, (str, list)) and pipe.processor.kind(name).strings_are_paths
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
        yield result if explain else {"labels": result}


if __name__ == "__main__":
    main()
