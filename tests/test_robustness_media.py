"""Sound, pictures and video that users give in unusual forms: what is read, and what is refused by name."""

import io
import re
import struct
from datetime import datetime
from decimal import Decimal
from fractions import Fraction

import av
import numpy as np
import pandas
import pytest
import torch
from datasets import Array2D, Dataset, Features, Image, List, Value
from helpers.digits import WORDS
from helpers.media_files import write_video
from helpers.scripts import load_example
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image as PILImage
from transformers import ViTImageProcessor, Wav2Vec2FeatureExtractor

from pmr_hf import (
    MultimodalCollator,
    MultimodalPipeline,
    MultimodalProcessor,
    NumericProcessor,
    SpectrogramFeatureExtractor,
)
from pmr_hf.data.columns import undecoded
from pmr_hf.data.missing_values import present_rows
from pmr_hf.model.media import UnreadableError, is_missing, read_audio, read_frames, read_image


RATE = 8000
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# ---- Sound: samples are scaled by their type ----

FULL_SCALE = {
    "int8": (128, 0),
    "int16": (32768, 0),
    "int32": (2147483648, 0),
    "uint8": (128, 128),
    "uint16": (32768, 32768),
    "uint32": (2147483648, 2147483648),
}


@settings(max_examples=30)
@given(st.data())
@pytest.mark.parametrize("dtype", FULL_SCALE)
def test_integers_have_the_full_scale_of_their_type(dtype, data):
    full, middle = FULL_SCALE[dtype]
    samples = data.draw(arrays(dtype, st.integers(1, 20)))
    expected = [float(Fraction(int(sample) - middle, full)) for sample in samples]
    for form in (samples, {"array": samples, "sampling_rate": RATE, "path": "a.wav"}, samples[None], samples[:, None]):
        np.testing.assert_allclose(read_audio(form, RATE), expected, atol=6e-8)
    np.testing.assert_allclose(read_audio(torch.from_numpy(samples), RATE), expected, atol=6e-8)


@pytest.mark.parametrize(
    "samples",
    [
        np.array([0.5, -0.25], np.float16),
        np.array([0.5, -0.25]),
        torch.tensor([0.5, -0.25], dtype=torch.bfloat16),
        torch.tensor([0.5, -0.25], dtype=torch.float64, requires_grad=True),
        [0.5, -0.25],
        (0.5, -0.25),
    ],
    ids=str,
)
def test_floats_of_every_type_stay_as_they_are(samples):
    for form in (samples, {"array": samples, "sampling_rate": RATE}):
        assert read_audio(form, RATE).tolist() == [0.5, -0.25]


@pytest.mark.parametrize(
    "samples",
    [
        [0, 16384, -8192],
        (0, 16384),
        [[0, 1, 2], [3, 4, 5]],
        np.array([0, 16384]),
        np.array([0, 1], np.uint64),
        torch.tensor([0, 16384]),
    ],
    ids=str,
)
def test_integers_without_a_full_scale_are_refused(samples):
    for form in (samples, {"array": samples, "sampling_rate": RATE}):
        with pytest.raises(UnreadableError, match=r"full scale of its integers; divide .* 32768 for"):
            read_audio(form, RATE)
    with pytest.raises(ValueError, match="full scale of its integers"):
        SpectrogramFeatureExtractor(seconds=0.1, window=64, overlap=32)([samples])


@pytest.mark.parametrize(
    "samples", [np.array([True, False]), np.array([1j]), ["a", "b"], [None, 1], [10**400]], ids=str
)
def test_samples_that_are_no_numbers_are_refused(samples):
    with pytest.raises(UnreadableError, match="is not audio"):
        read_audio(samples, RATE)


@pytest.mark.parametrize(("codec", "dtype"), [("pcm_u8", "uint8"), ("pcm_s16le", "int16"), ("pcm_s32le", "int32")])
def test_an_array_sounds_as_its_wav_file(codec, dtype):
    wave = 0.8 * np.sin(np.arange(800) / 9)
    full, middle = FULL_SCALE[dtype]
    samples = (wave * (full - 1) + middle).round().astype(dtype)
    data = sound_file("wav", codec, 1, samples[None])
    np.testing.assert_allclose(read_audio(samples, 48000), read_audio(data, 48000), atol=1e-7)


