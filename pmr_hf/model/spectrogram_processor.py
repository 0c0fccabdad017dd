"""Log spectrograms of fixed size, which the paper's ResNet18 encoders take (PMR, CVPR 2023, section 4.1)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import TensorType

from .sound import scale_samples


MOST_VALUES = 10**7  # of one spectrogram; AVE's have 258,028


class SpectrogramFeatureExtractor(SequenceFeatureExtractor):
    """
    Turns mono waveforms into log spectrograms, which are pictures of one channel. Rows are frequencies from 0 to half
    the sampling rate, and columns are frames.

    As in the authors' code, each clip is repeated or cut to `seconds`. A value is log(P + 1e-7). P is the power density
    of `scipy.signal.spectrogram`, in squared amplitude per Hz, computed without padding from Tukey windows minus their
    means. The defaults give 257 x 299 values, as for the paper's CREMA-D; `seconds=10` gives 257 x 1004, as for AVE.

    Args:
        sampling_rate (`int`, *optional*, defaults to 16000): rate of the waveforms, in Hz.
        seconds (`float`, *optional*, defaults to 3.0): length of every clip.
        window (`int`, *optional*, defaults to 512): samples per frame.
        overlap (`int`, *optional*, defaults to 353): samples that a frame shares with the next.
        do_normalize (`bool`, *optional*, defaults to `False`): shift and scale each spectrogram to mean 0 and standard
            deviation 1. The authors' code does this, but the paper does not mention it.

    Raises:
        ValueError: unless 0 <= `overlap` < `window`, and a clip is at least as long as one window; for more than 10
            million values of a spectrogram.
    """

    model_input_names = ["pixel_values"]

    def __init__(
        self,
        sampling_rate: int = 16000,
        seconds: float = 3.0,
        window: int = 512,
        overlap: int = 353,
        do_normalize: bool = False,
        **kwargs,
    ):
        # A saved file also holds these fields of `SequenceFeatureExtractor`, which follow from the arguments.
        super().__init__(
            **kwargs | {"feature_size": window // 2 + 1, "sampling_rate": sampling_rate, "padding_value": 0.0}
        )
        if not 0 <= overlap < window:
            raise ValueError(f"Expected `overlap` in [0, {window}), the window, got {overlap}; the paper uses 353.")
        if round(seconds * sampling_rate) < window:
            raise ValueError(
                f"Expected clips of at least one window of {window} samples, got {seconds} s at {sampling_rate} Hz; "
                "raise `seconds` or shorten `window`."
            )
        values = round(seconds * sampling_rate) // (window - overlap) * (window // 2 + 1)
        if not values <= MOST_VALUES:
            raise ValueError(
                f"Expected spectrograms of at most {MOST_VALUES:,} values, got {values:,} for {seconds} s; shorten "
                "`seconds` or `overlap`."
            )
        self.seconds = seconds
        self.window = window
        self.overlap = overlap
        self.do_normalize = do_normalize

    def to_dict(self) -> dict[str, Any]:
        """The arguments, for the saved file. The base class drops `window`, since it is an array in other classes."""
        return super().to_dict() | {"window": self.window}

    def __call__(
        self,
        raw_speech: np.ndarray | Sequence[np.ndarray],
        sampling_rate: int | None = None,
        return_tensors: str | TensorType | None = None,
        **kwargs,
    ) -> BatchFeature:
        """
        Turn waveforms into spectrograms.

        Args:
            raw_speech (`list[np.ndarray]`): B waveforms, 1-d, of any lengths: floats in [-1, 1], or arrays of integers,
                which [`~pmr_hf.model.sound.scale_samples`] brings to this range; or a single waveform.
            sampling_rate (`int`, *optional*): rate of these waveforms in Hz. It must equal the extractor's rate.
            return_tensors (`str`, *optional*): "pt" or "np".
            kwargs: ignored, since options such as `padding` do not apply to clips of one length.

        Returns:
            `BatchFeature`: `pixel_values`, (B, 1, window // 2 + 1, frames), float32.

        Raises:
            ValueError: for another sampling rate, or a waveform that is empty, not 1-d, or of integers whose full scale
                is unknown.
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(
                f"Expected waveforms at {self.sampling_rate} Hz, got {sampling_rate} Hz; resample them, or make the "
                f"extractor with sampling_rate={sampling_rate}."
            )
        if isinstance(raw_speech, np.ndarray):
            raw_speech = [raw_speech]
        clips = [scale_samples(clip) for clip in raw_speech]
        for i, clip in enumerate(clips):
            if clip.ndim != 1 or not clip.size:
                raise ValueError(
                    f"Expected waveforms of shape (samples,), got {clip.shape} for number {i}; average the channels of "
                    "stereo sound, and leave out clips without sound."
                )
        from scipy.signal import spectrogram  # slow to import

        # `np.resize` repeats or cuts.
        waves = np.stack([np.resize(clip, round(self.seconds * self.sampling_rate)) for clip in clips])
        _, _, power = spectrogram(waves, self.sampling_rate, nperseg=self.window, noverlap=self.overlap)
        pixels = np.log(power + 1e-7)[:, None]
        if self.do_normalize:
            mean, deviation = (f(pixels, axis=(-2, -1), keepdims=True) for f in (np.mean, np.std))
            pixels = (pixels - mean) / (deviation + 1e-9)
        return BatchFeature({"pixel_values": pixels.astype(np.float32)}, tensor_type=return_tensors)
