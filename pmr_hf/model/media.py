"""Read pictures, sound and video from paths, URLs, bytes, arrays, PIL images and `datasets` features."""

import io
import os
import sys
from http.client import HTTPException
from typing import Any, BinaryIO
from urllib.request import urlopen

import av
import numpy as np
import torch
from PIL import Image, ImageOps


class UnreadableError(ValueError):
    """Raised for a value that its modality cannot read. The message says what was found and what is expected."""


def is_missing(value: Any) -> bool:
    """Whether a value stands for an absent modality: `None`, NaN, an empty string or list, or a list of such values."""
    if value is None:
        return True
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, float):
        return value != value
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        return not value["bytes"] and not value["path"]
    if isinstance(value, np.ndarray) and value.dtype.kind == "f" and np.isnan(value).all():
        return True
    if isinstance(value, (bytes, list, tuple, np.ndarray)):
        return len(value) == 0 or (isinstance(value, (list, tuple)) and all(is_missing(part) for part in value))
    return False


def describe(value: Any) -> str:
    """A short description of a value for error messages: its file, or its type and size."""
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        value = value["path"] or value["bytes"]
    if isinstance(value, (str, os.PathLike)):
        return f"file {os.fspath(value)!r}"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return f"an array of shape {tuple(value.shape)} and type {value.dtype}"
    return f"a {type(value).__name__}"


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


def as_array(value: Any) -> np.ndarray:
    """Convert a list or tensor to an array. Raises `UnreadableError` for lists of unequal lengths."""
    try:
        return np.asarray(value)
    except ValueError as error:
        raise UnreadableError(f"{value!r:.80} is not an array, since its lists differ in length") from error


def read_image(value: Any) -> Image.Image:
    """
    Read a PIL image of any mode.

    Args:
        value: a path, the bytes of an image file, `{"bytes", "path"}`, a PIL image, or an array (H, W), (H, W, C) or
            (C, H, W) with C of 1, 3 or 4: integers in 0..255, uint16 in 0..65535, or floats in [0, 1].

    Raises:
        UnreadableError: for anything else.
    """
    image = value
    if isinstance(value, (np.ndarray, torch.Tensor, list)):
        return _image_of_array(as_array(value))
    if not isinstance(value, Image.Image):
        stream = open_file(value)
        if stream is None:
            raise UnreadableError(f"{describe(value)} is not an image")
        with stream:
            try:
                image = ImageOps.exif_transpose(Image.open(stream))
                image.load()
            except (OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError) as error:
                raise UnreadableError(
                    f"{describe(value)} is not an image that can be read ({_first_line(error)})"
                ) from error
    if image.mode == "F" or image.mode.startswith("I"):  # more than 8 bits, which Pillow would clip at 255
        array = np.asarray(image)
        deep = image.mode.startswith("I;16") or (image.mode == "I" and array.max() > 255 and array.min() >= 0)
        return _image_of_array(array.astype(np.uint16) if deep and array.max() < 2**16 else array)
    return image


def _image_of_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    shape = array.shape
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    numeric = array.dtype.kind in "uifb" and array.size > 0
    top = {"f": 1, "b": 1}.get(array.dtype.kind, 65535 if array.dtype == np.uint16 else 255)
    if not numeric or not (array.ndim == 2 or shape[2:] in ((3,), (4,))) or not 0 <= array.min() <= array.max() <= top:
        raise UnreadableError(
            f"an array of shape {shape} and type {array.dtype} is not an image: (H, W), (H, W, C) or (C, H, W) with 1, "
            "3 or 4 channels, of integers in 0..255, uint16 in 0..65535, or floats in [0, 1]"
        )
    return Image.fromarray((array * (255 / top)).round().astype(np.uint8))


def is_numbers(value: Any) -> bool:
    """Whether a value is a number or nested lists of numbers, which is how `datasets` returns an array."""
    while isinstance(value, (list, tuple)) and len(value):
        value = value[0]
    return isinstance(value, (int, float))


def read_audio(value: Any, sampling_rate: int) -> np.ndarray:
    """
    Read a mono waveform (samples,) in fp32 at `sampling_rate`. Channels are averaged.

    Args:
        value: a path or the bytes of an audio or video file, `{"bytes", "path"}`, `{"array", "sampling_rate"}`, a
            torchcodec decoder (as `datasets.Audio` returns), or an array (samples,), (channels, samples) or (samples,
            channels) that is already at `sampling_rate`: floats, or integers of 16 or 32 bits.
        sampling_rate (`int`): rate of the returned waveform, in Hz.

    Raises:
        UnreadableError: for any other value, and for a file without sound.
    """
    stream = open_file(value)
    if stream is not None:
        with stream:
            wave, rate = _decode_audio(stream, value)
    elif isinstance(value, dict) and {"array", "sampling_rate"} <= value.keys():
        wave, rate = _wave_of_array(value["array"]), value["sampling_rate"]
        if not isinstance(rate, (int, float, np.number)) or not 1 <= rate < 2**31:
            raise UnreadableError(f"{rate!r:.80} is not a sampling rate in Hz")
    elif _is_torchcodec(value, "AudioDecoder"):
        samples = value.get_all_samples()
        wave, rate = samples.data.numpy(), samples.sample_rate
    elif isinstance(value, (np.ndarray, torch.Tensor, list)):
        wave, rate = _wave_of_array(value), sampling_rate
    else:
        raise UnreadableError(f"{describe(value)} is not audio")
    if wave.ndim == 2:
        wave = wave.mean(0)
    if wave.ndim != 1 or wave.size == 0 or not np.isfinite(wave).all():
        raise UnreadableError(f"{describe(value)} is not audio: finite samples, (samples,) or (channels, samples)")
    return wave.astype(np.float32) if rate == sampling_rate else _resample(wave.astype(np.float32), rate, sampling_rate)


