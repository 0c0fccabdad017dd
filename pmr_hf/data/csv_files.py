"""Read csv and tsv files. Every cell is a string, and an empty cell is missing. The delimiter is never guessed."""

import csv
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from transformers.utils import logging


logger = logging.get_logger(__name__)

CHUNK = 200  # rows that are Python strings at one time; so few stay in the cache of the CPU


def read_csv(file: Path, columns: Collection[str] | None, encoding: str) -> pa.Table:
    """
    Read a table with commas between cells, which may stand in double quotes.

    Args:
        file (`Path`): the file, whose first line names the columns.
        columns (`Collection[str]`, *optional*): the columns to read, if they are there. By default, all are read.
        encoding (`str`): encoding of the file.

    Raises:
        UnicodeError: for bytes of another encoding.
        ValueError: for a row with more or fewer cells than the header, a quote that does not close, a column that is
            there twice, or a header with other marks between its columns.
    """
    return _read(file, columns, encoding, delimiter=",", quoting=csv.QUOTE_MINIMAL)


def read_tsv(file: Path, columns: Collection[str] | None, encoding: str) -> pa.Table:
    """
    Read a table with tabs between cells. It has no quoting: each line is a row, and a quote is a part of the text. The
    arguments and errors are those of [`read_csv`].
    """
    table = _read(file, columns, encoding, delimiter="\t", quoting=csv.QUOTE_NONE)
    for name, cells in zip(table.column_names, table.columns, strict=True):
        quoted = pc.sum(pc.match_substring_regex(cells, '^".*"$')).as_py()
        if quoted:
            logger.warning(
                f"{quoted} cells of column {name!r} in {file} begin and end with a quote, which is a part of the text "
                "in a tsv file. If the quotes enclose the text, save the table as csv."
            )
    return table


def _read(file: Path, columns: Collection[str] | None, encoding: str, delimiter: str, quoting: Any) -> pa.Table:
    csv.field_size_limit(2**31 - 1)  # by default, a cell of more than 131,072 characters is an error
    with file.open(encoding=encoding, newline="") as stream:
        reader = csv.reader(stream, delimiter=delimiter, quoting=quoting, strict=True)
        rows = _rows(file, reader, one_column_blank=quoting == csv.QUOTE_NONE)
        header = next(rows, [])
        chosen = [i for i, name in enumerate(header) if columns is None or name in columns]
        if header.count("") > 1:  # a spreadsheet may write columns without anything in them
            logger.warning(f"{header.count('')} columns of {file} have no name in its header: they are left out.")
            chosen = [i for i in chosen if header[i]]
        _check_header(file, header, chosen, columns)
        schema = pa.schema([(header[i], pa.string()) for i in chosen])
        batches = []
        while chunk := list(islice(rows, CHUNK)):
            cells = list(zip(*chunk, strict=True))
            arrays = [pa.array([cell or None for cell in cells[i]], pa.string()) for i in chosen]
            batches.append(pa.record_batch(arrays, schema=schema))
    return pa.Table.from_batches(batches, schema).combine_chunks()


def _rows(file: Path, reader: Any, one_column_blank: bool) -> Iterator[list[str]]:
    """The header and the rows of a file, all of one width. Blank lines are left out."""
    width, line = None, 0  # `line` is the last line of the row before
    try:
        for row in reader:
            if width is None and "".join(row).strip():
                width = len(row)
            if len(row) != width:
                if not row and width == 1 and one_column_blank:
                    row = [""]  # the only cell of this row is empty
                elif "".join(row).strip():
                    raise ValueError(
                        f"Expected {width} cells in {file}, line {line + 1}, as in its header, got {len(row)}; correct "
                        f"the line. {_HOW_TO_WRITE[reader.dialect.delimiter]}"
                    )
                else:
                    line = reader.line_num
                    continue
            yield row
            line = reader.line_num
    except csv.Error as error:
        last = reader.line_num
        where = f"line {last}" if last == line + 1 else f"lines {line + 1} to {last}"
        raise ValueError(
            f"Expected cells as csv writes them in {file}, {where}, but {error}; "
            f"correct the lines. {_HOW_TO_WRITE[reader.dialect.delimiter]}"
        ) from error


_HOW_TO_WRITE = {
    ",": 'A cell with a comma, quote or line break stands in double quotes, with each quote in it written twice ("").',
    "\t": "A tsv file has no quoting, so a cell with a tab or a line break needs csv.",
}


def _check_header(file: Path, header: list[str], chosen: list[int], columns: Collection[str] | None) -> None:
    names = [header[i] for i in chosen]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"Expected each column once in the header of {file}, got {twice} twice; rename one.")
    is_tsv = file.suffix.lower() == ".tsv"
    unread = columns is None or not chosen
    if unread and len(header) == 1 and any(mark in header[0] for mark in (";,|" if is_tsv else ";\t|")):
        raise ValueError(
            f"Expected {'tabs' if is_tsv else 'commas'} between the columns of {file}, got the "
            f"header {header[0]!r:.200}; save the table in this way."
        )
