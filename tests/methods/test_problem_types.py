"""Each method on several labels and on a regression: it trains, or says in one sentence that it needs classes."""

import numpy as np
import pytest
import torch
from helpers.all_methods import BLEND_WEIGHTS, parts_of
from helpers.relatives import slow_but

from pmr_hf import METHODS, MultimodalModel, MultimodalTrainer, UnimodalHeadsTrainer


ONE_CLASS = {"mla", "relearning"}


@pytest.fixture
def make_of(make_model, make_args, digits, collator):
    """A function that makes a trainer of the class on digits with other labels."""

    def make(cls, problem_type, num_labels, labels, model=None, trainer_kwargs=None, **kwargs):
        data = digits.remove_columns("label").add_column("label", labels)
        settings = BLEND_WEIGHTS if "blend" in cls.args_class.__name__.lower() else {}
        return cls(
            model=model or make_model(num_labels=num_labels, problem_type=problem_type, **parts_of(cls)),
            args=make_args(cls.args_class, **({"num_train_epochs": 1} | settings | kwargs)),
            train_dataset=data,
            eval_dataset=data,
            data_collator=collator,
            **(trainer_kwargs or {}),
        )

    return make


def numbers(digits):
    return [100.0 + 10 * label for label in digits["label"]]


DEFAULT = ("joint", "pmr", "late_fusion", "gblend", "dgl", "valuation", "mla", "relearning")


@pytest.mark.parametrize("name", slow_but(DEFAULT, METHODS, METHODS))
def test_several_labels(name, make_of, digits):
    cls = METHODS[name]
    labels = [[int(label > 1), label % 2, int(label == 3)] for label in digits["label"]]
    if name in ONE_CLASS:
        with pytest.raises(ValueError, match=r"Expected a model that predicts one class|Expected one label per sample"):
            make_of(cls, "multi_label_classification", 3, labels)
        return
    trainer = make_of(cls, "multi_label_classification", 3, labels)
    trainer.train()
    metrics = trainer.evaluate()
    assert {"eval_micro_f1", "eval_macro_f1", "eval_mAP", "eval_subset_accuracy"} <= metrics.keys()
    assert "eval_image_prototype_micro_f1" in metrics and "eval_accuracy" not in metrics
    log = trainer.state.log_history[-3]
    assert np.isfinite([log["rho"], log["ce_loss"], log["image_pce_loss"]]).all()
    assert trainer.prototypes.known().all()


@pytest.mark.parametrize("name", METHODS)
def test_a_regression(name, make_of, digits):
    cls = METHODS[name]
    if cls.needs_classes:
        sentence = f"Expected a model that classifies for {cls.__name__}, since it needs class|Expected one label per"
        with pytest.raises(ValueError, match=sentence):
            make_of(cls, "regression", 1, numbers(digits))
        return
    trainer = make_of(cls, "regression", 1, numbers(digits))
    trainer.train()
    metrics = trainer.evaluate()
    assert {"eval_mae", "eval_rmse", "eval_r2"} <= metrics.keys() and "mse_loss" in trainer.state.log_history[0]
    assert ("eval_image_unimodal_mae" in metrics) == issubclass(cls, UnimodalHeadsTrainer)
    assert not any("prototype" in key for key in metrics)


def test_the_methods_that_need_classes():
    unable = {"pmr", "acc", "agm", "ogm", "opm", "mla", "reconboost", "relearning", "valuation"}
    assert {name for name, cls in METHODS.items() if cls.needs_classes} == unable
    assert {name for name, cls in METHODS.items() if cls.needs_one_class} == ONE_CLASS


@pytest.mark.parametrize("cls", [MultimodalTrainer, METHODS["joint"]])
def test_the_scale_is_that_of_the_training_rows_and_a_trained_model_keeps_it(cls, make_of, digits, tmp_path):
    targets = [[value, -value / 1000] for value in numbers(digits)]
    trainer = make_of(cls, "regression", 2, targets, num_train_epochs=8)
    trainer.train()
    scale = trainer.model.target_scale
    np.testing.assert_allclose(scale.mean, np.mean(targets, 0), rtol=1e-6)
    np.testing.assert_allclose(scale.std, np.std(targets, 0), rtol=1e-5)
    assert trainer.evaluate()["eval_r2"] > 0.8  # the digit is in the picture and in most captions
    trainer.save_model(str(tmp_path / "saved"))
    loaded = MultimodalModel.from_pretrained(tmp_path / "saved")
    others = [[value + 5, -value] for value in numbers(digits)]
    make_of(cls, "regression", 2, others, model=loaded).train()
    assert torch.equal(loaded.target_scale.mean, scale.mean)


