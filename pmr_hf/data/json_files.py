"""Read json and jsonl files. Strings stay strings, and nothing is taken for a date."""

import json
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa

from .shortened import shortened


CHUNK = 200  # rows that are Python objects at one time; so few stay in the cache of the CPU
FAILURES = (pa.ArrowException, OverflowError, UnicodeError)


def read_json(file: Path, columns: Collection[str] | None, encoding: str) -> pa.Table:
    """
    Read a file of one object per line, of several objects, or of one list of objects.

    If an object lacks a key, its cell is missing. A column of strings and numbers becomes a column of strings.

    Args:
        file (`Path`): the file.
        columns (`Collection[str]`, *optional*): the columns to read, if they are there. By default, all are read.
        encoding (`str`): encoding of the file.

    Raises:
        UnicodeError: for bytes of another encoding.
        ValueError: for text that is not JSON, one object that holds all rows, a row that is not an object, or values of
            one column that no Arrow type holds.
    """
    names: dict[str, None] = {}
    chunks: list[tuple[int, dict[str, pa.Array]]] = []  # the number of rows, and the columns that they have
    with file.open(encoding=encoding) as stream:
        rows = _rows(file, stream)
        while chunk := list(islice(rows, CHUNK)):
            if len(chunk) == 1 and not chunks:
                _check_is_row(file, chunk[0][1])
            found = dict.fromkeys(name for _, row in chunk for name in row if columns is None or name in columns)
            chunks.append((len(chunk), {name: _array(file, name, chunk) for name in found}))
            names |= found
    return pa.table({name: _joined(file, name, chunks) for name in names}).combine_chunks()


def _rows(file: Path, stream: TextIO) -> Iterator[tuple[int | str, dict[str, Any]]]:
    """The place of each row, which is the number of its line or a text, and its content."""
    try:
        for place, row in _values(stream):
            if not isinstance(row, dict):
                raise ValueError(
                    f'Expected an object such as {{"title": "a", "label": "b"}} in {file}, {_text(place)}, got '
                    f"{row!r:.80}; correct it."
                )
            yield place, row
    except json.JSONDecodeError as error:
        raise ValueError(f"Expected JSON in {file}, line {error.lineno}, but {error.msg}; correct it.") from error


def _check_is_row(file: Path, row: dict[str, Any]) -> None:
    """Raise `ValueError` if the only object of a file holds all rows, as `DataFrame.to_json` writes it by default."""
    data = row.get("data")
    parts = [part for part in row.values() if isinstance(part, dict)]
    keys = [key for part in parts for key in part]  # the index of a DataFrame; or its columns, if `row` is by index
    by_index = 0 < len(parts) == len(row) and (all(map(str.isdecimal, row)) or all(map(str.isdecimal, keys)))
    split = isinstance(data, list) and (row.keys() & {"columns", "schema"} or all(isinstance(x, dict) for x in data))
    if by_index or split:
        raise ValueError(
            f"Expected an object for each row in {file}, got one object of {shortened(list(row))}, which holds all "
            "rows; write one object per line, as pandas does by to_json(file, orient='records', lines=True)."
        )


def _values(stream: TextIO) -> Iterator[tuple[int | str, Any]]:
    """The place and the value of each line; or of each object, if an object takes several lines or all are a list."""
    first = next((line for line in stream if line.strip()), "")
    stream.seek(0)
    if not first.lstrip().startswith("[") and _is_json(first):
        for number, text in enumerate(stream, 1):
            if text.strip():
                try:
                    yield number, json.loads(text)
                except json.JSONDecodeError as error:
                    raise json.JSONDecodeError(error.msg, "\n" * (number - 1) + text, number) from error
        return
    text = stream.read()
    position = len(text) - len(text.lstrip())
    while position < len(text):
        value, end = json.JSONDecoder().raw_decode(text, position)
        line = text.count("\n", 0, position) + 1
        if isinstance(value, list):
            yield from ((f"element {i + 1} of the list in line {line}", part) for i, part in enumerate(value))
        else:
            yield line, value
        position = len(text) - len(text[end:].lstrip())


def _text(place: int | str) -> str:
    return f"line {place}" if isinstance(place, int) else place


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    return True


# ---- Columns ----


def _array(file: Path, name: str, rows: list[tuple[int | str, dict[str, Any]]]) -> pa.Array:
    """The values of one column in several rows, each of which has a place."""
    values = [row.get(name) for _, row in rows]
    try:
        return pa.array(values)
    except FAILURES as error:
        if all(value is None or isinstance(value, (str, int, float)) for value in values):
            try:
                return _strings(values)
            except UnicodeError:
                pass
        places = [_text(place) for place, _ in rows]
        raise _unlike(file, name, dict(zip(places, values, strict=True)), error) from error


def _strings(values: list[Any]) -> pa.Array:
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def _unlike(file: Path, name: str, cells: dict[str, Any], error: Exception) -> ValueError:
    """The error for cells that are not of one type. It names the first cell that does not go with those before it."""
    known = [value for value in cells.values() if value is not None][:1]
    for place, value in cells.items():
        try:
            pa.array([*known, value])
        except FAILURES:
            before = "" if value is known[0] else f" after {known[0]!r:.80}"
            return ValueError(
                f"Expected values of one type in column {name!r} of {file}, but {place} has {value!r:.80}{before} "
                f"({error}); correct it."
            )
    return ValueError(f"Expected values of one type in column {name!r} of {file}, but {error}; correct them.")


def _joined(file: Path, name: str, chunks: list[tuple[int, dict[str, pa.Array]]]) -> pa.ChunkedArray:
    """One column of all chunks. Where a chunk lacks the column, its cells are missing."""
    arrays = [chunk[name] if name in chunk else pa.nulls(count) for count, chunk in chunks]
    types = {array.type for array in arrays}
    if len(types) == 1:
        return pa.chunked_array(arrays)
    if pa.string() in types and all(not pa.types.is_nested(kind) for kind in types):
        arrays = [array if array.type == pa.string() else _strings(array.to_pylist()) for array in arrays]
    try:
        tables = [pa.table({name: array}) for array in arrays]
        return pa.concat_tables(tables, promote_options="permissive").column(0)
    except pa.ArrowException as error:
        raise ValueError(
            f"Expected values of one type in column {name!r} of {file}, but {error}; correct them."
        ) from error
