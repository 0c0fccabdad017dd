"""Read the rows of a csv, tsv, json, jsonl or parquet file."""

import codecs
import glob
from collections.abc import Callable, Collection
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset

from .csv_files import read_csv, read_tsv
from .json_files import read_json


READERS: dict[str, Callable[[Path, Collection[str] | None, str], pa.Table]] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".json": read_json,
    ".jsonl": read_json,
}
TABLE_TYPES = (*READERS, ".parquet")
# What is often found under the name of a table, by how it begins
OTHER_FILES = {
    b"PK\x03\x04": "an Excel or zip file; save it as csv, or unpack it",
    b"\xd0\xcf\x11\xe0": "an Excel file; save it as csv",
    b"\x1f\x8b": "a gzip file; unpack it",
    b"PAR1": "a parquet file; give it the ending .parquet",
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file with `git lfs pull`",
    b"<!DOCTYPE": "a web page; download the file itself",
    b"<html": "a web page; download the file itself",
}


def read_table(file: Path, columns: Collection[str] | None = None, encoding: str = "utf-8") -> Dataset:
    """
    Read the rows of a csv, tsv, json, jsonl or parquet file.

    The cells of csv and tsv are strings, and an empty cell is `None`. The values of json, jsonl and parquet keep their
    types. A parquet file stays on disk; all others are read into memory.

    Args:
        file (`Path`): the file. Its ending, in capitals or not, tells its type.
        columns (`Collection[str]`, *optional*): read only these columns. If one of them is not there, all are read.
        encoding (`str`, *optional*, defaults to `"utf-8"`): encoding of a file of any type but parquet.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for another type of file, a file without rows, bytes of another encoding, or content that is not of
            this type. The message names the file and the line.
    """
    kind = file.suffix.lower()
    if kind not in TABLE_TYPES:
        raise ValueError(f"Expected a table of type {sorted(TABLE_TYPES)}, got {file}; convert it.")
    if not file.is_file():
        raise FileNotFoundError(f"Expected a table {file}, found none there; correct the path.")
    rows = _read_parquet(file, columns) if kind == ".parquet" else _read_text(file, columns, encoding)
    if columns is not None and not set(columns) <= set(rows.column_names):
        return read_table(file, encoding=encoding)
    if len(rows) == 0:
        raise ValueError(f"Expected rows in {file}, found none below the names of its columns; add rows.")
    return rows


def _read_text(file: Path, columns: Collection[str] | None, encoding: str) -> Dataset:
    check_encoding(encoding)
    if file.stat().st_size == 0:
        raise ValueError(f"Expected rows in {file}, found an empty file; add rows, or give another file.")
    with file.open("rb") as stream:
        begin = stream.read(32)
    other = next((what for mark, what in OTHER_FILES.items() if begin.startswith(mark)), None)
    if other is not None:
        raise ValueError(f"Expected a text file, got {file}, which is {other}.")
    if codecs.lookup(encoding).name == "utf-8":
        encoding = "utf-8-sig"  # also reads a file that begins with a byte order mark, as Excel writes it
    try:
        return Dataset(READERS[file.suffix.lower()](file, columns, encoding))
    except UnicodeError as error:
        raise ValueError(_encoding_message(file, encoding.removesuffix("-sig"), error)) from error


def _read_parquet(file: Path, columns: Collection[str] | None) -> Dataset:
    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"Expected a parquet file, got {file}, which cannot be read ({error}); correct it.") from error
    names = schema.names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"Expected each column once in {file}, got {twice} twice; rename one.")
    reads_all = columns is None or not set(columns) <= set(names)
    fields = [field for field in schema if reads_all or field.name in columns]
    wrong = {field.name: str(field.type) for field in fields if not _holds(field)}
    if wrong:
        raise ValueError(
            f"Expected columns of texts, numbers, dates or lists of them in {file}, got {wrong}; convert them, for "
            "instance to texts, or leave these columns out."
        )
    options = {}
    if not reads_all:  # without `features`, `datasets` looks at the types of all columns
        features = datasets.Features.from_arrow_schema(pa.schema(fields, schema.metadata))
        options = {"columns": list(features), "features": features}
    return datasets.load_dataset("parquet", data_files=glob.escape(str(file)), split="train", **options)


def _holds(field: pa.Field) -> bool:
    """Whether a `datasets.Dataset` can hold columns of this type, and select rows of them."""
    try:
        pc.take(Dataset(pa.schema([field]).empty_table()).data.column(field.name), pa.array([], pa.int64()))
    except (pa.ArrowException, ValueError):
        return False
    return True


def check_encoding(encoding: str) -> None:
    """Raise `ValueError` for an encoding that Python does not know."""
    try:
        "".encode(encoding)
    except LookupError as error:
        raise ValueError(
            f"Expected an encoding such as utf-8, cp1252 or utf-16, got {encoding!r}; correct --encoding."
        ) from error


def _encoding_message(file: Path, encoding: str, error: UnicodeError) -> str:
    content = file.read_bytes()
    line = "its beginning"
    try:
        content.decode(encoding)
    except UnicodeDecodeError as first:
        line = f"line {content[: first.start].decode(encoding).count(chr(10)) + 1}"
    except UnicodeError:  # utf-16 without the mark that it begins with
        pass
    likely = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "cp1252"
    where = "" if likely == "utf-16" else " (Excel on Windows)"
    way_out = "correct --encoding" if encoding != "utf-8" else f"give its encoding, such as --encoding {likely}{where}"
    return f"Expected text in {encoding} in {file}, but {line} cannot be decoded ({error}); {way_out}."
