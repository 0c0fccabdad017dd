"""Re-learning: the pull by its formula, and runs that re-learn, resume and leave joint training as it is."""

import math
from functools import partial

import pytest
import torch
from helpers.purity import purity_by_loops
from helpers.snapshots import assert_equal_tensors, changed, snapshot
from safetensors.torch import load_file, save_file
from sklearn.cluster import KMeans
from transformers import TrainerCallback

from pmr_hf import PrototypeTrainer, RelearningArguments, RelearningTrainer
from pmr_hf.methods.relearning import INITIAL_NAME
from pmr_hf.methods.separability import embed_rows


@pytest.fixture
def make(make_trainer, make_model, digits):
    """A function that makes a trainer of 40 rows with 24 others to validate; it re-learns after each epoch."""
    train, validation = digits.select(range(40)), digits.select(range(40, 64))

    def make(model=None, cls=RelearningTrainer, **kwargs):
        own = {"relearning_epochs": 1} if cls is RelearningTrainer else {}
        own |= {"train_dataset": train, "eval_dataset": validation, "num_train_epochs": 3}
        return make_trainer(model or make_model(dropout=0.2), cls=cls, **(own | kwargs))

    return make


class WatchRelearning(TrainerCallback):
    """Keeps the weights before and after the re-learning between the first two epochs."""

    def on_epoch_end(self, args, state, control, model=None, **kwargs):
        if state.epoch == 1:
            self.before = snapshot(model)

    def on_epoch_begin(self, args, state, control, model=None, **kwargs):
        if state.epoch == 1:
            self.after = snapshot(model)


@pytest.mark.parametrize("names", [("image", "text"), ("a", "b", "c")], ids="-".join)
def test_the_pull_is_that_of_the_formula(make, make_trainer_of_three, make_model_of_three, names):
    """In a run, the three modalities under attention."""
    if len(names) == 3:
        make = partial(make_trainer_of_three, RelearningTrainer, make_model_of_three(fusion="attention", dropout=0.2))
    watch = WatchRelearning()
    trainer = make(
        num_train_epochs=2,
        relearning_epochs=1,
        relearning_strength=2.0,
        per_device_train_batch_size=4,
        trainer_kwargs={"callbacks": [watch]},
    )
    model, initial = trainer.model, snapshot(trainer.model)
    trainer.train()
    (found,) = [entry for entry in trainer.state.log_history if f"{names[0]}_purity_gap" in entry]
    trained = snapshot(model)
    model.load_state_dict(watch.before)
    model.eval()
    purities = {name: [] for name in names}
    for data in (trainer.train_dataset, trainer.eval_dataset):
        batch = trainer.data_collator([data[i] for i in range(len(data))])
        with torch.no_grad():
            embeddings = model(**batch).embeddings
        for name, values in embeddings.items():
            low, high = values.min(0).values, values.max(0).values
            scaled = (2 * (values - low) / (high - low) - 1).numpy()
            clusters = KMeans(4, n_init=10, random_state=trainer.args.seed).fit_predict(scaled)
            purities[name].append(purity_by_loops(batch["labels"].tolist(), clusters.tolist()))
    strengths = {}
    for name, (train, validation) in purities.items():
        strengths[name] = math.tanh(2.0 * abs(train - validation))
        assert found[f"{name}_train_purity"] == pytest.approx(train)
        assert found[f"{name}_validation_purity"] == pytest.approx(validation)
        assert found[f"{name}_relearning_strength"] == pytest.approx(strengths[name])
    assert min(strengths.values()) > 0.01 and len(set(strengths.values())) == len(names)
    for key, _ in model.named_parameters():
        strength = strengths[key.split(".")[1]] if key.startswith("backbones.") else 0
        expected = (1 - strength) * watch.before[key] + strength * initial[key]
        torch.testing.assert_close(watch.after[key], expected, msg=key)
    assert {key.split(".")[1] for key in trained if (trained[key] != watch.after[key]).any()} >= set(names)
    trainer.relearn()
    assert not model.training


def test_strength_0_is_joint_training(make):
    """To the bit, so the clustering leaves the random state of dropout and of the order of the rows untouched."""
    trainers = []
    for options in ({"cls": PrototypeTrainer}, {"relearning_strength": 0.0}, {}):
        trainers.append(make(**options))
        trainers[-1].train()
    joint, none, some = trainers
    assert_equal_tensors(snapshot(joint.model), snapshot(none.model))
    assert any(name.startswith("backbones.text") for name in changed(snapshot(joint.model), some.model))
    logs = [entry for entry in some.state.log_history if "text_purity_gap" in entry]
    assert [(entry["epoch"], entry["step"]) for entry in logs] == [(1, 5), (2, 10)]


