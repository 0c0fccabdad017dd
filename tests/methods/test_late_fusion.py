"""Late fusion: its steps are those of plain trainers of one modality each, and its answer is a mean by hand."""

import logging

import numpy as np
import pytest
import torch
from helpers.all_methods import batch_of_three
from helpers.gradients import gradients_of_step
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments

from pmr_hf import LateFusionTrainer, MultimodalCollator, MultimodalModel, MultimodalProcessor
from pmr_hf.methods.late_fusion import validation_weights


COLUMNS = {"image": "picture", "text": "caption"}


@pytest.mark.parametrize(
    "settings",
    [
        {"optim": "adamw_torch", "weight_decay": 0.1, "max_grad_norm": 0.5},
        {"optim": "sgd", "learning_rate": 0.3, "max_grad_norm": 0.0, "gradient_accumulation_steps": 2},
        pytest.param({"optim": "adamw_torch", "label_smoothing_factor": 0.2}, marks=pytest.mark.slow),
    ],
    ids=["clipped", "accumulated", "smoothed"],
)
def test_the_weights_are_those_of_plain_trainers_of_one_modality_each(
    make_trainer, make_model, digits, processor, tmp_path, settings
):
    settings = {"train_sampling_strategy": "sequential", "max_steps": 6, "learning_rate": 1e-2} | settings
    together = make_model(fusion="late", embedding_dim=5)
    alone = {}
    for name in COLUMNS:
        model = make_model(backbones={name: together.config.backbones[name]}, embedding_dim=5)
        model.backbones[name].load_state_dict(together.backbones[name].state_dict())
        model.projections[name].load_state_dict(together.projections[name].state_dict())
        model.fusion.classifier.load_state_dict(together.fusion.classifiers[name].state_dict())
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                str(tmp_path / name),
                per_device_train_batch_size=8,
                remove_unused_columns=False,
                report_to="none",
                use_cpu=True,
                **settings,
            ),
            train_dataset=digits,
            data_collator=MultimodalCollator(
                MultimodalProcessor({name: processor.processors[name]}), {name: COLUMNS[name]}, label="label"
            ),
        )
        before = model.fusion.classifier.weight.clone()
        trainer.train()
        assert not torch.allclose(before, model.fusion.classifier.weight, atol=1e-3)
        alone[name] = model
    make_trainer(together, cls=LateFusionTrainer, **settings).train()
    for name, model in alone.items():
        state = model.state_dict()
        for key, value in together.state_dict().items():
            if key.startswith((f"backbones.{name}.", f"projections.{name}.")):
                torch.testing.assert_close(value, state[key], atol=1e-6, rtol=0, msg=key)
        for key in ("weight", "bias"):
            value = together.fusion.classifiers[name].get_parameter(key)
            torch.testing.assert_close(value, state[f"fusion.classifier.{key}"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("class_weights", [None, torch.tensor([4.0, 1.0, 1.0, 1.0])])
def test_a_sample_without_a_modality_does_not_count_in_its_loss(make_args, make_model_of_three, class_weights):
    model = make_model_of_three(fusion="late")
    trainer = LateFusionTrainer(model=model, args=make_args(LateFusionTrainer.args_class))
    trainer.class_weights = class_weights
    model.train()
    batch = batch_of_three(0)  # three of the eight samples have `b`
    embeddings, total = model(**batch).embeddings, 0.0
    for name, size in {"a": 8, "b": 3, "c": 8}.items():
        labels = batch["labels"][:size]
        each = torch.stack(
            [F.cross_entropy(model.fusion.classifiers[name](embeddings[name][i]), labels[i]) for i in range(size)]
        )
        weights = torch.tensor([4.0 if class_weights is not None and label == 0 else 1.0 for label in labels])
        total = total + (weights * each).sum() / weights.sum()
    parameters = {name: p for name, p in model.named_parameters() if not name.startswith("absent.")}
    expected = dict(zip(parameters, torch.autograd.grad(total, list(parameters.values())), strict=True))
    found = gradients_of_step(trainer, batch)
    assert not any(found.pop(f"absent.{name}").any() for name in "abc")
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_weights_by_validation_and_the_saved_model(make_trainer, make_model, digits, collator, tmp_path):
    trainer = make_trainer(
        make_model(fusion="late"), cls=LateFusionTrainer, late_fusion_weights="validation", num_train_epochs=1
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    model = MultimodalModel.from_pretrained(tmp_path / "saved").eval()
    batch, labels = collator([digits[i] for i in range(64)]), torch.tensor(digits["label"])
    with torch.no_grad():
        output = model(**batch)
        probabilities = {name: model.fusion.classifiers[name](output.embeddings[name]).softmax(1) for name in COLUMNS}
    right = {name: (values.argmax(1) == labels).sum().item() for name, values in probabilities.items()}
    shares = {name: count / sum(right.values()) for name, count in right.items()}
    assert abs(shares["image"] - 0.5) > 0.01
    expected = sum(shares[name] * values for name, values in probabilities.items())
    torch.testing.assert_close(output.logits.exp(), expected, atol=1e-5, rtol=1e-4)
    found = trainer.predict(digits)
    np.testing.assert_allclose(found.predictions, output.logits, atol=1e-5)
    for name, count in right.items():
        assert found.metrics[f"test_{name}_accuracy"] == pytest.approx(count / 64)
        assert trainer.state.log_history[-1][f"{name}_weight"] == pytest.approx(shares[name])


def test_validation_weights():
    assert validation_weights({"a": 0.9, "b": 0.3}) == pytest.approx({"a": 0.75, "b": 0.25})
    assert validation_weights({"a": 2.0, "b": 6.0}, is_error=True) == pytest.approx({"a": 0.75, "b": 0.25})
    assert validation_weights({"a": 0.6, "b": None, "c": 0.2}) == pytest.approx({"a": 0.5, "b": 1 / 3, "c": 1 / 6})
    assert validation_weights({"a": None, "b": None}) == {"a": 0.5, "b": 0.5}
    for is_error in (False, True):
        extreme = validation_weights({"a": 0.0, "b": 1.0}, is_error)
        assert min(extreme.values()) > 0 and sum(extreme.values()) == pytest.approx(1)


def test_a_modality_without_evaluation_samples_gets_the_mean_weight(make_trainer, make_model, digits, caplog):
    rows = digits.map(lambda row: {"caption": None}, features=digits.features)
    options = {"late_fusion_weights": "validation", "max_steps": 1}
    trainer = make_trainer(make_model(fusion="late"), cls=LateFusionTrainer, eval_dataset=rows, **options)
    with caplog.at_level(logging.WARNING, logger="pmr_hf"):
        trainer.train()
    assert "found none with ['text']" in caplog.text
    assert trainer.model.fusion.log_weights.exp().tolist() == pytest.approx([0.5, 0.5])


def test_what_late_fusion_refuses(make_trainer, make_model, make_args, digits):
    def make(model=None, trainer_kwargs=None, **kwargs):
        model = make_model(fusion="late") if model is None else model
        make_trainer(model, cls=LateFusionTrainer, trainer_kwargs=trainer_kwargs, **kwargs)

    with pytest.raises(
        ValueError, match="Expected a MultimodalModel with fusion='late' for LateFusionTrainer, got fus"
    ):
        make(make_model())
    with pytest.raises(ValueError, match="Expected modality_dropout=0 for LateFusionTrainer"):
        make(make_model(fusion="late", modality_dropout=0.1))
    with pytest.raises(ValueError, match="Expected one evaluation set with late_fusion_weights='validation'"):
        make(late_fusion_weights="validation", eval_dataset={"a": digits})
    with pytest.raises(ValueError, match="Expected late_fusion_weights='mean' with answer='best'"):
        make(late_fusion_weights="validation", answer="best")
    with pytest.raises(ValueError, match="Expected `late_fusion_weights` to be 'mean' or 'validation', got 'best'"):
        make_args(LateFusionTrainer.args_class, late_fusion_weights="best")
    with pytest.raises(ValueError, match=r"the loss of the model for LateFusionTrainer, .* got a `compute_loss_func`"):
        make(trainer_kwargs={"compute_loss_func": lambda outputs, labels, num_items_in_batch=None: outputs.loss})
    with pytest.raises(TypeError, match="Expected fusion='late', whose layers each answer alone, got 'concat'"):
        make_model().unimodal_answers({})