def test_the_spectrogram_of_integers_is_that_of_the_floats():
    samples = (np.random.default_rng(0).normal(0, 3000, 1600)).astype(np.int16)
    extractor = SpectrogramFeatureExtractor(seconds=0.1, window=64, overlap=32)
    both = extractor([samples, samples / 32768])["pixel_values"]
    np.testing.assert_allclose(both[0], both[1], atol=1e-4)


def test_the_collator_scales_or_names_the_row():
    speech = Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=False)
    collator = MultimodalCollator(MultimodalProcessor({"speech": speech}), {"speech": "wave"}, label=None)
    samples = np.arange(-400, 400, dtype=np.int16) * 80
    rows = [{"wave": samples}, {"wave": samples / 32768}, {"wave": torch.from_numpy(samples)}]
    values = collator(rows)["speech"]["input_values"]
    assert torch.equal(values[0], values[1].float()) and torch.equal(values[0], values[2])
    as_jsonl = Dataset.from_list([{"wave": samples.tolist()}])[0]
    with pytest.raises(UnreadableError, match=r"row 1 of this batch, column 'wave', but \[-32000, .* full scale"):
        collator([rows[0], as_jsonl])
    collator.on_error = "missing"
    assert collator([rows[0], as_jsonl])["speech"]["present"].tolist() == [True, False]


# ---- Sound: any number of channels ----


def sound_file(container, codec, channels, samples):
    """Encode integer samples (channels, N) at 48 kHz, given to the encoder as packed frames."""
    layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}.get(channels, f"{channels} channels")
    kind = {"uint8": "u8", "int16": "s16", "int32": "s32"}[str(samples.dtype)]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        stream = file.add_stream(codec, rate=48000, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T).reshape(1, -1), kind, layout)
        frame.sample_rate = 48000
        context = stream.codec_context
        resampler = av.AudioResampler(context.format, context.layout, 48000, context.frame_size or None)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            file.mux(stream.encode(part))
        file.mux(stream.encode())
    return buffer.getvalue()


CHANNELS = [
    *[(file, "pcm_s16le", count) for file in ("wav", "matroska") for count in (1, 2, 6, 8, 9, 16, 63, 64)],
    *[("flac", "flac", count) for count in (1, 2, 6, 8)],  # no more in a file of this type
    *[("mp4", codec, count) for codec in ("aac", "alac") for count in (1, 2, 6)],
    ("mp4", "aac", 8),
    *[("matroska", "libopus", count) for count in (1, 2, 6, 8)],
]


@pytest.mark.parametrize(("container", "codec", "channels"), CHANNELS)
def test_sound_of_many_channels_is_their_mean(container, codec, channels):
    """With planar frames, PyAV ends the process from 8 channels on. Each channel has its own loudness here."""
    loudness = np.linspace(0.3, 0.6, channels)[:, None]
    waves = loudness * np.sin(2 * np.pi * 440 * np.arange(4800) / 48000)
    data = sound_file(container, codec, channels, (waves * 32767).round().astype(np.int16))
    found, expected = read_audio(data, 48000), waves.mean(0)
    if codec in ("aac", "libopus"):  # lossy, with a delay
        middle = slice(1500, 3900)  # 22 periods
        assert np.abs(np.fft.rfft(found[middle])).argmax() == 22
        assert found[middle].std() == pytest.approx(expected[middle].std(), rel=0.25)
    else:
        np.testing.assert_allclose(found[:4800], expected, atol=1e-4)


def test_more_channels_than_ffmpeg_mixes_are_an_unreadable_file():
    data = sound_file("wav", "pcm_s16le", 65, np.zeros((65, 100), np.int16))
    with pytest.raises(UnreadableError, match="is not audio that can be read"):
        read_audio(data, RATE)


# ---- Orientation ----

TURNS = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
    8: np.rot90,
}


def forms_of(data, folder):
    """The same file as bytes, path and dict, and as a PIL image: opened lazily, loaded, and copied."""
    path = folder / "picture"
    path.write_bytes(data)
    loaded = PILImage.open(io.BytesIO(data))
    loaded.load()
    return {
        "bytes": data,
        "path": str(path),
        "dict": {"bytes": data, "path": None},
        "lazy": PILImage.open(io.BytesIO(data)),
        "loaded": loaded,
        "copied": loaded.copy(),
    }


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", TURNS)
def test_a_picture_is_turned_upright_in_every_form(kind, orientation, tmp_path):
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    options = {"TIFF": {"tiffinfo": {0x0112: orientation}}, "WEBP": {"exif": exif, "lossless": True}}
    data = saved(PILImage.fromarray(PIXELS), kind, **options.get(kind, {"exif": exif}))
    for name, form in forms_of(data, tmp_path).items():
        image = read_image(form)
        np.testing.assert_array_equal(np.asarray(image), TURNS[orientation](PIXELS), err_msg=name)
        np.testing.assert_array_equal(np.asarray(read_image(image)), np.asarray(image))  # not turned again


