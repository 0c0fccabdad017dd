"""
The rules that tell from its values what a column of a table holds.

`infer_columns.py` makes modalities of the columns, and `default_encoders.py` has the encoder of each kind of modality.
"""

import re
from collections.abc import Collection, Sequence
from numbers import Number
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import datasets

from ..model.tabular_encoder import MOST_CATEGORIES
from .labels import NUMBER


LEFT_OUT = "left out"
ENDINGS = {
    "image": {"bmp", "gif", "jpeg", "jpg", "pbm", "pgm", "png", "ppm", "tif", "tiff", "webp"},
    "audio": {"aac", "aif", "aiff", "au", "flac", "m4a", "mp3", "oga", "ogg", "opus", "wav", "wma"},
    "video": {"avi", "flv", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "webm", "wmv"},
}
MEDIA = {"image": "pictures", "audio": "sound", "video": "videos"}
MOST_PATHS = 0.9  # share of a column's values that end as files of one medium
MONTH = r"(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.?"
TIME = r"([T ,]+\d{1,2}:\d{2}.*)?"
DATE = re.compile(
    rf"(\d{{4}}[-/.]\d{{1,2}}[-/.]\d{{1,2}}|\d{{1,2}}[-/.]\d{{1,2}}[-/.]\d{{2,4}}){TIME}"
    rf"|(\w+,? )?(\d{{1,2}}\.?[ -]{MONTH}|{MONTH} \d{{1,2}})(,? |-)\d{{2,4}}{TIME}"  # 12 Mar 2004, March 12, 2004
)
COMPACT_DATE = re.compile(r"(19|20)\d{2}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")  # 20190307
PADDED = re.compile(r"0\d+")  # a code such as 007
# Such as $3, US$ 300, 3,5, 1 234.5, 12 kg, 120 km/h or 1500 sq ft
WITH_UNIT = re.compile(
    r"([^\W\d]{0,3}[^\w\s])?\s?[+-]?\d+([.,\s]\d+)*\s?(%|[^\W\d]{1,4}[./ ][^\W\d]{1,3}\.?|[^\W\d]{1,3}|[^\w\s])?"
)
# What Python, NumPy and JSON write for a list, such as [0.5, 1] or ['a', 'b'], or for a dict
LIST_AS_TEXT = re.compile(r"\[([-+.,\deE\s]|nan)*\]|\[\s*['\"].*['\"]\s*\]|\{\s*['\"].*\}", re.DOTALL)
ID_NAME = re.compile(
    r"(.*[_\-. ])?(id|ids|uuid|guid|index|idx)|(unnamed: \d+)?|__index_level_\d+__", re.IGNORECASE
)  # the last two are the index of a DataFrame, as pandas saves it
CAMEL_ID = re.compile(r".*[a-z](Id|ID)")
UNSPACED = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]")  # Thai, Lao, Japanese, Chinese
FEW = 10  # up to so many different values are categories, even if they are phrases
PHRASE, SENTENCE = 3, 10  # words
SOME, MOSTLY = 0.3, 0.75  # shares of a column's values
LONG_NUMBER = 10**8


class Column(NamedTuple):
    """A column of a table, and what is known about it."""

    name: str
    feature: Any  # of `datasets`
    values: list[Any]  # the values of a sample of rows that are not missing, texts without blanks around them
    labels: list[str]  # the labels of these rows
    distinct: int  # number of different values in all rows
    known: int  # number of rows that have a value
    rows: int


class Finding(NamedTuple):
    """What a column holds, and why it is taken for that."""

    kind: str
    reason: str


def kind_of_column(column: Column) -> Finding:
    """
    Decide what a column holds: "image", "audio", "video", "text", "number", "category", "numbers" (a list of them in
    each row) or "left out".
    """
    if not column.known:
        return Finding(LEFT_OUT, "no row has a value")
    medium = media_of_feature(column.feature)
    if medium is not None:
        return Finding(medium, f"the dataset holds {MEDIA[medium]}")
    if isinstance(column.feature, (datasets.List, datasets.LargeList)) or not isinstance(
        column.feature, (datasets.Value, datasets.ClassLabel)
    ):
        return _kind_of_nested(column)
    if isinstance(column.feature, datasets.Value) and re.match("date|time|duration", column.feature.dtype):
        return _dates(column)
    if isinstance(column.values[0], bytes):
        return Finding(LEFT_OUT, "bytes of an unknown type; cast the column to Image or Audio of `datasets`")
    return _kind_of_scalars(column)


