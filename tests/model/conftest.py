"""A processor of three modalities."""

import pytest
from transformers import Wav2Vec2FeatureExtractor

from pmr_hf import MultimodalProcessor


@pytest.fixture
def three(processor):
    """A processor of text, audio and image, in this order."""
    audio = Wav2Vec2FeatureExtractor(feature_size=1, sampling_rate=8000, return_attention_mask=True)
    return MultimodalProcessor(
        {"text": processor.processors["text"], "audio": audio, "image": processor.processors["image"]}
    )