def _wave_of_array(value: Any) -> np.ndarray:
    wave = as_array(value)
    if wave.dtype.kind not in "bfiu":
        raise UnreadableError(f"{value!r:.80} is not audio")
    if wave.dtype in (np.int16, np.int32):
        wave = wave / -float(np.iinfo(wave.dtype).min)
    if wave.ndim == 2 and wave.shape[0] > wave.shape[1]:
        wave = wave.T
    return wave.astype(np.float32)


def _decode_audio(stream: BinaryIO, value: Any) -> tuple[np.ndarray, int]:
    try:
        with av.open(stream, "r") as container:
            if not container.streams.audio:
                raise UnreadableError(f"{describe(value)} has no sound track")
            to_float = av.AudioResampler(format="fltp")
            frames = [part.to_ndarray() for frame in container.decode(audio=0) for part in to_float.resample(frame)]
            rate = container.streams.audio[0].codec_context.sample_rate
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        if isinstance(error, UnreadableError):
            raise
        raise UnreadableError(f"{describe(value)} is not audio that can be read ({_first_line(error)})") from error
    if not frames:
        raise UnreadableError(f"{describe(value)} has an empty sound track")
    return np.concatenate(frames, axis=1), rate


def _resample(wave: np.ndarray, rate: int, sampling_rate: int) -> np.ndarray:
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=sampling_rate)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[None]), format="fltp", layout="mono")
    frame.sample_rate = rate
    parts = [part.to_ndarray()[0] for part in [*resampler.resample(frame), *resampler.resample(None)]]
    return np.concatenate(parts) if parts else np.zeros(1, np.float32)  # a sound shorter than one sample


def read_frames(value: Any, num_frames: int | None = None) -> list[Image.Image]:
    """
    Read evenly spaced frames of a video: the middle frames of `num_frames` equal segments.

    Args:
        value: a path or the bytes of a video file, `{"bytes", "path"}`, a torchcodec decoder (as `datasets.Video`
            returns), an array (T, H, W, C) or (T, C, H, W), or a list of images, see [`read_image`].
        num_frames (`int`, *optional*): number of frames to take. A shorter video repeats some of its frames. By
            default, all frames of a list or array are taken.

    Raises:
        UnreadableError: for any other value, and for a file without pictures.
        ValueError: for a file without `num_frames`.
    """
    if isinstance(value, (list, tuple)) or (isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim == 4):
        rows = range(len(value)) if num_frames is None else evenly(len(value), num_frames)
        return [read_image(value[i]) for i in rows]
    if num_frames is None:
        raise ValueError(f"Expected `num_frames` for {describe(value)}, got none; say how many frames to take from it.")
    if _is_torchcodec(value, "VideoDecoder"):
        return [read_image(frame) for frame in value.get_frames_at(indices=evenly(len(value), num_frames)).data]
    stream = open_file(value)
    if stream is None:
        raise UnreadableError(f"{describe(value)} is not a video")
    with stream:
        try:
            return _decode_frames(stream, num_frames)
        except (av.FFmpegError, OSError, ValueError, IndexError, MemoryError) as error:
            raise UnreadableError(
                f"{describe(value)} is not a video that can be read ({_first_line(error)})"
            ) from error


def _decode_frames(stream: BinaryIO, num_frames: int) -> list[Image.Image]:
    with av.open(stream, "r") as container:
        total = sum(packet.size > 0 for packet in container.demux(video=0))  # headers may lack the number of frames
    stream.seek(0)
    with av.open(stream, "r") as container:
        rows, images, last = evenly(total, num_frames), {}, None
        for i, frame in enumerate(container.decode(video=0)):
            last = frame
            if i in rows:
                images[i] = frame.to_image()
            if i == rows[-1]:
                break
    if last is None:
        raise ValueError("no frame can be decoded")
    # A damaged file may decode to fewer frames than it has packets.
    return [images[i] if i in images else last.to_image() for i in rows]


def evenly(total: int, count: int) -> list[int]:
    """The middles of `count` equal segments of `total` items, as indices: evenly(10, 2) is [2, 7]."""
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def _is_torchcodec(value: Any, name: str) -> bool:
    # torchcodec is not a dependency. `datasets` has imported it already if the value is a decoder.
    decoders = sys.modules.get("torchcodec.decoders")
    return decoders is not None and isinstance(value, getattr(decoders, name))


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0] or type(error).__name__
