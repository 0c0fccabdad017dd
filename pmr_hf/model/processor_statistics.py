"""The numbers by which processors scale and standardise values must be finite, and must not divide by zero."""

from typing import Any

import numpy as np
from transformers import FeatureExtractionMixin, ImageProcessingMixin


# What a processor subtracts, and what it divides or multiplies by
FINITE = ("image_mean", "mean")
POSITIVE = ("image_std", "std", "rescale_factor")
# The settings that switch the use of a number on
SWITCHES = dict.fromkeys(("image_mean", "image_std", "mean", "std"), "do_normalize") | {"rescale_factor": "do_rescale"}


def check_statistics(name: str, processor: Any) -> None:
    """
    Raise `ValueError` for an image processor or feature extractor with a mean that is not finite, or a deviation that
    is not positive. A tokenizer or a processor of the user's own has no such numbers.
    """
    if not isinstance(processor, (ImageProcessingMixin, FeatureExtractionMixin)):
        return
    settings = processor.to_dict()
    settings |= settings.get("pretrained_cfg") or {}  # timm's own
    for field in (*FINITE, *POSITIVE):
        if settings.get(field) is None or not settings.get(SWITCHES.get(field, ""), True):
            continue
        values = np.asarray(settings[field], dtype=np.float64)
        if not np.isfinite(values).all() or (field in POSITIVE and not (values > 0).all()):
            expected = "positive and finite" if field in POSITIVE else "finite"
            raise ValueError(
                f"Expected {expected} numbers as `{field}` of the processor of {name!r}, got {settings[field]}; "
                "correct its file, or take the processor again from the encoder or from the training data."
            )
