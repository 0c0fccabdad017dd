"""Write tiny real sound and video files with PyAV, which needs no ffmpeg program."""

from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np

from pmr_hf.data.ave import HEADER


# By file type: codec and pixel format of the pictures, codec and rate of the sound (FLV allows only a few rates).
CODECS = {".mp4": ("libx264", "yuv420p", "aac", 16000), ".flv": ("flv", "yuv420p", "libmp3lame", 22050)}

# Lines of the real lists, with their odd names. The second video has two events.
AVE_LINES = {
    "trainSet.txt": [
        "Church bell&-mlWcker_3o&good&3&7",
        "Male speech, man speaking&-ccciEuH9FE&good&5&10",
        "Female speech, woman speaking&-ccciEuH9FE&good&5&10",
        "Frying (food)&_QQP43H56TA&good&0&10",
    ],
    "valSet.txt": ["Church bell&PIdEa_F_VYg&good&0&10"],
    "testSet.txt": ["Fixed-wing aircraft, airplane&8zL4trFJ1LY&good&0&10", "Church bell&hOuyJFqb4JM&good&0&5"],
}


def write_wav(path, wave, rate):
    """Write a mono wave (samples,) with values in [-1, 1] at `rate` Hz as a 16-bit wav file."""
    with av.open(str(path), "w") as container:
        _encode_wave(container, container.add_stream("pcm_s16le", rate=rate, layout="mono"), wave, rate)


def write_video(path, frames, rate, wave=None, wave_rate=16000):
    """Write a .mp4 or .flv file: frames (N, H, W, 3), uint8, H and W even, at `rate` per second, and a mono wave."""
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


def write_ave(folder):
    """Fill a folder like the download of AVE: seven events, with videos of half a second and sound."""
    (folder / "AVE").mkdir()
    sine = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 16000)
    clip = folder / "AVE" / "clip.mp4"
    write_video(clip, np.full((5, 32, 32, 3), 90, np.uint8), 10, sine)
    for name, lines in AVE_LINES.items():
        (folder / name).write_text("\n".join(lines) + "\n")
        for line in lines:
            (folder / "AVE" / f"{line.split('&')[1]}.mp4").write_bytes(clip.read_bytes())
    clip.unlink()
    (folder / "Annotations.txt").write_text("\n".join([HEADER, *chain(*AVE_LINES.values())]))
    return folder
