"""Read sound: decode it, scale its samples to [-1, 1], average its channels, and bring it to one sampling rate."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch

from .media_files import open_container, open_file
from .media_limits import DEFAULT_LIMITS, MediaLimits
from .media_values import UnreadableError, as_array, describe, is_decoder, reason_of


if TYPE_CHECKING:
    import av


def read_audio(value: Any, sampling_rate: int, limits: MediaLimits = DEFAULT_LIMITS) -> np.ndarray:
    """
    Read a mono waveform (samples,) in fp32 at `sampling_rate`. Channels are averaged.

    Args:
        value: a path or the bytes of an audio or video file, `{"bytes", "path"}`, `{"array", "sampling_rate"}`, a
            torchcodec decoder (as `datasets.Audio` returns), or an array, tensor or list (samples,), (channels,
            samples) or (samples, channels) that is already at `sampling_rate`. For the types of samples, see
            [`scale_samples`].
        sampling_rate (`int`): rate of the returned waveform, in Hz.
        limits (`MediaLimits`, *optional*): the longest sound, and whether addresses are opened.

    Raises:
        UnreadableError: for any other value, for a file without sound, and for a sound past the limits.
    """
    stream = open_file(value, limits)
    if stream is not None:
        with stream:
            return _decode(stream, value, sampling_rate, limits)
    if isinstance(value, dict) and {"array", "sampling_rate"} <= value.keys():
        wave, rate = _wave_of_array(value["array"]), value["sampling_rate"]
        if not isinstance(rate, (int, float, np.number)) or not 1 <= rate < 2**31:
            raise UnreadableError(f"{rate!r:.80} is not a sampling rate in Hz")
    elif is_decoder(value, "AudioDecoder"):
        limits.check("seconds", value.metadata.duration_seconds or 0, "an AudioDecoder")
        samples = value.get_all_samples()
        wave, rate = samples.data.numpy(), samples.sample_rate
    elif isinstance(value, (np.ndarray, torch.Tensor, list, tuple)):
        wave, rate = _wave_of_array(value), sampling_rate
    else:
        raise UnreadableError(f"{describe(value)} is not audio")
    if wave.ndim == 2:
        wave = wave.mean(0)
    if wave.ndim != 1 or wave.size == 0 or not np.isfinite(wave).all():
        raise UnreadableError(f"{describe(value)} is not audio: finite samples, (samples,) or (channels, samples)")
    limits.check("seconds", len(wave) / rate, describe(value))
    wave = wave.astype(np.float32)
    return wave if rate == sampling_rate else _resample([wave], rate, sampling_rate)


def scale_samples(value: Any) -> np.ndarray:
    """
    Convert samples to fp32 in [-1, 1]. Their type gives the full scale, as in wav files: floats have a full scale of 1,
    signed integers of n bits one of 2^(n - 1), and unsigned integers count from the middle of their range.

    Args:
        value: an array, tensor or list of floats, or an array or tensor of integers of 8, 16 or 32 bits.

    Raises:
        UnreadableError: for values that are not numbers, and for integers of 64 bits and lists of integers. These do
            not tell their full scale: the samples of files of 8, 16 and 24 bits all look like that.
    """
    samples = as_array(value)
    kind, bits = samples.dtype.kind, 8 * samples.dtype.itemsize
    if kind == "f":
        return samples.astype(np.float32)
    if kind not in "iu":
        raise UnreadableError(f"{value!r:.80} is not audio")
    if bits > 32:
        found = f"{value!r:.80}" if isinstance(value, (list, tuple)) else describe(value)
        raise UnreadableError(
            f"{found} does not tell the full scale of its integers; divide them by it, 32768 for samples of 16 bits, "
            "or give an array of their own type, such as np.asarray(samples, np.int16)"
        )
    half = 2.0 ** (bits - 1)
    return (samples.astype(np.float64) / half - (kind == "u")).astype(np.float32)


def _wave_of_array(value: Any) -> np.ndarray:
    wave = scale_samples(value)
    return wave.T if wave.ndim == 2 and wave.shape[0] > wave.shape[1] else wave


def _decode(stream: BinaryIO, value: Any, sampling_rate: int, limits: MediaLimits) -> np.ndarray:
    """Decode the first sound track as a mono waveform (samples,) at `sampling_rate`."""
    import av

    try:
        with open_container(stream) as container:
            if not container.streams.audio:
                raise UnreadableError(f"{describe(value)} has no sound track")
            seconds = (container.duration or 0) / av.time_base
            if container.format.name != "mp3":  # its header may only guess the duration
                limits.check("seconds", seconds, describe(value))
            rate = container.streams.audio[0].codec_context.sample_rate
            blocks = _mono_blocks(container, rate, describe(value), limits)
            wave = _concatenated(blocks) if rate == sampling_rate else _resample(blocks, rate, sampling_rate)
    except UnreadableError:
        raise
    except Exception as error:  # PyAV raises errors of any type for damaged files, such as a codec that is None
        raise UnreadableError(f"{describe(value)} is not audio that can be read ({reason_of(error)})") from error
    if not np.isfinite(wave).all():
        raise UnreadableError(f"{describe(value)} has samples that are no numbers")
    return wave


def _mono_blocks(
    container: "av.container.InputContainer", rate: int, what: str, limits: MediaLimits
) -> Iterator[np.ndarray]:
    """The mean of the channels, in blocks (samples,) of fp32 at the rate of the file."""
    import av

    # Packed samples: PyAV's `to_ndarray` of planar frames with 8 channels or more reads beyond their planes.
    to_float = av.AudioResampler(format="flt")
    count = 0
    for frame in container.decode(audio=0):
        for part in to_float.resample(frame):
            count += part.samples
            limits.check("seconds", count / rate, what)
            yield part.to_ndarray().reshape(-1, part.layout.nb_channels).mean(1)
    if not count:
        raise UnreadableError(f"{what} has an empty sound track")


def _resample(blocks: Iterable[np.ndarray], rate: int, sampling_rate: int) -> np.ndarray:
    """Resample a mono waveform, given in blocks (samples,) of fp32."""
    import av

    resampler = av.AudioResampler(format="fltp", layout="mono", rate=sampling_rate)

    def resampled() -> Iterator[np.ndarray]:
        for block in blocks:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block[None]), format="fltp", layout="mono")
            frame.sample_rate = rate
            yield from (part.to_ndarray()[0] for part in resampler.resample(frame))
        yield from (part.to_ndarray()[0] for part in resampler.resample(None))

    return _concatenated(resampled())


def _concatenated(blocks: Iterable[np.ndarray]) -> np.ndarray:
    parts = list(blocks)
    return np.concatenate(parts) if parts else np.zeros(1, np.float32)  # a sound too short for the filter
