import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel

from pmr_hf import MultimodalModel, NumericConfig, NumericProcessor
from pmr_hf.model.media import UnreadableError


def test_it_standardises_as_scikit_learn_does(tmp_path):
    generator = np.random.default_rng(0)
    train, test = generator.normal(5, 3, (20, 4)), generator.normal(5, 3, (6, 4))
    train[:, 2] = 0.1  # never varies
    processor = NumericProcessor.fit(train.tolist())
    processor.save_pretrained(tmp_path)
    expected = StandardScaler().fit(train).transform(test)
    values = NumericProcessor.from_pretrained(tmp_path)(test)["values"]
    assert values.dtype == torch.float32
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)


def test_a_number_that_is_not_there_takes_the_training_mean():
    processor = NumericProcessor.fit([[1.0, None], [3.0, 10.0], [float("nan"), 20.0]])
    assert processor.mean == [2.0, 15.0] and processor.std == [1.0, 5.0]
    assert processor([[None, 20.0], [4.0, float("nan")]])["values"].tolist() == [[0.0, 1.0], [2.0, 0.0]]


def test_sequences_are_padded_and_averaged_over_what_is_there():
    processor = NumericProcessor([0.0, 0.0], [1.0, 1.0])
    batch = processor([np.ones((3, 2)), np.full((1, 2), 2.0)])
    assert batch["values"].shape == (2, 3, 2) and batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    model = MultimodalModel.from_backbones({"vitals": NumericConfig(num_features=2)}, num_labels=2).eval()
    together = model(vitals=dict(batch)).embeddings["vitals"][1]
    torch.testing.assert_close(together, model(vitals={"values": torch.full((1, 2), 2.0)}).embeddings["vitals"][0])


@pytest.mark.parametrize("bad", [[[1.0]], [[1.0, 2.0, 3.0]], [["a", "b"]], [[[[1.0, 2.0]]]]])
def test_values_of_another_kind(bad):
    with pytest.raises(UnreadableError, match="is no vector"):
        NumericProcessor([0.0, 0.0], [1.0, 1.0])(bad)


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


def test_one_column_of_numbers_and_bad_numbers():
    processor = NumericProcessor.fit([1.0, 3.0])
    assert processor([processor.read(5.0)])["values"].tolist() == [[3.0]]
    with pytest.raises(UnreadableError, match="holds an infinite number"):
        processor.read([float("inf")])
    with pytest.raises(UnreadableError, match="but value 2, 'old' is no vector of numbers"):
        NumericProcessor.fit([1.0, "old"])