def test_a_gray_picture_of_16_bits_is_turned_too():
    exif = PILImage.Exif()
    exif[0x0112] = 6
    deep = PILImage.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 257)
    data = saved(deep, "PNG", exif=exif)
    for form in (data, PILImage.open(io.BytesIO(data))):
        np.testing.assert_array_equal(np.asarray(read_image(form)), np.rot90(PIXELS[:, :, 0], -1))


def test_the_orientation_may_stand_in_xmp(tmp_path):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = saved(PILImage.fromarray(PIXELS), "WEBP", lossless=True, xmp=xmp)
    for form in forms_of(data, tmp_path).values():
        image = read_image(read_image(form))
        np.testing.assert_array_equal(np.asarray(image), np.rot90(PIXELS, -1))


def with_exif(data, exif):
    """A JPEG file with these bytes as its EXIF data."""
    segment = b"Exif\0\0" + exif
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]


ENTRY = st.builds(
    lambda tag, kind, count, value: struct.pack("<HHI", tag, kind, count) + value,
    st.sampled_from([0x0112, 0x011A, 0x0128, 0x8769, 0x8825, 0xA005]) | st.integers(0, 65535),
    st.integers(0, 13),
    st.sampled_from([0, 1, 2, 1000, 2**31]),
    st.binary(min_size=4, max_size=4) | st.sampled_from([b"\x06\0\0\0", b"\x08\0\0\0"]),
)
EXIF = st.binary(max_size=60) | st.builds(
    lambda entries, rest: b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + rest,
    st.lists(ENTRY, max_size=6),
    st.binary(max_size=8),
)
JPEG = saved(PILImage.fromarray(PIXELS), "JPEG", quality=95)


@given(EXIF)
def test_a_whole_picture_is_read_whatever_its_exif_data_are(tmp_path, exif):
    """Upright or as it is stored, and the same from bytes and from a PIL image that can be opened."""
    stored = np.asarray(PILImage.open(io.BytesIO(JPEG)))
    data = with_exif(JPEG, exif)
    found = np.asarray(read_image(data))
    assert any(np.array_equal(found, turn(stored)) for turn in TURNS.values())
    try:
        image = PILImage.open(io.BytesIO(data))
    except Exception:  # see below
        return
    np.testing.assert_array_equal(np.asarray(read_image(image)), found)


def test_a_jpeg_that_pillow_does_not_open_for_its_exif_data():
    """A resolution without numbers: `Image.open` ends in an IndexError of its own."""
    entries = [struct.pack("<HHI", 0x0128, 3, 1) + b"\2\0\0\0", struct.pack("<HHI", 0x011A, 5, 0) + bytes(4)]
    data = with_exif(JPEG, b"II*\0\x08\0\0\0" + struct.pack("<H", 2) + b"".join(entries) + bytes(4))
    data = data.replace(b"JFIF\0\1\1\1", b"JFIF\0\1\1\0")
    stored = np.asarray(PILImage.open(io.BytesIO(JPEG)))
    np.testing.assert_array_equal(np.asarray(read_image(data)), stored)


def test_an_avif_with_broken_exif_data():
    exif = PILImage.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    data = saved(PILImage.fromarray(PIXELS), "AVIF", exif=exif)
    whole = np.asarray(read_image(data))
    assert whole.shape == (9, 6, 3)
    broken = data.replace(b"II*\0", b"XX*\0").replace(b"MM\0*", b"XX\0*")
    with pytest.raises(ValueError, match="Exif"):
        PILImage.open(io.BytesIO(broken))
    np.testing.assert_array_equal(np.asarray(read_image(broken)), whole)  # a file of this type says it twice


MATRICES = {
    (1, 0, 0, 1): 1,
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}


