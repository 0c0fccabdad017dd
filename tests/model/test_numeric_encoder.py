"""The encoder of vectors of numbers and of sequences of them."""

import numpy as np
import torch
from transformers import AutoModel

from pmr_hf import MultimodalModel, NumericConfig, NumericProcessor


def test_sequences_are_padded_and_averaged_over_what_is_there():
    processor = NumericProcessor([0.0, 0.0], [1.0, 1.0])
    batch = processor([np.ones((3, 2)), np.full((1, 2), 2.0)])
    assert batch["values"].shape == (2, 3, 2) and batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    model = MultimodalModel.from_backbones({"vitals": NumericConfig(num_features=2)}, num_labels=2).eval()
    together = model(vitals=dict(batch)).embeddings["vitals"][1]
    torch.testing.assert_close(together, model(vitals={"values": torch.full((1, 2), 2.0)}).embeddings["vitals"][0])


def test_the_model_is_a_perceptron(tmp_path):
    model = MultimodalModel.from_backbones(
        {"vitals": NumericConfig(num_features=3, hidden_size=4, num_hidden_layers=2)}, num_labels=2
    ).eval()
    values = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    first, second = [layer for layer in model.backbones["vitals"].layers if isinstance(layer, torch.nn.Linear)]
    expected = (values @ first.weight.T + first.bias).clamp(min=0) @ second.weight.T + second.bias
    torch.testing.assert_close(model(vitals={"values": values}).embeddings["vitals"], expected)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(vitals={"values": values}).embeddings["vitals"], expected)
