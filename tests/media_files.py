"""Writes tiny real sound and video files, with PyAV and so without the ffmpeg program."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


# Per file type: codec and pixel format of the pictures, codec and rate of the sound (FLV allows few).
CODECS = {".mp4": ("libx264", "yuv420p", "aac", 16000), ".flv": ("flv", "yuv420p", "libmp3lame", 22050)}


def write_wav(path, wave, rate):
    """Write a mono wave, (samples,) in [-1, 1] at `rate` Hz, as 16-bit wav."""
    with av.open(str(path), "w") as container:
        _encode_wave(container, container.add_stream("pcm_s16le", rate=rate, layout="mono"), wave, rate)


def write_video(path, frames, rate, wave=None, wave_rate=16000):
    """Write frames, (N, H, W, 3) uint8 with even H and W, at `rate` per second, with a mono wave; .mp4 or .flv."""
    codec, pixels, wave_codec, file_rate = CODECS[Path(path).suffix]
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=Fraction(rate))
        video.height, video.width, video.pix_fmt = *frames.shape[1:3], pixels
        audio = None if wave is None else container.add_stream(wave_codec, rate=file_rate, layout="mono")
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode())
        if wave is not None:
            _encode_wave(container, audio, wave, wave_rate)


def _encode_wave(container, stream, wave, rate):
    samples = (np.clip(wave, -1, 1) * 32767).round().astype(np.int16)[None]
    frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
    frame.sample_rate = rate
    context = stream.codec_context
    resampler = av.AudioResampler(context.format, context.layout, context.sample_rate, context.frame_size or None)
    for part in [*resampler.resample(frame), *resampler.resample(None)]:
        container.mux(stream.encode(part))
    container.mux(stream.encode())
