"""When the prototypes are refreshed, from which samples, and what a refresh leaves unchanged."""

import random

import numpy as np
import pytest
import torch
from helpers import oracle
from helpers.digits import NUM_LABELS
from helpers.oracle_inputs import class_means
from helpers.snapshots import assert_equal_tensors, snapshot, weights_of
from PIL import Image as PILImage
from torch.utils.data import Dataset as TorchDataset
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from pmr_hf import PMRTrainer
from pmr_hf.model.prototypes import Prototypes
from pmr_hf.training import prototype_rows
from pmr_hf.training.prototype_refresh import warn_of_unseen_classes


class Recording(PMRTrainer):
    """Records the step of each refresh."""

    def refresh_prototypes(self, momentum=None):
        self.moments = [*getattr(self, "moments", []), self.state.global_step]
        super().refresh_prototypes(momentum)


@pytest.fixture
def few_rows(monkeypatch):
    """Otherwise 20 rows for each of four classes would be all 64 rows."""
    monkeypatch.setattr(prototype_rows, "LEAST_ROWS", 2)


class RecordedDigits(TorchDataset):
    """The digits with noise from all three global random generators. Records which rows are read."""

    def __init__(self, rows):
        self.rows, self.read = rows, []

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        self.read.append(i)
        noise = random.random() + np.random.rand() + torch.rand(()).item()
        picture = np.asarray(self.rows[i]["picture"]).clip(max=230) + int(8 * noise)
        return {**self.rows[i], "picture": PILImage.fromarray(picture.astype(np.uint8))}


@pytest.mark.parametrize(
    ("source", "steps", "expected"),
    [
        ("subset", None, [0, 8, 16]),  # before each epoch of 8 steps, and after training
        ("subset", 5, [0, 5, 10, 15, 16]),
        ("online", None, [8, 16, 16]),  # after each epoch; the last refresh finds nothing new
        ("online", 5, [5, 10, 15, 16]),
    ],
)
def test_the_steps_at_which_prototypes_are_refreshed(make_trainer, source, steps, expected):
    trainer = make_trainer(cls=Recording, prototype_source=source, prototype_refresh_steps=steps)
    trainer.train()
    assert trainer.moments == expected


def test_online_prototypes_are_the_means_of_the_training_embeddings(make_trainer):
    """By Eq. 12 over two epochs, from the outputs of the training steps and without a further forward pass."""
    trainer = make_trainer(prototype_source="online", prototype_momentum=0.3, num_train_epochs=2)
    steps = []
    hook = trainer.model.register_forward_hook(
        lambda model, args, kwargs, output: steps.append((output.embeddings, kwargs["labels"])), with_kwargs=True
    )
    trainer.train()
    hook.remove()
    assert len(steps) == 16
    for name in ("image", "text"):
        old, new = [], []
        for means, epoch in ((old, steps[:8]), (new, steps[8:])):
            embeddings = torch.cat([embeddings[name] for embeddings, _ in epoch])
            labels = torch.cat([labels for _, labels in epoch])
            means += oracle.prototypes(embeddings.tolist(), labels.tolist(), NUM_LABELS)
        expected = torch.tensor([oracle.momentum(a, b, 0.3) for a, b in zip(old, new, strict=True)])
        torch.testing.assert_close(trainer.prototypes.mean(name), expected, atol=1e-5, rtol=1e-5)
        assert trainer.prototypes.count(name).tolist() == np.bincount(trainer.train_dataset["label"][:]).tolist()


def test_online_terms_begin_with_the_first_refresh(make_trainer):
    trainer = make_trainer(prototype_source="online", eval_strategy="epoch")
    trainer.train()
    scores = [entry["step"] for entry in trainer.state.log_history if "image_score" in entry]
    assert scores == list(range(9, 17))
    evaluations = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert all("eval_image_prototype_accuracy" in entry for entry in evaluations)  # from the epoch that has just ended


def test_before_the_first_refresh_online_is_plain_training_to_the_bit(make_trainer, make_model):
    runs = []
    for settings in ({"prototype_source": "online"}, {"pmr_alpha": 0.0, "pmr_mu": 0.0}):
        trainer = make_trainer(make_model(), num_train_epochs=1, **settings)
        trainer.train()
        runs.append({name: value for name, value in snapshot(trainer.model).items() if "prototypes" not in name})
    assert_equal_tensors(*runs)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_trains_as_the_dataset_itself(make_trainer, make_model, digits, workers):
    settings = {"prototype_source": "online", "prototype_refresh_steps": 4, "max_steps": 20}
    whole = make_trainer(make_model(), train_sampling_strategy="sequential", **settings)
    whole.train()
    stream = digits.to_iterable_dataset(num_shards=2 if workers else 1)
    streamed = make_trainer(make_model(), train_dataset=stream, dataloader_num_workers=workers, **settings)
    streamed.train()
    assert streamed.state.global_step == 20
    if not workers:  # two workers take turns, in another order
        assert_equal_tensors(snapshot(streamed.model), snapshot(whole.model))
    assert streamed.prototypes.seen("image").all()


def test_a_stream_is_refreshed_every_100_steps_by_default(make_trainer, digits):
    trainer = make_trainer(train_dataset=digits.to_iterable_dataset(), prototype_source="online", max_steps=8)
    assert trainer.refresh_steps == 100
    trainer.train()
    assert trainer.prototypes.seen("image").all()  # from the remaining steps, after training


