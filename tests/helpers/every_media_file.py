"""Write a small file of every format that Pillow and PyAV can write, and the beginnings of others, to a folder."""

import io
import sys
from pathlib import Path

import av
import numpy as np
from PIL import Image


SIZE = (48, 32)
# Options to save a picture with, by format; several for one format that stores pictures in several ways
PICTURES = {
    **{name: {} for name in ("BMP", "DIB", "GIF", "ICO", "ICNS", "IM", "PCX", "PNG", "PPM", "QOI", "SGI", "SPIDER")},
    **{name: {} for name in ("TGA", "DDS", "JPEG2000", "WEBP", "AVIF", "MPO", "MSP", "XBM", "BLP", "JPEG")},
    "JPEG progressive": {"progressive": True},
    "WEBP lossless": {"lossless": True},
    "PNG animated": {"save_all": True, "append_images": [Image.new("RGB", SIZE, "red")]},
    "GIF animated": {"save_all": True, "append_images": [Image.new("RGB", SIZE, "red")]},
    **{
        f"TIFF {kind}": {"compression": kind}
        for kind in ("raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg", "group4", "tiff_adobe_deflate")
    },
}
MODES = {"MSP": "1", "XBM": "1", "TIFF group4": "1", "SPIDER": "F", "BLP": "P"}
# Beginnings of the formats that Pillow opens and does not write; random bytes follow.
BEGINNINGS = {
    "CUR": b"\0\0\2\0\1\0\x30\x20\0\0\0\0\0\0\0\1\0\0\x16\0\0\0",
    "DCX": b"\xb1\x68\xde\x3a\x10\0\0\0\0\0\0\0",
    "FITS": b"SIMPLE  =                    T".ljust(80) + b"BITPIX  =                    8".ljust(80),
    "FLI": b"\0\4\0\0\x12\xaf\2\0\x30\0\x20\0\x08\0\3\0\0\0\0\0\0\0",
    "FTEX": b"FTEX\0\1\0\0\x30\0\0\0\x20\0\0\0\1\0\0\0\1\0\0\0",
    "GBR": b"\0\0\0\x1c\0\0\0\2\0\0\0\x30\0\0\0\x20\0\0\0\3GIMP\0\0\0\x0a",
    "IPTC": b"\x1c\x03\x14\0\2\0\x30\x1c\x03\x1e\0\2\0\x20",
    "MCIDAS": b"\0\0\0\0\0\0\0\4",
    "PCD": b"\0" * 2048 + b"PCD_",
    "PIXAR": b"\x80\xe8\0\0".ljust(416, b"\0") + b"\x20\0\x30\0",
    "PSD": b"8BPS\0\1\0\0\0\0\0\0\0\3\0\0\0\x20\0\0\0\x30\0\x08\0\3",
    "SUN": b"\x59\xa6\x6a\x95\0\0\0\x30\0\0\0\x20\0\0\0\x18\0\0\x12\0\0\0\0\1",
    "XPM": b'/* XPM */\nstatic char *a[] = {\n"48 32 2 1",\n"a c #000000",\n"b c #ffffff",\n',
    "XVTHUMB": b"P7 332\n#END_OF_COMMENTS\n48 32 255\n",
    "WAL": b"\0" * 32 + b"\x30\0\0\0\x20\0\0\0",
}
# Ending of the file, codec of its frames and of its sound
CONTAINERS = [
    *[(ending, None, "pcm_s16le") for ending in ("wav", "w64", "nut", "mka", "caf", "mov")],
    *[("wav", None, codec) for codec in ("pcm_f32le", "pcm_u8", "pcm_mulaw", "adpcm_ms", "adpcm_ima_wav")],
    *[("aiff", None, "pcm_s16be"), ("au", None, "pcm_s16be"), ("voc", None, "pcm_u8"), ("flac", None, "flac")],
    *[("ogg", None, "libopus"), ("mp3", None, "libmp3lame")],
    *[("mp2", None, "mp2"), ("ac3", None, "ac3"), ("eac3", None, "eac3"), ("m4a", None, "aac"), ("m4a", None, "alac")],
    *[("adts", None, "aac"), ("wv", None, "wavpack"), ("tta", None, "tta")],
    *[("mp4", "libx264", "aac"), ("mp4", "libx265", None), ("mp4", "mpeg4", None), ("mov", "mjpeg", "pcm_s16le")],
    *[
        ("mkv", "libx264", "pcm_s16le"),
        ("mkv", "ffv1", None),
        ("webm", "libvpx", "libopus"),
        ("webm", "libvpx-vp9", None),
    ],
    *[("avi", "mpeg4", "mp2"), ("avi", "huffyuv", None), ("mpegts", "mpeg2video", "mp2"), ("mpeg", "mpeg1video", None)],
    *[("flv", "flv", None), ("asf", "wmv2", None), ("gif", "gif", None), ("apng", "apng", None)],
    *[("y4m", "rawvideo", None), ("ivf", "libvpx", None), ("nut", "ffv1", None)],
    *[("3gp", "h263", None), ("mp4", "libsvtav1", None), ("mp4", "libx264", "ac3")],
]
FORMATS = {"mka": "matroska", "mkv": "matroska", "m4a": "ipod", "wma": "asf", "y4m": "yuv4mpegpipe"}
PIXELS = {"mjpeg": "yuvj420p", "ffv1": "yuv420p", "huffyuv": "yuv422p", "gif": "rgb8", "apng": "rgb24"}


