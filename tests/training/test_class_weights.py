"""Weights of the classes: of the fused loss, and of the prototypical cross entropy."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.all_methods import parts_of
from helpers.digits import NUM_LABELS, WORDS, batch_of
from helpers.gradients import gradients_of_step, plain_gradients
from helpers.relatives import slow_but
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F
from transformers import Trainer

from pmr_hf import (
    METHODS,
    DGLTrainer,
    GradientBlendingTrainer,
    LateFusionTrainer,
    MultimodalTrainer,
    PMRTrainer,
    PrototypeTrainer,
    UniformTrainer,
)
from pmr_hf.reporting.model_card import cell_text
from pmr_hf.training.class_weights import class_weights, parse_class_weights, weighted_cross_entropy


NAMES = dict(enumerate(["cat", "dog", "owl"]))


def test_balanced_weights_are_those_of_sklearn():
    labels = np.array([2] * 6 + [0] * 3 + [1])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    torch.testing.assert_close(class_weights("balanced", labels, 3, NAMES), torch.tensor(expected).float())


def test_balanced_weights_by_hand():
    """Two of three classes have rows, and a segment without a label does not count: 4 / (2 * 3) and 4 / (2 * 1)."""
    labels = np.array([[0, 0, -100], [0, 1, -100]])
    assert class_weights("balanced", labels, 3, NAMES).tolist() == pytest.approx([2 / 3, 2, 1])


def test_weights_by_name_or_number():
    assert class_weights({"owl": 5.0, 0: 2}, None, 3, NAMES).tolist() == [2, 1, 5]
    assert class_weights({"1": 0.5}, None, 3, {}).tolist() == [1, 0.5, 1]
    assert parse_class_weights('{"owl": 5}') == {"owl": 5}
    with pytest.raises(ValueError, match=r"of the classes \['cat', 'dog', 'owl'\], got \['cow'\] too"):
        class_weights({"cow": 1.0, "cat": 2.0}, None, 3, NAMES)
    with pytest.raises(ValueError, match="labels are known before training"):
        class_weights("balanced", None, 3, NAMES)


@pytest.mark.parametrize(
    "setting",
    [
        "balance",
        "[1, 2]",
        {},
        "{}",
        {"a": -1.0},
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": 0.0},
        [1.0],
        np.ones(2),
        torch.ones(2),
    ],
)
def test_other_settings_are_refused(make_args, setting):
    with pytest.raises(ValueError, match="Expected `class_weights` to be 'balanced', or weights"):
        make_args(class_weights=setting)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(7,), (3, 4)])
def test_the_loss_is_that_of_torch(smoothing, shape):
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(*shape, 3, generator=generator), torch.randint(0, 3, shape, generator=generator)
    if len(shape) == 2:
        labels[0, 1:] = -100
    weights = torch.tensor([0.5, 3.0, 1.0])
    total, weight = weighted_cross_entropy(logits, labels, weights, smoothing)
    own = torch.nn.CrossEntropyLoss(weight=weights, label_smoothing=smoothing)
    torch.testing.assert_close(total / weight, own(logits.flatten(0, -2), labels.flatten()))


def weights_in_training(trainer):
    trainer.train()
    return trainer.model.state_dict()


@pytest.mark.parametrize("accumulation", [1, 2])
def test_training_is_that_of_trainer_with_a_weighted_loss(make_trainer, make_args, digits, collator, accumulation):
    """The plain `Trainer` with torch's weighted loss, written as its documentation says."""
    weights = {1: 3.0, 2: 0.5}
    options = {"num_train_epochs": 1, "gradient_accumulation_steps": accumulation, "max_grad_norm": 0.0}

    class WeightedTrainer(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            inputs = dict(inputs)
            labels = inputs.pop("labels")
            outputs = model(**inputs)
            loss = F.cross_entropy(outputs.logits, labels, torch.tensor([1.0, 3.0, 0.5, 1.0]))
            return (loss, outputs) if return_outputs else loss

    trainer = make_trainer(cls=MultimodalTrainer, class_weights=weights, **options)
    plain = WeightedTrainer(
        model=make_trainer().model,
        args=make_args(MultimodalTrainer.args_class, **options),
        train_dataset=digits,
        data_collator=collator,
    )
    plain.model_accepts_loss_kwargs = False
    found, expected = weights_in_training(trainer), weights_in_training(plain)
    for name in expected:
        if not name.startswith("prototypes."):
            torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=1e-5)


