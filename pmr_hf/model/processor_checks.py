"""
Checks of the settings of processors, which may be a stranger's: numbers by which values are scaled must be finite and
must not divide by zero, and sizes must not ask for more than memory holds.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from transformers import FeatureExtractionMixin, ImageProcessingMixin

from .building_limits import nested_fields


# What a processor subtracts, and what it divides or multiplies by
FINITE = ("image_mean", "mean")
POSITIVE = ("image_std", "std", "rescale_factor")
# The settings that switch the use of a number on
SWITCHES = dict.fromkeys(("image_mean", "image_std", "mean", "std"), "do_normalize") | {"rescale_factor": "do_rescale"}

# The largest value of a setting, by its name. `MOST_OF_OTHERS` holds for all other settings.
MOST_PIXELS_OF_AN_EDGE = 4096
EDGES = (
    *("height", "width", "shortest_edge", "max_height", "max_width", "size", "crop_size", "pad_size", "image_size"),
    *("size_divisor", "pad_size_divisor", "input_size", "test_input_size", "patch_size"),
)
MOST = dict.fromkeys(EDGES, MOST_PIXELS_OF_AN_EDGE) | {
    "feature_size": 4096,
    "num_mel_bins": 4096,
    "num_frames": 4096,
    "max_image_tiles": 4096,
    "sampling_rate": 192_000,  # Hz
    "n_fft": 2**16,
    "fft_window_size": 2**16,
    "window": 2**16,
    "win_length": 2**16,
    "nb_frequency_bins": 2**16,
    "seconds": 3600,
    "chunk_length": 3600,
    "chunk_length_s": 3600,
    "max_length_s": 3600,
    "max_length": 10**6,
    "nb_max_frames": 10**6,
    "max_num_patches": 10**5,
}
MOST_OF_OTHERS = 10**9  # such as a number of pixels or samples
LEAST_CROP = 0.1  # timm enlarges a picture by 1 / crop_pct before it crops


def check_settings(name: str, settings: Mapping[str, Any]) -> None:
    """
    Raise `ValueError` if the settings of the processor of a modality, as in its JSON file, ask for pictures, windows or
    filters that are too large. Some classes compute their filters when they are created.
    """
    for field, value, beside in nested_fields(settings):
        if not isinstance(value, (int, float)) or field in (*FINITE, *POSITIVE):
            continue
        most = MOST.get(field, MOST_OF_OTHERS)
        if field == "longest_edge" and "shortest_edge" not in beside:  # beside `shortest_edge`, it may count pixels
            most = MOST_PIXELS_OF_AN_EDGE
        if not abs(value) <= most:
            raise ValueError(
                f"Expected at most {most:,} as `{field}` of the processor of {name!r}, got {value:,}; correct its "
                "settings, or do not load it."
            )
        if field == "crop_pct" and value < LEAST_CROP:
            raise ValueError(
                f"Expected at least {LEAST_CROP} as `crop_pct` of the processor of {name!r}, got {value}; correct it."
            )


def check_processor_settings(name: str, processor: Any) -> None:
    """
    Raise `ValueError` for an image processor or feature extractor with settings that are too large, a mean that is not
    finite, a deviation that is not positive, or statistics that are no list of numbers or of different lengths. A
    tokenizer, or a processor of another class, is not checked.
    """
    if not isinstance(processor, (ImageProcessingMixin, FeatureExtractionMixin)):
        return
    settings = processor.to_dict()
    check_settings(name, settings)
    settings |= settings.get("pretrained_cfg") or {}  # timm's own
    lengths = {}
    for field in (*FINITE, *POSITIVE):
        if settings.get(field) is None or not settings.get(SWITCHES.get(field, ""), True):
            continue
        try:
            values = np.asarray(settings[field], dtype=np.float64)
        except (TypeError, ValueError):  # texts, or lists of unequal lengths
            values = np.empty((0, 0))
        wrong = not np.isfinite(values).all() or (field in POSITIVE and not (values > 0).all())
        if wrong or values.ndim > 1 or not values.size:
            expected = "positive and finite" if field in POSITIVE else "finite"
            raise ValueError(
                f"Expected {expected} numbers as `{field}` of the processor of {name!r}, got {settings[field]!r:.200}; "
                "correct its file, or take the processor again from the encoder or from the training data."
            )
        if values.ndim == 1:
            lengths[field] = len(values)
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"Expected as many means as deviations in the processor of {name!r}, got {lengths}; correct its file."
        )
