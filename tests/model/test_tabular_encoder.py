"""The encoder of tables: its embeddings and perceptron, ids that it does not have, and its config."""

import pytest
import torch
from transformers import AutoModel

from pmr_hf import MultimodalModel, MultimodalProcessor, NumericProcessor, TabularConfig, TabularModel, TabularProcessor


ROWS = [{"age": 1, "city": "a", "sex": "f"}, {"age": 3, "city": "b", "sex": "f"}]


@pytest.fixture
def model():
    return TabularModel(TabularConfig(1, [4, 3], embedding_size=2, hidden_size=4, num_hidden_layers=1)).eval()


def test_each_column_has_embeddings_of_its_own_beside_the_numbers(model):
    with torch.no_grad():
        model.embeddings.weight.copy_(torch.arange(14.0).reshape(7, 2))  # 4 ids of the first column, then 3
    output = model(categories=torch.tensor([[3, 0], [0, 2]]), values=torch.tensor([[0.5], [-1.0]])).last_hidden_state
    inputs = torch.tensor([[0.5, 6.0, 7.0, 8.0, 9.0], [-1.0, 0.0, 1.0, 12.0, 13.0]])
    torch.testing.assert_close(output, inputs @ model.layers[0].weight.T + model.layers[0].bias)


def test_missing_and_unknown_add_nothing_at_first(model):
    assert (model.embeddings.weight.abs().sum(1) == 0).tolist() == [True, True, False, False, True, True, False]


@pytest.mark.parametrize(
    ("ids", "message"), [([4, 0], "0..3 in column 0.*got 4 in row 1"), ([0, -1], "0..2 in column 1.*got -1")]
)
def test_an_id_that_a_column_does_not_have_is_refused(model, ids, message):
    with pytest.raises(ValueError, match=message):
        model(categories=torch.tensor([[0, 0], ids]), values=torch.zeros(2, 1))


@pytest.mark.parametrize("shapes", [((2, 1), (2, 1)), ((2, 2), (2, 2)), ((2, 2), (3, 1))])
def test_inputs_of_other_shapes(model, shapes):
    with pytest.raises(ValueError, match=r"Expected `categories` \(B, 2\) and `values` \(B, 1\)"):
        model(torch.zeros(shapes[0], dtype=torch.long), torch.zeros(shapes[1]))


@pytest.mark.parametrize(
    "field",
    [
        {"num_features": -1},
        {"num_features": True},
        {"num_features": 0},
        {"cardinalities": [1]},
        {"cardinalities": [10**9]},
        {"cardinalities": [2] * 10_001},
        {"cardinalities": "ab"},
        {"embedding_size": 0},
        {"hidden_size": 10**9},
        {"num_hidden_layers": 0},
        {"dropout": 1.0},
        {"dropout": float("nan")},
    ],
    ids=lambda field: f"{field}"[:40],
)
def test_values_of_a_config_that_are_refused(field):
    with pytest.raises(ValueError, match=r"^Expected .*TabularConfig.*; take the config from"):
        TabularConfig(**field)


@pytest.mark.parametrize(("numbers", "categories"), [(["age"], ["city", "sex"]), (["age"], []), ([], ["city"])])
def test_a_model_of_any_columns_is_saved_and_loaded(numbers, categories, tmp_path):
    table = TabularProcessor.fit(ROWS, numbers, categories)
    model = MultimodalModel.from_backbones({"stats": table}, num_labels=2, initialization="kaiming").eval()
    config = model.config.backbones["stats"]
    assert (config.num_features, config.cardinalities) == (len(numbers), [4, 3][: len(categories)])
    batch = dict(table(ROWS))
    expected = model(stats=batch)
    expected.logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.backbones.parameters())
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(AutoModel.from_pretrained(tmp_path).eval()(stats=batch).logits, expected.logits)


def test_by_one_word():
    names, columns = {"stats": "tabular"}, {"stats": {"categories": ["city"]}}
    processor = MultimodalProcessor.from_backbones(names, rows=ROWS, columns=columns)
    model = MultimodalModel.from_backbones(names, num_labels=2, processor=processor)
    assert model.config.backbones["stats"].cardinalities == [4]
    for other in (None, MultimodalProcessor({"stats": NumericProcessor()})):
        with pytest.raises(ValueError, match=r"Expected `processor` with the columns of the table 'stats'"):
            MultimodalModel.from_backbones(names, num_labels=2, processor=other)
    with pytest.raises(TypeError, match=r"TabularConfig, which is for the model; pass TabularProcessor\.fit"):
        MultimodalProcessor({"stats": TabularConfig()})
