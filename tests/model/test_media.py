"""Pictures, sound and video in every form that a dataset may hold."""

import io

import numpy as np
import pytest
import torch
from datasets import Audio, Dataset, Video
from helpers.media_files import write_video, write_wav
from PIL import Image

from pmr_hf.model.media import UnreadableError, evenly, is_missing, read_audio, read_frames, read_image


RATE = 8000
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def tone(rate, seconds=1.0):
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)


def png(array, **kwargs):
    buffer = io.BytesIO()
    Image.fromarray(array, **kwargs).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_picture_in_every_form(tmp_path):
    data = png(PIXELS)
    (tmp_path / "a.png").write_bytes(data)
    forms = [
        str(tmp_path / "a.png"),
        tmp_path / "a.png",
        data,
        bytearray(data),
        io.BytesIO(data),
        {"bytes": data, "path": None},
        {"bytes": None, "path": str(tmp_path / "a.png")},
        Image.fromarray(PIXELS),
        PIXELS,
        PIXELS.astype(np.int64),
        PIXELS.transpose(2, 0, 1),
        PIXELS / 255,
        torch.tensor(PIXELS),
        PIXELS.tolist(),
    ]
    for form in forms:
        assert np.array_equal(np.asarray(read_image(form)), PIXELS)
    assert read_image(PIXELS[:, :, :1]).mode == read_image(PIXELS[:, :, 0]).mode == "L"


def test_sixteen_bits_are_scaled_and_a_turned_photo_is_put_upright():
    deep = (PIXELS[:, :, 0].astype(np.uint16)) * 257
    assert np.array_equal(np.asarray(read_image(png(deep))), PIXELS[:, :, 0])
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    Image.fromarray(PIXELS).save(buffer, "PNG", exif=exif)
    assert np.array_equal(np.asarray(read_image(buffer.getvalue())), np.rot90(PIXELS, -1))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"no picture", "10 bytes is not an image that can be read"),
        (png(PIXELS)[:60], "60 bytes is not an image that can be read"),
        ("nowhere.png", r"cannot open file 'nowhere.png' \(No such file or directory\)"),
        (7, "a int is not an image"),
        (PIXELS * 2.0, "is not an image: .* floats in"),
        (PIXELS.astype(int) - 300, "is not an image: .* integers in"),
        (np.zeros((5, 6, 7)), r"an array of shape \(5, 6, 7\) and type float64 is not an image"),
        (np.full((4, 4), "a"), "is not an image"),
    ],
)
def test_pictures_that_cannot_be_read(value, message):
    with pytest.raises(UnreadableError, match=message):
        read_image(value)


def test_sound_in_every_form(tmp_path):
    wave = tone(RATE)
    write_wav(tmp_path / "a.wav", wave, RATE)
    data = (tmp_path / "a.wav").read_bytes()
    exact = [wave, wave.tolist(), torch.tensor(wave), np.stack([wave, wave]), {"array": wave, "sampling_rate": RATE}]
    for form in exact:
        np.testing.assert_allclose(read_audio(form, RATE), wave, atol=1e-7)
    for form in [tmp_path / "a.wav", str(tmp_path / "a.wav"), data, {"bytes": data, "path": "gone.wav"}]:
        result = read_audio(form, RATE)
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, wave, atol=1e-4)


def test_channels_are_averaged():
    np.testing.assert_allclose(read_audio(np.stack([tone(RATE), np.zeros(RATE)]), RATE), tone(RATE) / 2, atol=1e-7)