def test_a_weight_of_two_is_each_sample_twice(prepared):
    """The fused loss and PMR's terms of a batch with weights 1 and 2 are those of a batch that repeats the samples."""
    trainer, _ = prepared(PMRTrainer, pmr_mu=0.0)
    trainer.rebalance_weights = lambda scores, present: (torch.tensor([0.7, 0.4]), torch.zeros(2))
    rows = list(range(16))
    doubled = [row for row in rows for _ in range(2 if trainer.train_dataset[row]["label"] == 1 else 1)]
    repeated = trainer.compute_loss(trainer.model, batch_of(trainer, doubled))
    plain = trainer.compute_loss(trainer.model, batch_of(trainer, rows))
    trainer.class_weights = torch.tensor([1.0, 2.0, 1.0, 1.0])
    weighted = trainer.compute_loss(trainer.model, batch_of(trainer, rows))
    assert weighted.item() == pytest.approx(repeated.item(), abs=1e-5)
    assert abs(weighted.item() - plain.item()) > 1e-3


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (UniformTrainer, {}),
        (DGLTrainer, {"dgl_alpha": 2.0}),
        (LateFusionTrainer, {}),
        (GradientBlendingTrainer, {"blend_weights": {"image": 0.2, "text": 0.3, "fused": 0.5}}),
    ],
)
def test_the_losses_of_modalities_weigh_a_class_as_repeated_samples_do(prepared, cls, options):
    trainer, _ = prepared(cls, **options)
    rows = list(range(16))
    doubled = [row for row in rows for _ in range(2 if trainer.train_dataset[row]["label"] == 1 else 1)]
    expected, plain = (gradients_of_step(trainer, batch_of(trainer, some)) for some in (doubled, rows))
    trainer.class_weights = torch.tensor([1.0, 2.0, 1.0, 1.0])
    found = gradients_of_step(trainer, batch_of(trainer, rows))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4, msg=name)
    changed = [name for name, gradient in expected.items() if not torch.allclose(gradient, plain[name], atol=1e-4)]
    for name in ("image", "text"):
        assert any(each.startswith(f"backbones.{name}.") for each in changed)


def test_the_losses_of_modalities_have_label_smoothing(prepared):
    trainer, batch = prepared(UniformTrainer, label_smoothing_factor=0.2)
    found = gradients_of_step(trainer, batch)

    def smoothed(outputs):
        logits = [outputs.logits, *outputs.unimodal_logits.values()]
        return sum(F.cross_entropy(values, batch["labels"], label_smoothing=0.2) for values in logits)

    for name, gradient in plain_gradients(trainer.model, smoothed, batch).items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_weights_come_from_the_training_rows_alone_and_are_shown(make_trainer, digits):
    some = [i for i, label in enumerate(digits["label"]) if label != 3 or i < 20]
    train = digits.select(some)
    trainer = make_trainer(train_dataset=train, class_weights="balanced", num_train_epochs=1)
    expected = compute_class_weight("balanced", classes=np.arange(NUM_LABELS), y=np.array(train["label"]))
    torch.testing.assert_close(trainer.class_weights, torch.tensor(expected).float())
    trainer.train()
    trainer.create_model_card()
    card = Path(trainer.args.output_dir, "README.md").read_text(encoding="utf-8")
    assert "| class weights | balanced |" in card
    assert cell_text({"a|b": 2, "<b>": 1}) == r"{'a\|b': 2, '&lt;b>': 1}"


DEFAULT = ("pmr", "late_fusion", "mla", "valuation", "mmpareto", "reconboost")  # losses of their own