def picture(name):
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
    array = np.stack([rows * 8, columns * 5, rows ^ columns], 2).astype(np.uint8)
    data = io.BytesIO()
    Image.fromarray(array).convert(MODES.get(name, "RGB")).save(data, name.split()[0], **PICTURES[name])
    return data.getvalue()


def container(ending, pictures, sound):
    """A file of half a second. Raises an error of PyAV or ValueError if this build lacks a codec."""
    data = io.BytesIO()
    width, height = {"h263": (128, 96), "libx265": (128, 96), "libsvtav1": (64, 64)}.get(pictures, SIZE)
    with av.open(data, "w", format=FORMATS.get(ending, ending)) as file:
        tracks = []
        if pictures:
            track = file.add_stream(pictures, rate=25)
            track.width, track.height, track.pix_fmt = width, height, PIXELS.get(pictures, "yuv420p")
            frames = [np.full((height, width, 3), 20 * i, np.uint8) for i in range(8)]
            tracks.append((track, [av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in frames]))
        if sound:
            track = file.add_stream(sound, rate=48000 if sound == "libopus" else 44100, layout="mono")
            context = track.codec_context
            wave = (9000 * np.sin(np.arange(context.sample_rate // 2) / 9)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
            frame.sample_rate = context.sample_rate
            context.open()
            to_codec = av.AudioResampler(context.format, "mono", context.sample_rate, context.frame_size or None)
            tracks.append((track, [*to_codec.resample(frame), *to_codec.resample(None)]))
        for track, frames in tracks:
            for frame in [*frames, None]:
                file.mux(track.encode(frame))
    return data.getvalue()


def main(folder):
    """Write every file, called by how it is read and by its format. Print what this build cannot write."""
    files = {f"picture {name}": picture(name) for name in PICTURES}
    files |= {f"picture {name}": beginning for name, beginning in BEGINNINGS.items()}
    for ending, pictures, sound in CONTAINERS:
        name = " ".join(filter(None, ("video" if pictures else "sound", ending, pictures, sound)))
        try:
            files[name] = container(ending, pictures, sound)
        except (av.FFmpegError, ValueError):
            print(name)
    for name, data in files.items():
        (folder / name).write_bytes(data)


if __name__ == "__main__":
    av.logging.set_level(None)
    main(Path(sys.argv[1]))