@pytest.mark.parametrize("target", [16000, 4000, 11025])
def test_sound_is_resampled(target, tmp_path):
    write_wav(tmp_path / "a.wav", tone(RATE), RATE)
    for form in (tmp_path / "a.wav", {"array": tone(RATE), "sampling_rate": RATE}):
        result = read_audio(form, target)
        assert abs(len(result) - target) <= 1
        middle = slice(target // 10, -target // 10)
        np.testing.assert_allclose(result[: len(tone(target))][middle], tone(target)[: len(result)][middle], atol=2e-3)


def test_frequencies_that_the_new_rate_cannot_hold_are_gone():
    high = np.sin(2 * np.pi * 3500 * np.arange(RATE) / RATE)
    assert np.abs(read_audio({"array": high, "sampling_rate": RATE}, 4000)[400:-400]).max() < 0.02


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"no sound", "8 bytes is not audio that can be read"),
        ("nowhere.wav", "cannot open file 'nowhere.wav'"),
        (np.array([0.1, np.nan]), "is not audio: finite samples"),
        (np.zeros((2, 3, 4)), "is not audio"),
        (5, "a int is not audio"),
    ],
)
def test_sounds_that_cannot_be_read(value, message):
    with pytest.raises(UnreadableError, match=message):
        read_audio(value, RATE)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Ten frames of growing brightness, with sound."""
    file = tmp_path_factory.mktemp("clip") / "a.mp4"
    frames = np.stack([np.full((32, 32, 3), 20 * i + 20, dtype=np.uint8) for i in range(10)])
    write_video(file, frames, 10, wave=tone(16000), wave_rate=16000)
    return file


def brightness(images):
    return [round((np.asarray(image).mean() - 20) / 20) for image in images]


def test_frames_are_spread_evenly(clip):
    assert evenly(10, 2) == [2, 7] and evenly(10, 3) == [1, 5, 8] and evenly(2, 4) == [0, 0, 1, 1]
    for count in (1, 2, 3, 10):
        assert brightness(read_frames(clip, count)) == evenly(10, count)
    assert brightness(read_frames(clip.read_bytes(), 3)) == [1, 5, 8]
    assert brightness(read_frames(clip, 20)) == [i // 2 for i in range(20)]


def test_frames_of_lists_and_arrays():
    video = np.arange(5, dtype=np.uint8)[:, None, None, None] * 20 + np.full((5, 4, 4, 3), 20, dtype=np.uint8)
    assert brightness(read_frames(video)) == [0, 1, 2, 3, 4]
    assert brightness(read_frames(video.transpose(0, 3, 1, 2), 2)) == [1, 3]
    assert brightness(read_frames([png(frame) for frame in video], 1)) == [2]


def test_the_sound_of_a_video(clip):
    result = read_audio(clip, 16000)
    assert np.abs(result).max() == pytest.approx(0.5, abs=0.1)


def test_videos_that_cannot_be_read(clip, tmp_path):
    write_wav(tmp_path / "a.wav", tone(RATE), RATE)
    for value, message in [
        (b"no video", "8 bytes is not a video that can be read"),
        (str(tmp_path / "a.wav"), "a.wav' is not a video that can be read"),
        ("nowhere.mp4", "cannot open file"),
        (3, "a int is not a video"),
    ]:
        with pytest.raises(UnreadableError, match=message):
            read_frames(value, 2)
    with pytest.raises(ValueError, match="Expected `num_frames` for file"):
        read_frames(clip)


def test_a_video_that_breaks_off_gives_the_frames_it_has(clip):
    """A sixth of the file is overwritten: the frames that can be decoded are repeated, or an error is raised."""
    data = bytearray(clip.read_bytes())
    start = data.index(b"mdat")
    data[start + len(data) // 3 : start + len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    try:
        assert len(read_frames(bytes(data), 4)) == 4
    except UnreadableError as error:
        assert "is not a video that can be read" in str(error)


@pytest.mark.parametrize("value", [None, "", "  ", float("nan"), [], [None, ""], b"", {"bytes": None, "path": None}])
def test_values_that_count_as_missing(value):
    assert is_missing(value)


@pytest.mark.parametrize("value", ["a", 0, 0.0, [0], b"a", {"bytes": b"a", "path": None}, np.zeros(1)])
def test_values_that_do_not_count_as_missing(value):
    assert not is_missing(value)


def test_what_datasets_decodes_with_torchcodec(clip, tmp_path):
    """Runs only where torchcodec and its FFmpeg are installed."""
    pytest.importorskip("torchcodec")
    write_wav(tmp_path / "a.wav", tone(RATE), RATE)
    rows = Dataset.from_dict({"sound": [str(tmp_path / "a.wav")], "clip": [str(clip)]})
    row = rows.cast_column("sound", Audio()).cast_column("clip", Video())[0]
    np.testing.assert_allclose(read_audio(row["sound"], RATE), tone(RATE), atol=1e-4)
    assert brightness(read_frames(row["clip"], 3)) == [1, 5, 8]


def test_deep_pictures_that_are_decoded_already():
    deep = Image.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 257)
    for image in (
        deep,
        Image.fromarray(PIXELS[:, :, 0].astype(np.int32) * 257),
        PIXELS[:, :, 0].astype(np.uint16) * 257,
    ):
        assert np.array_equal(np.asarray(read_image(image)), PIXELS[:, :, 0])
    assert np.array_equal(np.asarray(read_image(Image.fromarray(PIXELS[:, :, 0].astype(np.int32)))), PIXELS[:, :, 0])
    assert np.asarray(read_image(PIXELS[:, :, 0] > 99)).max() == 255
    with pytest.raises(UnreadableError, match="is not an image"):
        read_image(Image.fromarray(PIXELS[:, :, 0].astype(np.float32)))


def test_integer_waves_and_channels_last():
    wave = tone(RATE)
    np.testing.assert_allclose(read_audio((wave * 32768).round().astype(np.int16), RATE), wave, atol=1e-4)
    np.testing.assert_allclose(read_audio(np.stack([wave, wave], axis=1), RATE), wave, atol=1e-7)


def test_a_sound_shorter_than_a_sample_of_the_new_rate():
    assert len(read_audio({"array": np.ones(1), "sampling_rate": 44100}, RATE)) >= 1


def test_a_video_without_a_frame_that_can_be_decoded(clip, monkeypatch):
    """Wherever 400 bytes are lost, there are frames or an error."""
    data = clip.read_bytes()
    for start in range(0, len(data), len(data) // 40):
        damaged = data[:start] + bytes(min(400, len(data) - start)) + data[start + 400 :]
        try:
            assert len(read_frames(damaged, 4)) == 4
        except UnreadableError as error:
            assert "is not a video that can be read" in str(error)
