"""A classifier for the tests of the equations and the distance, and a processor of three modalities."""

import pytest
import torch
from transformers import Wav2Vec2FeatureExtractor

from pmr_hf import MultimodalProcessor


BATCH, CLASSES, WIDTH = 12, 5, 7
UNSEEN = 3


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def case(request):
    """Embeddings (12, 7), prototypes (5, 7), the seen classes (5,), of which one is unseen, and labels of all five."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(BATCH, WIDTH, generator=generator).to(request.param)
    prototypes = torch.randn(CLASSES, WIDTH, generator=generator)
    prototypes[UNSEEN] = 0
    seen = torch.ones(CLASSES, dtype=torch.bool)
    seen[UNSEEN] = False
    labels = torch.arange(BATCH) % CLASSES
    return embeddings, prototypes, seen, labels


@pytest.fixture
def three(processor):
    """A processor of text, audio and image, in this order."""
    audio = Wav2Vec2FeatureExtractor(feature_size=1, sampling_rate=8000, return_attention_mask=True)
    return MultimodalProcessor(
        {"text": processor.processors["text"], "audio": audio, "image": processor.processors["image"]}
    )