def test_arguments_and_labels_that_are_refused(make_of, digits):
    joint, targets = METHODS["joint"], numbers(digits)
    with pytest.raises(
        ValueError, match="Expected a model that classifies for answer, since prototypes are of classes"
    ):
        make_of(joint, "regression", 1, targets, answer="best")
    with pytest.raises(ValueError, match="for prototype_dataset"):
        make_of(joint, "regression", 1, targets, trainer_kwargs={"prototype_dataset": digits})
    with pytest.raises(ValueError, match="Expected `greater_is_better=False` with metric_for_best_model='rmse'"):
        make_of(joint, "regression", 1, targets, metric_for_best_model="rmse", greater_is_better=True)
    with pytest.raises(ValueError, match="Expected `label_smoothing_factor=0`"):
        make_of(joint, "regression", 1, targets, label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match="Expected different targets in the training set, got the same of all 64 rows"):
        make_of(joint, "regression", 1, [1.0] * 64)
    with pytest.raises(ValueError, match=r"Expected a finite number.* target of row 1, got nan"):
        make_of(joint, "regression", 1, [1.0, float("nan"), *targets[2:]])
    with pytest.raises(ValueError, match="Expected a label that some rows have and others lack"):
        make_of(joint, "multi_label_classification", 2, [[1, 0]] * 64)


def test_the_best_of_both_answers_by_micro_f1(make_of, digits):
    labels = [[int(label > 1), label % 2] for label in digits["label"]]
    trainer = make_of(METHODS["pmr"], "multi_label_classification", 2, labels, answer="best")
    trainer.train()
    metrics = trainer.evaluate()
    assert trainer.model.config.answer in ("head", "prototypes")
    answers = metrics["eval_micro_f1"], metrics["eval_prototypes_micro_f1"]
    assert metrics["eval_best_answer_micro_f1"] == pytest.approx(max(answers)) == pytest.approx(answers[0])


def test_labels_by_name(make_of, make_model, digits):
    names = ["even", "odd", "small"]
    labels = [[names[label % 2], *(["small"] if label < 2 else [])] for label in digits["label"]]
    model = make_model(
        num_labels=3, problem_type="multi_label_classification", id2label=dict(enumerate(names)), label2id={}
    )
    trainer = make_of(METHODS["joint"], None, 3, labels, model=model)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    expected = [[float(name in row) for name in names] for row in labels[:4]]
    assert batch["labels"].tolist() == expected
    with pytest.raises(ValueError, match=r"Expected labels among \['even', 'odd', 'small'\] in row 63, got 'huge'"):
        make_of(METHODS["joint"], None, 3, [*labels[:-1], ["huge"]], model=model)


def test_prototypes_are_taken_from_rows_with_and_without_each_label(make_of, digits):
    labels = [[int(i in (3, 50)), int(i % 9 != 0)] for i in range(64)]  # two rows have the first label
    trainer = make_of(METHODS["pmr"], "multi_label_classification", 2, labels, prototype_fraction=0.1)
    rows = trainer.prototype_rows.draw(0.1, seed=0)
    without_second = [i for i in range(64) if i % 9 == 0]
    assert {3, 50, *without_second} <= set(rows) and len(rows) == len(set(rows)) < 64
    trainer.train()
    assert trainer.prototypes.known().all()
    assert trainer.prototypes.count("image")[1] == 2 and trainer.prototypes.count("text")[2] == len(without_second)


def test_online_prototypes_of_several_labels(make_of, digits):
    labels = [[int(label > 1), label % 2] for label in digits["label"]]
    trainer = make_of(METHODS["pmr"], "multi_label_classification", 2, labels, prototype_source="online")
    trainer.train()
    positives = np.sum(labels, 0).tolist()
    assert trainer.prototypes.count("image").tolist() == [
        64 - positives[0],
        positives[0],
        64 - positives[1],
        positives[1],
    ]


def test_a_prototype_dataset_has_rows_with_and_without_each_label(make_of, digits):
    labels = [[int(label > 1), label % 2] for label in digits["label"]]
    own = digits.remove_columns("label").select(range(8)).add_column("label", [[1, 0], [0, 0]] * 4)
    with pytest.raises(
        ValueError, match=r"Expected rows with and without each of the 2 labels .* none with LABEL_1; add"
    ):
        make_of(METHODS["pmr"], "multi_label_classification", 2, labels, trainer_kwargs={"prototype_dataset": own})


class OnlyRows(torch.utils.data.Dataset):
    """A map-style dataset whose labels are known once its rows are read."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


def test_targets_that_are_known_late_need_a_fitted_model(make_of, digits):
    trainer = make_of(METHODS["joint"], "regression", 1, numbers(digits))
    trainer.train_dataset = OnlyRows(trainer.train_dataset)
    with pytest.raises(ValueError, match=r"Expected targets that are known before training, got a OnlyRows .* first"):
        trainer.train()
    trainer.model.fit_targets(torch.tensor(numbers(digits)))
    trainer.train()
    assert trainer.state.global_step == 8


@pytest.mark.parametrize(("problem_type", "labels"), [("regression", None), ("multi_label_classification", [1, 0])])
def test_a_resumed_run_ends_with_the_weights_of_a_whole_one(problem_type, labels, make_of, digits, tmp_path):
    values = numbers(digits) if labels is None else [[int(label > 1), label % 2] for label in digits["label"]]
    count = 1 if labels is None else 2
    settings = {"num_train_epochs": 2, "save_strategy": "epoch"}
    whole = make_of(METHODS["joint"], problem_type, count, values, **settings)
    whole.train()
    again = make_of(METHODS["joint"], problem_type, count, values, **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-8"))
    state = again.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in whole.model.state_dict().items())
