"""Read evenly spaced or random frames of a video, turned upright."""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from PIL import Image

from .media_files import open_container, open_file
from .media_limits import DEFAULT_LIMITS, MediaLimits
from .media_values import UnreadableError, describe, is_decoder, reason_of
from .pictures import Turn, read_image


if TYPE_CHECKING:
    import av

# How to turn a frame upright, by the signs of the display matrix [[a, b], [c, d]]: (x, y) is shown at
# (a x + c y, b x + d y), with y downwards.
UPRIGHT: dict[tuple[int, ...], Image.Transpose] = {
    (0, 1, -1, 0): Turn.ROTATE_270,
    (-1, 0, 0, -1): Turn.ROTATE_180,
    (0, -1, 1, 0): Turn.ROTATE_90,
    (-1, 0, 0, 1): Turn.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Turn.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Turn.TRANSPOSE,
    (0, -1, -1, 0): Turn.TRANSVERSE,
}


def read_frames(
    value: Any, num_frames: int | None = None, limits: MediaLimits = DEFAULT_LIMITS, at_random: bool = False
) -> list[Image.Image]:
    """
    Read evenly spaced frames of a video: the middle frames of `num_frames` equal segments, or a random frame of each.
    The frames of a file are turned upright, by the quarter turn or flip nearest to its display matrix. A torchcodec
    decoder turns them itself from version 0.11.

    Args:
        value: a path or the bytes of a video file, `{"bytes", "path"}`, a torchcodec decoder (as `datasets.Video`
            returns), an array (T, H, W, C) or (T, C, H, W), or a list of images, see [`read_image`].
        num_frames (`int`, *optional*): number of frames to take. A shorter video repeats some of its frames. By
            default, all frames of a list or array are taken.
        limits (`MediaLimits`, *optional*): the largest frames, their number, and whether addresses are opened.
        at_random (`bool`, *optional*, defaults to `False`): draw a random frame of each segment, with the generator of
            Python's `random`.

    Raises:
        UnreadableError: for any other value, for a file without pictures, and for a video past the limits.
        ValueError: for a file or decoder without `num_frames`.
    """
    choose = randomly if at_random else evenly
    if isinstance(value, (list, tuple)) or (isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim == 4):
        rows = range(len(value)) if num_frames is None else choose(len(value), num_frames)
        return [read_image(value[i], limits) for i in rows]
    if num_frames is None:
        raise ValueError(f"Expected `num_frames` for {describe(value)}, got none; say how many frames to take from it.")
    if is_decoder(value, "VideoDecoder"):
        _check_frames(value.metadata.width or 0, value.metadata.height or 0, num_frames, "a VideoDecoder", limits)
        return [read_image(frame) for frame in value.get_frames_at(indices=choose(len(value), num_frames)).data]
    stream = open_file(value, limits)
    if stream is None:
        raise UnreadableError(f"{describe(value)} is not a video")
    with stream:
        try:
            return _decode(stream, num_frames, choose, describe(value), limits)
        except (UnreadableError, ImportError):
            raise
        except Exception as error:  # PyAV raises errors of any type for damaged files
            raise UnreadableError(f"{describe(value)} is not a video that can be read ({reason_of(error)})") from error


def evenly(total: int, count: int) -> list[int]:
    """The middles of `count` equal segments of `total` items, as indices: evenly(10, 2) is [2, 7]."""
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def randomly(total: int, count: int) -> list[int]:
    """A random item of each of `count` equal segments of `total` items, as indices in increasing order."""
    # Position p of count * total belongs to item p // count and to segment p // total.
    return [(i * total + random.randrange(max(total, 1))) // count for i in range(count)]


def _check_frames(width: int, height: int, count: int, what: str, limits: MediaLimits) -> None:
    limits.check_picture(width, height, "frame_pixels", what)
    limits.check("frame_bytes", 3 * width * height * count, what)


def _decode(
    stream: BinaryIO, num_frames: int, choose: Callable[[int, int], list[int]], what: str, limits: MediaLimits
) -> list[Image.Image]:
    total = 0
    with open_container(stream) as container:
        for packet in container.demux(video=0):  # headers may lack the number of frames
            total += packet.size > 0
            limits.check("frames", total, what)
    stream.seek(0)
    with open_container(stream) as container:
        track = container.streams.video[0]
        _check_frames(track.width, track.height, num_frames, what, limits)
        rows, images, last = choose(total, num_frames), {}, None
        for i, frame in enumerate(container.decode(track)):
            if (frame.width, frame.height) != (track.width, track.height):  # the size may change within a video
                _check_frames(frame.width, frame.height, num_frames, what, limits)
            last = frame
            if i in rows:
                images[i] = _picture(frame)
            if i == rows[-1]:
                break
    if last is None:
        raise ValueError("no frame can be decoded")
    # A damaged file may decode to fewer frames than it has packets.
    return [images[i] if i in images else _picture(last) for i in rows]


def _picture(frame: "av.VideoFrame") -> Image.Image:
    """A frame as a picture: turned upright, and on white if it is transparent."""
    if any(component.is_alpha for component in frame.format.components):
        image = read_image(frame.to_ndarray(format="rgba"))
    else:
        image = frame.to_image()
    turn = UPRIGHT.get(_display_signs(frame))
    return image if turn is None else image.transpose(turn)


def _display_signs(frame: "av.VideoFrame") -> tuple[int, ...]:
    """
    The signs of a frame's display matrix [[a, b], [c, d]], brought to the nearest quarter turn: (a, 0, 0, d) or
    (0, b, c, 0). A frame without a matrix has (1, 0, 0, 1).
    """
    stored: Any = frame.side_data.get("DISPLAYMATRIX")
    if stored is None:
        return (1, 0, 0, 1)
    (a, b), (c, d) = np.frombuffer(stored, np.int32).reshape(3, 3)[:2, :2].astype(float).tolist()
    kept = (a, 0, 0, d) if abs(a) + abs(d) >= abs(b) + abs(c) else (0, b, c, 0)
    return tuple(int(np.sign(entry)) for entry in kept)