def media_of_feature(feature: Any) -> str | None:
    """The medium of a column that `datasets` declares as pictures, sound or video, or as lists of them."""
    feature = getattr(feature, "feature", feature)
    types = {datasets.Image: "image", datasets.Audio: "audio", datasets.Video: "video"}
    return types.get(type(feature))


def are_numbers(values: Collection[Any]) -> bool:
    """Whether all values are numbers, or texts of numbers that are no codes such as 007."""
    if any(isinstance(value, str) and PADDED.fullmatch(value) for value in values):
        return False
    return all(_is_number(value) for value in values)


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return NUMBER.fullmatch(value) is not None
    return isinstance(value, Number) and not isinstance(value, bool)


# ---- Files and lists ----


def _medium_of_paths(paths: Sequence[str]) -> Finding | None:
    """The medium of at least 90 % of these paths or addresses, by their endings."""
    endings = [PurePosixPath(path.split("?")[0]).suffix[1:].lower() for path in paths]
    for medium, known in ENDINGS.items():
        count = sum(ending in known for ending in endings)
        if count >= MOST_PATHS * len(paths):
            return Finding(medium, f"{count} of {len(paths)} are files of {MEDIA[medium]}, such as {_shown(paths[0])}")
    return None


def _kind_of_nested(column: Column) -> Finding:
    """The kind of a column of dicts or lists."""
    first = column.values[0]
    if isinstance(first, dict):
        paths = [value["path"] for value in column.values if isinstance(value.get("path"), str)]
        medium = _medium_of_paths(paths) if paths else None
        if {"array", "sampling_rate"} <= first.keys():
            medium = Finding("audio", "waveforms with their sampling rates")
        return medium or Finding(LEFT_OUT, "dicts, which no encoder reads")
    flat, depth = column.values, 0
    while flat and isinstance(flat[0], list):
        flat, depth = [part for value in flat for part in value or [] if part is not None], depth + 1
    if flat and all(isinstance(part, str) for part in flat):
        return _medium_of_paths(flat) or Finding(LEFT_OUT, "lists of texts, which no encoder reads; join them")
    if depth > 2:
        return Finding(LEFT_OUT, f"arrays of {depth} dimensions; name them in --columns if they are pictures")
    widths = {len(part) for value in column.values for part in (value if depth == 2 else [value])}
    if depth == 0 or not are_numbers(flat) or len(widths) > 1:
        return Finding(LEFT_OUT, "lists of other things than equally many numbers")
    return Finding("numbers", f"a list of {widths.pop()} numbers in each row" if depth == 1 else "sequences of numbers")


# ---- Single values ----


def _kind_of_scalars(column: Column) -> Finding:
    texts = all(isinstance(value, str) for value in column.values)
    medium = _medium_of_paths(column.values) if texts else None
    if column.distinct == 1 and column.known == column.rows:
        return Finding(LEFT_OUT, f"the same value {_shown(column.values[0])} in every row")
    if medium is not None:
        return medium
    if _tells_the_label(column):
        return Finding(LEFT_OUT, "LEAK: each of its values stands for one label and each label for one value")
    if texts and all(DATE.fullmatch(value) for value in column.values):
        return _dates(column)
    if column.distinct > FEW and all(COMPACT_DATE.fullmatch(str(value)) for value in column.values):
        return _dates(column)
    if isinstance(column.feature, datasets.ClassLabel):
        return Finding("category", f"the dataset declares {len(column.feature.names)} classes")
    if all(isinstance(value, bool) for value in column.values):
        return Finding("category", "true or false")
    if column.distinct == 1:
        return Finding("category", f"{_shown(column.values[0])} or no value")
    return _kind_of_numbers(column) if are_numbers(column.values) else _kind_of_texts(column)


def _tells_the_label(column: Column) -> bool:
    """Whether the label and the column are two names of the same thing, as a name and its id are."""
    pairs = set(zip(map(str, column.values), column.labels, strict=True))
    values, labels = {value for value, _ in pairs}, {label for _, label in pairs}
    return 2 <= len(labels) == len(values) == len(pairs) <= len(column.values) / 2


def _dates(column: Column) -> Finding:
    return Finding(LEFT_OUT, f"dates, such as {_shown(column.values[0])}; write numbers, such as days, to use them")


