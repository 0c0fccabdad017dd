"""Open the file of a picture, sound or video: the one place where a path, an address or bytes become a stream."""

import io
import os
from http.client import HTTPException
from typing import Any, BinaryIO
from urllib.request import urlopen

from .media_values import UnreadableError, describe


def open_file(value: Any) -> BinaryIO | None:
    """
    Open a path, a URL, bytes or `{"bytes", "path"}` as a binary stream. Returns `None` for a value of another type.
    Raises `UnreadableError` if the file cannot be opened or downloaded.
    """
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        value = value["bytes"] or value["path"]
    if isinstance(value, bytes):
        return io.BytesIO(value)
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        try:
            with urlopen(value, timeout=30) as response:
                return io.BytesIO(response.read())
        except (OSError, HTTPException) as error:
            raise UnreadableError(f"cannot download {value!r} ({error})") from error
    if isinstance(value, (str, os.PathLike)):
        try:
            return open(value, "rb")
        except (OSError, ValueError) as error:  # a path with a null character is a ValueError
            reason = getattr(error, "strerror", None) or error
            raise UnreadableError(f"cannot open {describe(value)} ({reason})") from error
    return None