@pytest.mark.parametrize("method", slow_but(DEFAULT, METHODS, METHODS))
def test_every_method_takes_class_weights(make_trainer, make_model, method):
    cls = METHODS[method]
    options = {"blend_epochs": 1.0} if method == "gblend" else {}
    weights = {WORDS[0]: 4.0}
    names = {"id2label": dict(enumerate(WORDS[:NUM_LABELS]))}
    trainer = make_trainer(make_model(**parts_of(cls), **names), cls=cls, class_weights=weights, max_steps=2, **options)
    trainer.train()
    loss = trainer.evaluate()["eval_loss"]
    logits, labels = torch.tensor(trainer.predict(trainer.eval_dataset).predictions), trainer.eval_dataset["label"]
    parts = zip(logits.split(8), torch.tensor(labels).split(8), strict=True)  # `Trainer` averages over batches
    expected = [F.cross_entropy(*part, torch.tensor([4.0, 1, 1, 1])).item() for part in parts]
    assert loss == pytest.approx(np.mean(expected), abs=1e-4)


def test_two_losses_are_refused(make_trainer):
    with pytest.raises(ValueError, match="Expected `class_weights` or a `compute_loss_func`"):
        make_trainer(class_weights="balanced", trainer_kwargs={"compute_loss_func": lambda *args, **kwargs: 0})


def test_one_class_per_sample_is_needed(make_trainer, make_model, digits):
    multi_hot = [[float(k == label) for k in range(NUM_LABELS)] for label in digits["label"]]
    rows = digits.remove_columns("label").add_column("label", multi_hot)
    model = make_model(problem_type="multi_label_classification")
    with pytest.raises(ValueError, match="Expected `problem_type='single_label_classification'` for `class_weights`"):
        make_trainer(model, train_dataset=rows, eval_dataset=rows, class_weights={0: 2.0})


def test_a_compute_loss_that_skips_the_method_is_named(make_trainer, caplog):
    """The recipe for class weights that goes round overrides `compute_loss` without calling `super`."""

    class Weighted(PMRTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            outputs = model(**inputs)
            loss = F.cross_entropy(outputs.logits, inputs["labels"], torch.tensor([1.0, 2, 1, 1]))
            return (loss, outputs) if return_outputs else loss

    for cls, warns in ((Weighted, True), (PrototypeTrainer, False)):
        caplog.clear()
        make_trainer(cls=cls, max_steps=1).train()
        found = [record.message for record in caplog.records if "no term was tracked" in record.message]
        assert bool(found) == warns
    assert not found


@pytest.mark.parametrize(
    ("setting", "names", "expected"),
    [
        ({1: 5.0}, ["1", "2"], [5, 1]),
        ({"1": 5.0}, ["1.0", "2.0"], [5, 1]),
        ({2.0: 5.0}, ["1", "2"], [1, 5]),
        ({True: 5.0}, ["False", "True"], [1, 5]),
        ({"true": 5.0}, ["False", "True"], [1, 5]),
        ({" cafe\u0301 ": 5.0}, ["caf\u00e9", "tea"], [5, 1]),
        ({1: 5.0}, ["cat", "dog"], [1, 5]),
    ],
)
def test_a_class_whose_name_is_a_number_is_meant_by_its_name(setting, names, expected):
    """A number is the place of a class only if no class is called by a number."""
    assert class_weights(setting, None, 2, dict(enumerate(names))).tolist() == expected


def test_classes_that_are_not_there_or_named_twice():
    with pytest.raises(ValueError, match=r"of the classes \['1', '2', '3'\], got \[0\] too"):
        class_weights({0: 5.0, 1: 3.0}, None, 3, dict(enumerate("123")))
    for setting, names in (({0: 5.0, "cat": 3.0}, NAMES), ({1: 5.0, "1.0": 2.0}, dict(enumerate("123")))):
        with pytest.raises(ValueError, match="Expected `class_weights` with each class once, got"):
            class_weights(setting, None, 3, names)
