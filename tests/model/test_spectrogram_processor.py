"""Spectrograms against the formula, and the errors for bad waveforms."""

import json

import numpy as np
import pytest
import torch
from scipy import signal

from pmr_hf.model.spectrogram_processor import SpectrogramFeatureExtractor


@pytest.fixture
def wave():
    return np.random.default_rng(0).normal(0, 0.1, 48000).astype(np.float32)


@pytest.mark.parametrize("seconds, frames", [(3.0, 299), (10.0, 1004)])
def test_the_papers_shapes(wave, seconds, frames):
    extractor = SpectrogramFeatureExtractor(seconds=seconds)
    pixels = extractor([wave, wave[:1000]], sampling_rate=16000, padding=True, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (2, 1, 257, frames) and pixels.dtype == torch.float32


def test_values_are_those_of_the_formula(wave):
    # For each frame and frequency: subtract the mean, apply the Tukey window, sum the Fourier terms, take the power.
    pixels = SpectrogramFeatureExtractor()([wave])["pixel_values"][0, 0]
    times, taper = np.arange(512), signal.windows.tukey(512, 0.25, sym=False)
    for frame in (0, 1, 150, 298):
        samples = wave[frame * 159 : frame * 159 + 512].astype(np.float64)
        samples = (samples - samples.mean()) * taper
        for k in (0, 1, 100, 255, 256):
            fourier = (samples * np.exp(-2j * np.pi * k * times / 512)).sum()
            one_sided = 1 if k in (0, 256) else 2
            power = one_sided * abs(fourier) ** 2 / (16000 * (taper**2).sum())
            assert pixels[k, frame] == pytest.approx(np.log(power + 1e-7), abs=1e-3)


def test_equals_a_short_time_fourier_transform(wave):
    wave = np.concatenate([wave, wave[:160]])
    pixels = SpectrogramFeatureExtractor(seconds=3.01)([wave])["pixel_values"][0, 0]
    frames = torch.from_numpy(wave).unfold(0, 512, 159)
    taper = torch.from_numpy(signal.windows.tukey(512, 0.25, sym=False)).float()
    fourier = torch.fft.rfft((frames - frames.mean(1, keepdim=True)) * taper).T.numpy()
    power = np.abs(fourier) ** 2 / (16000 * (taper**2).sum().item())
    power[1:-1] *= 2
    np.testing.assert_allclose(pixels, np.log(power + 1e-7), atol=1e-3)


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("hertz", [500.0, 3000.0])
def test_a_sine_has_its_peak_and_its_power(rate, hertz):
    sine = np.sin(2 * np.pi * hertz * np.arange(rate) / rate)
    pixels = SpectrogramFeatureExtractor(sampling_rate=rate)([sine])["pixel_values"][0, 0]
    assert (pixels.argmax(0) == round(hertz * 512 / rate)).all()
    assert np.exp(pixels).sum(0) * rate / 512 == pytest.approx(0.5, rel=0.01)  # amplitude 1


def test_short_clips_are_repeated_and_long_ones_cut(wave):
    extractor = SpectrogramFeatureExtractor(seconds=1.0)
    short = wave[:7000]
    repeated = np.concatenate([short, short, short])[:16000]
    pixels = extractor([short, repeated, wave, wave[:16000]])["pixel_values"]
    assert np.array_equal(pixels[0], pixels[1]) and np.array_equal(pixels[2], pixels[3])
    assert not np.array_equal(pixels[0], pixels[2])
    assert np.array_equal(extractor(wave)["pixel_values"], pixels[2:3])  # a single waveform


def test_silence_is_the_floor():
    assert SpectrogramFeatureExtractor()([np.zeros(100)])["pixel_values"] == pytest.approx(np.log(1e-7))


def test_normalized_per_clip(wave):
    plain = SpectrogramFeatureExtractor()([wave, 0.1 * wave])["pixel_values"]
    pixels = SpectrogramFeatureExtractor(do_normalize=True)([wave, 0.1 * wave])["pixel_values"]
    assert pixels.mean((1, 2, 3)) == pytest.approx([0, 0], abs=1e-4)
    assert pixels.std((1, 2, 3)) == pytest.approx([1, 1], abs=1e-4)
    for before, after in zip(plain, pixels, strict=True):  # each clip has its own shift and positive scale
        assert np.corrcoef(before.ravel(), after.ravel())[0, 1] == pytest.approx(1, abs=1e-5)


def test_saved_and_loaded(wave, tmp_path):
    arguments = {"sampling_rate": 8000, "seconds": 1.5, "window": 256, "overlap": 100, "do_normalize": True}
    extractor = SpectrogramFeatureExtractor(**arguments)
    extractor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved.items() >= arguments.items() and saved["feature_size"] == 129
    loaded = SpectrogramFeatureExtractor.from_pretrained(tmp_path)
    assert loaded.to_dict() == extractor.to_dict()
    assert np.array_equal(loaded([wave])["pixel_values"], extractor([wave])["pixel_values"])
    assert SpectrogramFeatureExtractor.from_pretrained(tmp_path, window=512).feature_size == 257


def test_bad_waveforms(wave):
    extractor = SpectrogramFeatureExtractor()
    with pytest.raises(ValueError, match="Expected waveforms at 16000 Hz, got 44100 Hz; resample them"):
        extractor([wave], sampling_rate=44100)
    with pytest.raises(
        ValueError, match=r"shape \(samples,\), got \(0,\) for number 1; .* leave out clips without sound"
    ):
        extractor([wave, wave[:0]])
    with pytest.raises(ValueError, match=r"shape \(samples,\), got \(2, 24000\) for number 0; average the channels"):
        extractor([wave.reshape(2, -1)])


def test_bad_spectrogram_settings():
    with pytest.raises(ValueError, match=r"`overlap` in \[0, 512\), the window, got 512"):
        SpectrogramFeatureExtractor(overlap=512)
    with pytest.raises(
        ValueError, match=r"at least one window of 512 samples, got 0.03 s at 16000 Hz; raise `seconds`"
    ):
        SpectrogramFeatureExtractor(seconds=0.03)
