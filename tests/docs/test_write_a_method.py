"""The page "Write a method": its example trains, and its terms and logs are those of explicit loops."""

import re
from pathlib import Path

import pytest
import torch

from pmr_hf import PrototypeTrainer
from pmr_hf.training.prototype_terms import PrototypeTerms


PAGE = (Path(__file__).parents[2] / "docs" / "write_a_method.md").read_text(encoding="utf-8")


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The names that the page's code defines. Dataclasses look for the module that they are defined in."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "lag_method.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    import importlib

    return importlib.import_module("lag_method")


def test_the_example_trains_as_it_says(example, make_trainer, make_model):
    steps = []

    class Noted(example.LagTrainer):
        def method_loss(self, loss, terms, outputs, labels):
            result = super().method_loss(loss, terms, outputs, labels)
            steps.append((loss.item(), terms, result.item()))
            return result

    trainer = make_trainer(make_model(), cls=Noted, lag_alpha=2.0, num_train_epochs=1)
    trainer.train()
    assert len(steps) == 8
    for loss, terms, result in steps:
        scores = terms.scores.tolist()
        expected = loss
        for m, score in enumerate(scores):
            values = [
                value for value, counts in zip(terms.pce[m].tolist(), terms.counted[m].tolist(), strict=True) if counts
            ]
            expected += 2.0 * (max(scores) - score) * sum(values) / len(values)
        assert result == pytest.approx(expected, rel=1e-5)
    logs = [entry for entry in trainer.state.log_history if "image_lag" in entry]
    for entry, (_, terms, _) in zip(logs, steps, strict=True):
        lags = terms.scores.max() - terms.scores
        assert [entry["image_lag"], entry["text_lag"]] == pytest.approx(lags.tolist(), abs=1e-6)
    assert any(result > loss for loss, _, result in steps)


def test_the_example_checks_its_argument_and_fills_the_card(example, make_trainer, make_args, tmp_path):
    with pytest.raises(ValueError, match="lag_alpha"):
        make_args(example.LagTrainingArguments, lag_alpha=-1.0)
    trainer = make_trainer(cls=example.LagTrainer, num_train_epochs=1, max_steps=1, lag_alpha=0.25)
    trainer.train()
    trainer.create_model_card(model_name="out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "| α, weight of the lag terms | 0.25 |" in card
    assert "Trained with terms for the modalities that lag behind" in card


def test_the_example_under_accumulation_is_that_of_one_batch(example, make_trainer, make_model, digits):
    """With weights that do not depend on the batch, 2 x 8 samples give the gradient of 16."""

    class Constant(example.LagTrainer):
        def method_loss(self, loss, terms, outputs, labels):
            fixed = terms._replace(scores=torch.tensor([0.25, 0.5]))
            return super().method_loss(loss, fixed, outputs, labels)

    weights = []
    for batch, steps in ((16, 1), (8, 2)):
        trainer = make_trainer(
            make_model(),
            cls=Constant,
            max_steps=1,
            optim="sgd",
            max_grad_norm=0.0,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=steps,
            train_sampling_strategy="sequential",
            prototype_fraction=1.0,
        )
        trainer.train()
        weights.append({name: value.clone() for name, value in trainer.model.named_parameters()})
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-6, rtol=1e-4)


def test_what_the_page_names_exists():
    named = set(re.findall(r"^\| `(?:self\.)?(\w+)\(?", PAGE, re.MULTILINE))
    fields = set(PrototypeTerms._fields)
    assert all(hasattr(PrototypeTrainer, name) for name in named - fields)
    assert fields <= named | {"per_weights"}
