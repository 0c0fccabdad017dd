"""When the prototypes are refreshed, and from what."""

import numpy as np
import pytest
import torch
from conftest import NUM_LABELS, assert_equal, state
from helpers import oracle
from transformers import TrainerCallback

from pmr_hf import PMRTrainer


class Recording(PMRTrainer):
    """Notes the step of each refresh."""

    def refresh_prototypes(self, momentum=None):
        self.moments = [*getattr(self, "moments", []), self.state.global_step]
        super().refresh_prototypes(momentum)


@pytest.mark.parametrize(
    ("source", "steps", "expected"),
    [
        ("subset", None, [0, 8, 16]),  # before each epoch of 8 steps, and after training
        ("subset", 5, [0, 5, 10, 15, 16]),
        ("online", None, [8, 16, 16]),  # after each epoch; the last one finds nothing new
        ("online", 5, [5, 10, 15, 16]),
    ],
)
def test_the_moments_of_a_refresh(make_trainer, source, steps, expected):
    trainer = make_trainer(cls=Recording, prototype_source=source, prototype_refresh_steps=steps)
    trainer.train()
    assert trainer.moments == expected


def test_online_prototypes_are_the_means_of_the_training_embeddings(make_trainer):
    """By Eq. 12 over two epochs, from what the model gives in the training steps themselves, and without other ones."""
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
    assert all("eval_image_prototype_accuracy" in entry for entry in evaluations)  # of the epoch behind it


def test_before_the_first_refresh_online_is_plain_training_to_the_bit(make_trainer, make_model):
    runs = []
    for settings in ({"prototype_source": "online"}, {"pmr_alpha": 0.0, "pmr_mu": 0.0}):
        trainer = make_trainer(make_model(), num_train_epochs=1, **settings)
        trainer.train()
        runs.append({name: value for name, value in state(trainer).items() if "prototypes" not in name})
    assert_equal(*runs)


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
        assert_equal(state(streamed), state(whole))
    assert streamed.prototypes.seen("image").all()


def test_a_stream_is_refreshed_every_100_steps_by_default(make_trainer, digits):
    trainer = make_trainer(train_dataset=digits.to_iterable_dataset(), prototype_source="online", max_steps=8)
    assert trainer.refresh_steps == 100
    trainer.train()
    assert trainer.prototypes.seen("image").all()  # from the rest, after training


def test_a_stream_without_max_steps_is_told_so(make_trainer, digits):
    with pytest.raises(ValueError, match="max_steps"):
        make_trainer(train_dataset=digits.to_iterable_dataset(), prototype_source="online")


def test_a_refresh_by_steps_draws_another_share_each_time(make_trainer, digits):
    class Reading(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            counts.append(trainer.prototypes.count("image").tolist())

    counts = []
    trainer = make_trainer(prototype_refresh_steps=1, prototype_fraction=0.25, num_train_epochs=1)
    trainer.add_callback(Reading())
    trainer.train()
    assert all(sum(count) == 16 for count in counts) and len({tuple(count) for count in counts}) > 4