@pytest.fixture(scope="module")
def lying(tmp_path_factory):
    """A video whose quarters differ, and the place of its display matrix: the box `tkhd` of ISO 14496-12."""
    file = tmp_path_factory.mktemp("lying") / "a.mp4"
    frames = np.zeros((3, 32, 48, 3), np.uint8)
    frames[:, :16, :24, 0] = frames[:, 16:, 24:, 2] = 255
    write_video(file, frames, 10)
    data = file.read_bytes()
    return data, data.index(b"tkhd") + 44


@pytest.mark.parametrize("matrix", MATRICES)
def test_the_frames_of_a_phone_are_turned_upright(lying, matrix):
    data, place = lying
    a, b, c, d = (round(entry * 65536) for entry in matrix)
    turned = data[:place] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[place + 36 :]
    stored = np.asarray(read_frames(data, 1)[0])
    assert stored.shape == (32, 48, 3)
    for image in read_frames(turned, 2):
        np.testing.assert_array_equal(np.asarray(image), TURNS[MATRICES[matrix]](stored))


@pytest.mark.parametrize(("degrees", "turn"), [(85, 6), (100, 6), (5, 1), (170, 3), (275, 8)])
def test_a_slanted_display_matrix_is_the_nearest_quarter_turn(lying, degrees, turn):
    data, place = lying
    cos, sin = (round(f(np.radians(degrees)) * 65536) for f in (np.cos, np.sin))
    turned = data[:place] + struct.pack(">9i", cos, sin, 0, -sin, cos, 0, 0, 0, 1 << 30) + data[place + 36 :]
    stored = np.asarray(read_frames(data, 1)[0])
    np.testing.assert_array_equal(np.asarray(read_frames(turned, 1)[0]), TURNS[turn](stored))


# ---- Transparency ----


def clear_picture(mode):
    """Two black pixels, the first of them clear and the second half clear, or opaque where a mode has no half."""
    image = PILImage.new("RGBA", (2, 1))
    image.putpixel((1, 0), (0, 0, 0, 128))
    if mode in ("RGBA", "LA", "RGBa"):
        return image.convert(mode)
    if mode == "La":
        return image.convert("LA").convert("La")
    image = PILImage.new(mode.split()[0], (2, 1))
    if mode.startswith("P"):
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.putpixel((0, 0), 0 if mode == "P bytes" else (1, 0) if mode == "PA" else 1)
        image.putpixel((1, 0), 1 if mode == "P bytes" else (0, 128) if mode == "PA" else 0)
        image.info.update({"P bytes": {"transparency": b"\0\x80"}, "P index": {"transparency": 1}}.get(mode, {}))
    else:
        image.putpixel((1, 0), 1 if mode != "RGB key" else (1, 1, 1))
        image.info["transparency"] = 0 if mode != "RGB key" else (0, 0, 0)
    return image


@pytest.mark.parametrize(
    "mode", ["RGBA", "LA", "PA", "RGBa", "La", "P bytes", "P index", "L key", "RGB key", "I;16 key"]
)
def test_a_transparent_picture_is_put_on_white(mode):
    image = clear_picture(mode)
    assert image.has_transparency_data
    before = image.tobytes()
    clear, other = np.asarray(read_image(image).convert("RGB"))[0].astype(int)
    assert clear.tolist() == [255, 255, 255]
    assert other[0] in (127, 0, 1)  # half black, or opaque
    assert image.tobytes() == before


def test_a_bar_and_a_square_on_clear_ground_differ_and_opaque_pixels_stay():
    bar = np.zeros((8, 8, 4), np.uint8)
    square = bar.copy()
    bar[3:5, :, 3], square[2:6, 2:6, 3] = 255, 255
    for form in (lambda x: x, PILImage.fromarray, lambda x: saved(PILImage.fromarray(x), "PNG"), lambda x: x / 255):
        seen = [np.asarray(read_image(form(picture))) for picture in (bar, square)]
        for picture, drawn in zip((bar, square), seen, strict=True):
            np.testing.assert_array_equal(drawn, np.repeat(255 - picture[:, :, 3:], 3, 2))
    opaque = np.dstack([PIXELS, np.full((6, 9), 255, np.uint8)])
    np.testing.assert_array_equal(np.asarray(read_image(opaque)), PIXELS)
    np.testing.assert_array_equal(np.asarray(read_image(opaque.transpose(2, 0, 1))), PIXELS)