@pytest.mark.parametrize("step", [4, 12])
def test_a_stream_that_goes_on_from_a_later_pass_says_so(make_trainer, make_model, digits, caplog, tmp_path, step):
    settings = {"prototype_source": "online", "prototype_refresh_steps": 4, "save_strategy": "steps", "save_steps": 4}
    stream, models = digits.to_iterable_dataset(), (make_model(), make_model())
    whole, again = (make_trainer(model, train_dataset=stream, max_steps=16, **settings) for model in models)
    whole.train()  # two passes of eight steps
    again.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{step}"))
    assert ("written after its first pass: the stream and the count of passes begin anew" in caplog.text) == (step > 8)
    if step < 8:
        assert_equal_tensors(snapshot(whole.model), snapshot(again.model))


def test_a_stream_without_max_steps_is_told_so(make_trainer, digits):
    with pytest.raises(ValueError, match="max_steps"):
        make_trainer(train_dataset=digits.to_iterable_dataset(), prototype_source="online")


def test_a_refresh_by_steps_draws_another_share_each_time(make_trainer, digits, few_rows):
    class Reading(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            counts.append(trainer.prototypes.count("image").tolist())

    counts = []
    data = RecordedDigits(digits)  # its classes are unknown before it is read, so that only a share of it is drawn
    trainer = make_trainer(train_dataset=data, prototype_refresh_steps=1, prototype_fraction=0.25, num_train_epochs=1)
    trainer.add_callback(Reading())
    trainer.train()
    assert all(sum(count) == 16 for count in counts) and len({tuple(count) for count in counts}) > 4


def test_the_first_refresh_gives_class_means_and_the_next_moves_them(make_trainer):
    trainer = make_trainer(prototype_fraction=1.0, prototype_momentum=0.3)
    trainer.refresh_prototypes()
    first = class_means(trainer, range(64))
    for name in first:
        torch.testing.assert_close(trainer.prototypes.mean(name), torch.tensor(first[name]), atol=1e-5, rtol=1e-5)
        assert trainer.prototypes.count(name).tolist() == np.bincount(trainer.train_dataset["label"][:]).tolist()
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.mul_(1.1)
    trainer.refresh_prototypes()
    second = class_means(trainer, range(64))
    for name in first:
        expected = [oracle.momentum(a, b, 0.3) for a, b in zip(first[name], second[name], strict=True)]
        torch.testing.assert_close(trainer.prototypes.mean(name), torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_the_subset_is_drawn_from_seed_and_epoch(make_trainer, digits, few_rows):
    data = RecordedDigits(digits)
    trainer = make_trainer(train_dataset=data, prototype_fraction=0.25)

    def refreshed(epoch):
        data.read.clear()
        trainer.state.epoch = epoch
        trainer.refresh_prototypes()
        return sorted(data.read)

    first, second = refreshed(0), refreshed(1)
    assert len(set(first)) == len(set(second)) == 16  # a quarter of 64, no row twice
    assert first != second and refreshed(0) == first
    trainer.args.seed += 1
    assert refreshed(0) != first


def test_refresh_restores_every_random_state_and_the_mode(make_trainer, digits):
    trainer = make_trainer(train_dataset=RecordedDigits(digits))
    set_seed(3)
    expected = (random.random(), np.random.rand(), torch.rand(()).item())
    set_seed(3)
    trainer.model.train()
    trainer.refresh_prototypes()
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected
    assert trainer.model.training


def test_an_augmenting_dataset_trains_as_with_plain_trainer(make_trainer, make_model, make_args, digits, collator):
    plain = Trainer(
        model=make_model(),
        args=make_args(TrainingArguments, remove_unused_columns=False),
        train_dataset=RecordedDigits(digits),
        data_collator=collator,
    )
    plain.train()
    trainer = make_trainer(train_dataset=RecordedDigits(digits), pmr_alpha=0.0, pmr_mu=0.0)
    trainer.train()
    assert_equal_tensors(weights_of(trainer.model), weights_of(plain.model))


def test_classes_without_a_prototype_are_named(make_trainer, digits, monkeypatch):
    messages = []
    monkeypatch.setattr("pmr_hf.training.prototype_refresh.logger.warning", messages.append)
    trainer = make_trainer(train_dataset=digits.filter(lambda label: label != 2, input_columns="label"))
    trainer.args.prototype_fraction = 1.0
    trainer.model.config.id2label = dict(enumerate(digits.features["label"].names))
    trainer.refresh_prototypes()
    assert len(messages) == 1
    assert "('image' has none of 1: two; 'text' has none of 1: two)" in messages[0]
    assert "compared over the 3 of 4 classes that all of them have" in messages[0]
    trainer.refresh_prototypes()  # nothing new
    assert len(messages) == 1


def test_at_most_five_classes_are_named():
    prototypes, messages = Prototypes({"image": 2, "text": 2}, num_labels=8), []
    prototypes.get_buffer("image_seen").fill_(True)
    prototypes.get_buffer("text_seen")[0] = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pmr_hf.training.prototype_refresh.logger.warning", messages.append)
        unseen = warn_of_unseen_classes(prototypes, {}, {}, show=True)
        warn_of_unseen_classes(prototypes, {}, {}, show=False)
    assert unseen == {"image": [], "text": [1, 2, 3, 4, 5, 6, 7]}
    assert len(messages) == 1 and "('text' has none of 7: 1, 2, 3, 4, 5, ...)" in messages[0]
    assert "over the 1 of 8 classes" in messages[0]


def test_prototypes_never_see_evaluation_data(make_trainer, digits):
    train, held_out = RecordedDigits(digits.select(range(40))), RecordedDigits(digits.select(range(40, 64)))
    trainer = make_trainer(train_dataset=train, eval_dataset=held_out, prototype_fraction=1.0)
    trainer.train()
    assert not held_out.read
    assert trainer.prototypes.count("image").sum() == 40