def test_prototypes_are_those_of_the_re_learned_encoders(make):
    class Compare(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 5:  # the first step after the re-learning
                before = snapshot(trainer.prototypes)
                trainer.refresh_prototypes(momentum=0.0)
                compared.append(before)
                assert_equal_tensors(before, trainer.prototypes.state_dict())

    compared = []
    trainer = make(num_train_epochs=2, prototype_momentum=0.0, trainer_kwargs={"callbacks": [Compare()]})
    trainer.train()
    assert len(compared) == 1


@pytest.mark.parametrize("step", [pytest.param(3, marks=pytest.mark.slow), 5, pytest.param(7, marks=pytest.mark.slow)])
def test_a_run_resumes_to_the_bit_with_another_model(make, make_model, tmp_path, step):
    """Re-learning is before steps 6 and 11. The initial weights come from the checkpoint."""
    saving = {"save_strategy": "steps", "save_steps": 1}
    whole = make(output_dir=str(tmp_path / "whole"), **saving)
    whole.train()
    again = make(make_model(dropout=0.2, seed=5), output_dir=str(tmp_path / "again"))
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
    assert_equal_tensors(snapshot(whole.model), snapshot(again.model))
    assert len([entry for entry in again.state.log_history if "text_purity_gap" in entry]) == 2
    file = tmp_path / "whole" / "checkpoint-5" / INITIAL_NAME
    weights = load_file(file)
    assert set(weights) == {
        name.removeprefix("backbones.") for name, _ in whole.model.named_parameters() if "backbones." in name
    }
    save_file(dict(list(weights.items())[1:]), file)
    with pytest.raises(ValueError, match="Expected the initial weights of this model's trained encoders"):
        whole.load_method_state(str(file.parent))


def test_only_trained_parameters_are_kept_and_pulled(make, make_model):
    trainer = make(make_model(lora={"text": {"r": 2}}), freeze=["image"], num_train_epochs=2)
    before = snapshot(trainer.model)
    trainer.train()
    assert trainer._initial and all("lora_" in name for name in trainer._initial)
    assert {name for name in changed(before, trainer.model) if name.startswith("backbones.")} == {
        f"backbones.{name}" for name in trainer._initial
    }


def test_rows_without_a_modality_do_not_count(make, digits):
    def punch(row, i):
        return {"caption": None if i >= 3 else row["caption"], "picture": row["picture"] if i % 2 else None}

    data = digits.map(punch, with_indices=True, features=digits.features).filter(lambda row: row["picture"])
    trainer = make(train_dataset=data, num_train_epochs=1)
    trainer.train()
    embedded = embed_rows(trainer, data, list(range(len(data))))
    assert {name: len(labels) for name, (_, labels) in embedded.items()} == {"image": 32, "text": 1}
    before = snapshot(trainer.model)
    found = trainer.relearn()
    assert "image_purity_gap" in found and "text_purity_gap" not in found
    assert not any(name.startswith("backbones.text") for name in changed(before, trainer.model))
    assert any(name.startswith("backbones.image") for name in changed(before, trainer.model))


@pytest.mark.parametrize(
    ("epochs", "options", "expected"),
    [
        (90, {}, [20, 40, 60]),  # as in the authors' script
        (30, {}, [7, 14, 21]),
        (3, {}, [1, 2]),
        (12, {"relearning_epochs": 5, "relearning_times": 9}, [5, 10]),
        (12, {"relearning_epochs": 3, "relearning_times": 1}, [3]),
        (1, {}, []),
    ],
)
def test_when_re_learning_is_due(make, epochs, options, expected):
    trainer = make(**({"relearning_epochs": None} | options))
    trainer.state.num_train_epochs = epochs
    assert [epoch for epoch in range(epochs) if trainer.is_due(epoch)] == expected


def test_a_run_without_re_learning_warns(make, monkeypatch):
    messages = []
    monkeypatch.setattr("pmr_hf.methods.relearning.logger.warning", messages.append)
    for epochs in (1, 3):
        make(relearning_epochs=2, num_train_epochs=epochs).train()
    assert len(messages) == 1
    assert messages[0].startswith("Expected a re-learning before the last epoch, got relearning_epochs=2 in 1 epochs")


def test_what_is_refused(make, make_model, digits):
    trainer = make()
    trainer.is_fsdp_enabled = True
    with pytest.raises(ValueError, match="Expected a model with whole encoders for RelearningTrainer"):
        trainer.on_new_model(trainer.model)
    for data in (None, {"a": digits}, digits.to_iterable_dataset()):
        with pytest.raises(ValueError, match="Expected one evaluation set with a length for RelearningTrainer"):
            make(eval_dataset=data)
    with pytest.raises(ValueError, match="Expected at least as many rows in the evaluation set as the 4 classes"):
        make(eval_dataset=digits.select(range(3)))
    with pytest.raises(ValueError, match="Expected a training set with a length for RelearningTrainer"):
        make(train_dataset=digits.to_iterable_dataset(), prototype_source="online", max_steps=4)
    wrong = {"epochs": 0, "times": 0, "strength": float("nan"), "fraction": 0.0}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=f"Expected `relearning_{name}`"):
            RelearningArguments("out", **{f"relearning_{name}": value})