def test_the_encoder_gets_the_white_ground():
    square = np.zeros((8, 8, 4), np.uint8)
    square[2:6, 2:6, 3] = 255
    for mean in ([0.0], [0.0] * 3):
        processor = ViTImageProcessor(do_resize=False, image_mean=mean, image_std=[1.0] * len(mean))
        pixels = MultimodalProcessor({"image": processor})(image=[PILImage.fromarray(square)])["image"]["pixel_values"]
        assert torch.equal(pixels[0, 0], torch.tensor(1 - square[:, :, 3] / 255).float())


def test_frames_with_alpha_are_put_on_white():
    frames = [PILImage.new("RGBA", (8, 8), (0, 0, 0, 0 if i < 2 else 255)) for i in range(4)]
    data = saved(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert [np.asarray(image).mean() for image in read_frames(data, 2)] == [255, 0]


# ---- Missing values ----


MISSING = {
    "None": None,
    "NA": pandas.NA,
    "NaT": pandas.NaT,
    "NaT of NumPy": np.datetime64("NaT"),
    "float": float("nan"),
    **{f"{kind} NaN": np.dtype(kind).type("nan") for kind in ("float16", "float32", "float64", "complex64")},
    "decimal": Decimal("nan"),
    **{f"array of {kind}": np.full(3, np.nan, kind) for kind in ("float16", "float32", "float64")},
    "array of one": np.array(np.nan, np.float32),
    "array of objects": np.array([None, np.nan, pandas.NA], object),
    "array of texts": np.array(["", "  "]),
    "array of times": np.array(["NaT"], "datetime64[s]"),
    "empty array": np.zeros((2, 0), np.int64),
    **{f"tensor of {kind}": torch.full((2,), torch.nan, dtype=kind) for kind in (torch.float32, torch.bfloat16)},
    "tensor of one": torch.tensor(torch.nan),
    "empty tensor": torch.zeros(0, dtype=torch.long),
    "list of NA": [pandas.NA, None, np.float32("nan")],
    "list of lists": [[None], [float("nan"), ""]],
    "Series": pandas.Series([None, pandas.NA]),
    "Series of Int64": pandas.Series([None], dtype="Int64"),
    "Series of texts": pandas.Series([None, " "], dtype="string"),
    "file of NaN": {"bytes": None, "path": float("nan")},
    "blank path": {"bytes": b"", "path": " "},
    "sound": {"array": [float("nan")] * 3, "sampling_rate": 8000},
    "sound of nothing": {"array": None, "sampling_rate": 8000},
    "bytearray": bytearray(),
}
PRESENT = [
    np.float32(0),
    np.int64(0),
    Decimal(0),
    np.datetime64("2020-01-01"),
    np.array([np.nan, 0.0], np.float32),
    np.array(0),
    np.array([None, 0], object),
    torch.tensor([torch.nan, 1.0]),
    torch.tensor(0),
    torch.tensor([False]),
    [pandas.NA, 0],
    pandas.Series([None, 1.0]),
    pandas.Series([None, 1], dtype="Int64"),
    {"array": [0.0], "sampling_rate": 8000},
    {"bytes": None, "path": "a.png"},
]


@pytest.mark.parametrize("name", MISSING)
def test_values_that_are_missing_in_every_form(name, processor):
    assert is_missing(MISSING[name])
    assert processor.read("image", MISSING[name]) is None and processor.read("text", MISSING[name]) is None


@pytest.mark.parametrize("value", PRESENT, ids=repr)
def test_values_that_are_present(value):
    assert not is_missing(value)


COLUMNS = {
    **{kind: (Value(kind), [0.0, float("nan"), None, 1.0]) for kind in ("float16", "float32", "float64")},
    **{
        f"list of {kind}": (List(Value(kind)), [[0.0, float("nan")], [float("nan")] * 2, [None, None], [1.0, 2.0]])
        for kind in ("float16", "float32", "float64")
    },
    "array": (Array2D((1, 2), "float32"), [[[0.0, float("nan")]], [[float("nan")] * 2], [[1.0, 2.0]]]),
    "sound": (
        {"array": List(Value("float32")), "sampling_rate": Value("int64")},
        [
            {"array": [0.0], "sampling_rate": 8000},
            {"array": [float("nan")], "sampling_rate": 8000},
            {"array": None, "sampling_rate": 8000},
        ],
    ),
    "texts": (Value("string"), ["a", "", "\u2003", None, "NA"]),
    "times": (Value("timestamp[s]"), [datetime(2020, 1, 1), None]),
    "nothing": (Value("null"), [None, None]),
}


@pytest.mark.parametrize("form", [None, "numpy", "torch", "pandas"])
@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_has_the_same_missing_rows_in_every_format(name, form):
    """The values of each row by `is_missing`, against the Arrow column."""
    feature, values = COLUMNS[name]
    data = Dataset.from_dict({"x": values}, features=Features({"x": feature}))
    present = present_rows(data, {"m": "x"})["m"].tolist()
    assert present == [not is_missing(value) for value in values]
    if form == "torch" and name in ("times", "nothing"):
        return  # a tensor has no such values
    rows = data.with_format(form)
    found = [rows[i]["x"].iloc[0] if form == "pandas" else rows[i]["x"] for i in range(len(values))]
    assert [not is_missing(value) for value in found] == present


def test_numbers_with_gaps_of_pandas_are_those_with_none():
    numbers = NumericProcessor([1.0, 2.0], [1.0, 1.0])
    expected = numbers([[3.0, None]])["values"]
    series = pandas.Series([3, None], dtype="Int64")
    for value in ([3.0, pandas.NA], [3, pandas.NaT], np.array([3, pandas.NA], object), series, series.astype(object)):
        assert torch.equal(numbers([value])["values"], expected)
    frame = pandas.DataFrame({"a": [3.0, None], "b": [None, None]}).convert_dtypes()
    collator = MultimodalCollator(MultimodalProcessor({"n": numbers}), {"n": ["a", "b"]}, label=None)
    batch = collator(frame.to_dict("records"))["n"]
    assert torch.equal(batch["values"][:1], expected) and batch["present"].tolist() == [True, False]


def test_a_series_is_a_list_of_samples(make_model, processor, digits):
    pipe = MultimodalPipeline(make_model().eval(), processor, missing="fused")
    captions = pandas.Series([WORDS[0], None, WORDS[2]], index=[7, 3, 5])
    pictures = pandas.Series([digits[i]["picture"] for i in range(3)])
    expected = pipe(image=pictures.tolist(), text=[WORDS[0], None, WORDS[2]])
    assert pipe(image=pictures, text=captions) == expected
    assert pipe(image=pictures, text=captions.astype("string")) == expected
    batch = processor(image=pictures, text=captions)
    assert batch["text"]["present"].tolist() == [True, False, True] and "present" not in batch["image"]
    with pytest.raises(ValueError, match="give lists of all modalities or of none"):
        pipe(image=pictures[0], text=captions)
    assert pipe(image=pandas.NA, text=WORDS[0]) == pipe(text=WORDS[0])


def test_a_series_of_numbers_is_one_number_per_sample_and_a_list_with_na_one_value():
    kind = MultimodalProcessor({"n": NumericProcessor([0.0], [1.0])})
    assert kind(n=pandas.Series([1.0, None, 3.0]))["n"]["present"].tolist() == [True, False, True]
    assert kind.kind("n").is_one_value([1.0, pandas.NA]) and kind.kind("n").is_one_value([None, np.float32(1)])
    assert not kind.kind("n").is_one_value([None, pandas.NA]) and not kind.kind("n").is_one_value([[1.0], pandas.NA])


# ---- Pictures that cannot be read ----

KINDS = ["PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "QOI", "JPEG2000", "ICO", "PPM", "TGA", "DDS", "PCX"]


@settings(max_examples=50)
@given(st.data())
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_read_or_unreadable(kind, data):
    """Whatever Pillow raises. Some changed bytes leave a picture, of which only the pixels are wrong."""
    whole = WHOLE[kind]
    changes = st.lists(st.tuples(st.integers(4, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=4)
    damaged = bytearray(whole)
    for place, byte in data.draw(changes):
        damaged[place] = byte
    damaged = bytes(damaged[: data.draw(st.integers(8, len(whole)))])
    for opened in (False, True):
        try:
            value = PILImage.open(io.BytesIO(damaged)) if opened else damaged
        except Exception:  # no PIL image to give
            continue
        try:
            assert 0 not in read_image(value).size
        except UnreadableError as error:
            assert re.search("is not an image|has no pixels|more than the limit", str(error))


WHOLE = {kind: saved(PILImage.fromarray(PIXELS).resize((16, 16)), kind) for kind in KINDS}


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0), (0, 500)])
def test_a_picture_without_pixels(size):
    with pytest.raises(UnreadableError, match=f"mode RGB has no pixels: its size is {size[0]} x {size[1]}"):
        read_image(PILImage.new("RGB", size))
    with pytest.raises(UnreadableError, match="is not an image"):
        read_image(np.zeros((*size, 3), np.uint8))


def test_a_picture_that_is_opened_but_cannot_be_loaded(tmp_path):
    (tmp_path / "a.png").write_bytes(saved(PILImage.fromarray(PIXELS), "PNG")[:-30])
    closed = PILImage.open(io.BytesIO(saved(PILImage.fromarray(PIXELS), "PNG")))
    closed.close()
    for image in (PILImage.open(tmp_path / "a.png"), closed):
        with pytest.raises(UnreadableError, match="a picture of 9 x 6 pixels and mode RGB is not an image that can be"):
            read_image(image)


def test_a_lab_picture_has_its_colours_and_its_lightness():
    from PIL import ImageCms

    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(PILImage.fromarray(PIXELS), srgb, lab, outputMode="LAB")
    assert read_image(image).mode == "RGB" and read_image(image).convert("L").size == (9, 6)


@pytest.fixture
def broken():
    """Bytes of three whole pictures, and of one that is not."""
    pictures = [saved(PILImage.fromarray(PIXELS + i), "PNG") for i in range(3)]
    return [{"bytes": data, "path": None} for data in [*pictures, b"\x89PNG no picture"]]


def test_a_list_with_a_broken_picture_is_missing_and_the_rest_goes_on(broken, caplog):
    rows = [broken[:2], [broken[0], broken[3]], broken[1:3]]
    data = Dataset.from_dict({"frames": rows}, Features({"frames": List(Image())}))
    with pytest.raises(OSError, match="cannot identify"):  # `datasets` stops by itself
        data[1]
    data = undecoded(data)
    assert data.features["frames"] == List(Image(decode=False))
    processor = MultimodalProcessor({"frames": ViTImageProcessor(size={"height": 8, "width": 8})})
    collator = MultimodalCollator(processor, {"frames": "frames"}, label=None)
    with pytest.raises(UnreadableError, match="row 1 of this batch, column 'frames', but 15 bytes is not"):
        collator(list(data))
    collator.on_error = "missing"
    assert collator(list(data))["frames"]["present"].tolist() == [True, False, True]
    cached = collator.cache(data)
    assert collator(list(cached))["frames"]["present"].tolist() == [True, False, True]


def test_the_cache_leaves_files_undecoded_and_the_check_says_what_training_cannot_do(broken, caplog):
    data = Dataset.from_dict({"picture": broken, "label": [0, 1, 0, 1]}).cast_column("picture", Image())
    processor = MultimodalProcessor({"image": ViTImageProcessor(size={"height": 8, "width": 8})})
    collator = MultimodalCollator(processor, {"image": "picture"}, on_error="missing")
    assert collator(list(collator.cache(data)))["image"]["present"].tolist() == [True, True, True, False]
    collator.check_dataset(data)
    assert "does not reach the columns ['picture']" in caplog.text
    caplog.clear()
    collator.check_dataset(undecoded(data))
    assert not caplog.text


def test_predict_goes_on_after_a_broken_picture(make_model, processor, digits, tmp_path):
    predict = load_example("predict")
    pictures = [saved(row["picture"], "PNG") for row in digits.select(range(3))]
    features = Features({"picture": Image(), "title": Value("string")})
    values = [*({"bytes": data, "path": None} for data in pictures), {"bytes": b"\x89PNG no", "path": None}]
    Dataset.from_dict({"picture": values, "title": ["a"] * 4}, features).to_parquet(tmp_path / "rows.parquet")
    table = undecoded(predict.read_table(tmp_path / "rows.parquet"))
    pipe = MultimodalPipeline(make_model().eval(), processor, missing="fused")
    columns = {"image": "picture", "text": "title"}
    rows = [predict.row_of(row, columns, pipe, tmp_path) for row in table]
    results = list(predict.predict(pipe, rows, 1, False))
    assert ["error" in result for result in results] == [False, False, False, True]
    assert "is not an image that can be read" in results[3]["error"]