def _kind_of_numbers(column: Column) -> Finding:
    numbers = [float(value) for value in column.values]
    whole, different = all(number.is_integer() for number in numbers), column.distinct == column.known
    low, high = min(numbers), max(numbers)
    span = f"from {low:.15g} to {high:.15g}"
    if whole and different and _run(numbers, column.rows):
        return Finding(LEFT_OUT, f"ids: whole numbers that count the rows, {span}")
    if whole and different and low >= LONG_NUMBER and column.known >= FEW:
        return Finding(LEFT_OUT, f"ids or times: long numbers, all different, such as {_shown(column.values[0])}")
    if whole and _named_id(column):
        if _hardly_repeats(column):
            return Finding(LEFT_OUT, f"ids by their name: {column.distinct} different whole numbers")
        if column.distinct > MOST_CATEGORIES:
            return Finding(LEFT_OUT, f"{column.distinct:,} ids, more than {MOST_CATEGORIES:,} categories")
        return Finding("category", f"{column.distinct} ids that repeat, by their name")
    if whole and column.distinct == 2:
        return Finding("category", f"two values, {_shown(column.values[numbers.index(low)])} and {high:g}")
    return Finding("number", f"numbers {span}")


def _run(numbers: list[float], rows: int) -> bool:
    """Whether different whole numbers count the rows: 0, 1, 2 and so on, or in any order with few gaps."""
    low, high = min(numbers), max(numbers)
    in_order = low in (0, 1) and numbers == [low + i for i in range(len(numbers))]
    return (in_order and len(numbers) > 2) or (len(numbers) >= 3 * FEW and high - low < 2 * rows)


def _kind_of_texts(column: Column) -> Finding:
    values = [str(value) for value in column.values]
    words = sum(map(_words, values)) / len(values)
    several = sum(_words(value) > 1 for value in values) / len(values)
    count, example = column.distinct, _shown(values[0])
    if all(LIST_AS_TEXT.fullmatch(value) for value in values):
        return Finding(
            LEFT_OUT, f"lists written as texts, such as {example}; write lists of numbers in jsonl or parquet"
        )
    if not _hardly_repeats(column) and (words < PHRASE or (count <= FEW and words < SENTENCE)):
        if count > MOST_CATEGORIES:
            return Finding(LEFT_OUT, f"{count:,} values that repeat, more than {MOST_CATEGORIES:,} categories")
        way_out = _but_for_some(values) or ("; write them as 3.5 to use them as numbers" if _have_units(values) else "")
        return Finding("category", f"{count} values that repeat, such as {example}{way_out}")
    unlike = unlike_numbers(values)
    if unlike:
        return Finding(LEFT_OUT, unlike)
    if several >= SOME:
        return Finding("text", f"texts of {words:.0f} words on average, {count} of {column.known} different")
    if count == column.known or _named_id(column) or sum(map(str.isalpha, values)) < len(values) / 2:
        return Finding(LEFT_OUT, f"ids: {count} different codes in {column.known} rows, such as {example}")
    return Finding("text", f"single words, {count} of {column.known} different")


def unlike_numbers(values: Sequence[str]) -> str | None:
    """Why texts that look like numbers are not read as numbers; `None` for texts that do not look like them."""
    if _but_for_some(values):
        return f"numbers{_but_for_some(values)}"
    if _have_units(values):
        return f"numbers with a unit or a comma, such as {_shown(values[0])}; write them as 3.5 to use them"
    return None


def _have_units(values: Sequence[str]) -> bool:
    return all(WITH_UNIT.fullmatch(value) and not PADDED.fullmatch(value) for value in values)


def _hardly_repeats(column: Column) -> bool:
    return column.distinct > column.known / 2


def _named_id(column: Column) -> bool:
    return bool(ID_NAME.fullmatch(column.name) or CAMEL_ID.fullmatch(column.name))


def _words(text: str) -> int:
    """The number of words. In a script without blanks between words, two letters count as one word."""
    return len(text.split()) + len(UNSPACED.findall(text)) // 2


def _but_for_some(values: Sequence[str]) -> str:
    """
    The end of a sentence if most, but not all, of the texts are numbers, or all but one that repeats; else an empty
    text.
    """
    others = [value for value in values if not _is_number(value)]
    numbers = {value for value in values if _is_number(value)}
    has_placeholder = len(set(others)) == 1 and len(numbers) > FEW  # such as NULL, in however many cells
    if not others or not (has_placeholder or len(others) <= (1 - MOSTLY) * len(values)):
        return ""
    return f", but {len(others)} of {len(values)} cells are no numbers, such as {_shown(others[0])}; leave these empty"


def _shown(value: Any) -> str:
    text = str(value)
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
