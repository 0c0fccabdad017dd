"""MLA: its training against a plain loop, the projection against its formula by element, and what it refuses."""

from functools import partial

import pytest
import torch
from helpers.all_methods import parts_of, rows_of_three
from helpers.snapshots import snapshot
from torch.nn import functional as F

from pmr_hf import MLATrainer
from pmr_hf.methods.mla import updated_projection


def projection_by_hand(projection, features, alpha):
    """The new P as lists, from P (D, D) as lists and the features of the samples of a turn, each a list."""
    size = range(len(projection))
    if not features:
        return projection
    mean = [sum(row[i] for row in features) / len(features) for i in size]
    gain = [sum(projection[i][j] * mean[j] for j in size) for i in size]
    divisor = alpha + sum(mean[i] * gain[i] for i in size)
    new = [[projection[i][j] - gain[i] * gain[j] / divisor for j in size] for i in size]
    norm = sum(value**2 for row in new for value in row) ** 0.5
    return [[value * len(size) ** 0.5 / norm for value in row] for row in new]


def test_the_projection_is_updated_as_in_the_formula():
    generator = torch.Generator().manual_seed(0)
    projection = torch.eye(5, dtype=torch.float64)
    expected = projection.tolist()
    for alpha in (1.0, 0.1, 30.0, 1e-6):
        features = torch.randn(7, 5, generator=generator).double() + 1
        total = torch.cat([features.sum(0), torch.tensor([7.0])])
        projection = updated_projection(projection, total, alpha)
        expected = projection_by_hand(expected, features.tolist(), alpha)
        torch.testing.assert_close(projection, torch.tensor(expected, dtype=torch.float64))
        assert torch.equal(projection, projection.T)
        assert torch.equal(updated_projection(projection, torch.zeros(6).double(), alpha), projection)
        assert torch.equal(updated_projection(projection, total * torch.inf, alpha), projection)
    removed = projection @ features.mean(0)  # by the last update, with a tiny alpha
    assert removed.norm() < 1e-4 < (updated_projection(torch.eye(5).double(), total, 1e9) @ features.mean(0)).norm()


@pytest.fixture
def rows(digits):
    """24 digits. Some lack their caption, and the second eight all do."""
    return digits.select(range(24)).map(
        lambda row, i: {"caption": None if i % 5 == 1 or i // 8 == 1 else row["caption"]},
        with_indices=True,
        features=digits.features,
    )


def train_by_hand(model, batches, alpha, rate, steps):
    """Train as MLA does: each batch is a list of micro-batches, and goes to one optimizer step per modality."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, 0.999), eps=1e-3)
    head = model.fusion.classifier
    projection = torch.eye(head.in_features)
    model.train()
    for step in range(steps):
        for name in model.projections:
            features = []
            for batch in (micro := batches[step % len(batches)]):
                output = model(**batch)
                kept = torch.ones(len(batch["labels"])).bool() if output.present is None else output.present[name]
                if not kept.any():
                    continue
                inputs = model.projections[name](output.embeddings[name][kept])
                (F.cross_entropy(head(inputs), batch["labels"][kept]) / len(micro)).backward()
                features += inputs.detach().tolist()
            for part in (*head.parameters(), *model.projections[name].parameters()):
                if part.grad is None:  # no sample has the modality
                    part.grad = torch.zeros_like(part)
            head.weight.grad = head.weight.grad @ projection
            projection = torch.tensor(projection_by_hand(projection.tolist(), features, alpha))
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


@pytest.fixture
def make_of(make_trainer, make_trainer_of_three, make_model, make_model_of_three, rows):
    """Functions by number of modalities, which make a model for MLA, and a trainer of it on 24 rows."""

    def make_of(modalities):
        if modalities == 2:
            return partial(make_model, **parts_of(MLATrainer)), partial(make_trainer, train_dataset=rows)
        some = [row | ({"c": None} if i % 5 == 1 or i // 8 == 1 else {}) for i, row in enumerate(rows_of_three(24))]
        return partial(make_model_of_three, **parts_of(MLATrainer)), partial(make_trainer_of_three, train_dataset=some)

    return make_of


@pytest.mark.parametrize(
    ("modalities", "size", "micro", "epochs"),
    [
        (2, 8, 1, 2),
        pytest.param(2, 4, 2, 2, marks=pytest.mark.slow),
        (2, 4, 4, 3),
        pytest.param(3, 8, 1, 2, marks=pytest.mark.slow),
        (3, 4, 2, 2),
    ],
)
def test_mla_trains_as_a_plain_loop(make_of, modalities, size, micro, epochs):
    make_model, make_trainer = make_of(modalities)
    settings = {"optim": "adamw_torch", "adam_epsilon": 1e-3, "max_grad_norm": 0.5, "lr_scheduler_type": "constant"}
    settings |= {"per_device_train_batch_size": size, "gradient_accumulation_steps": micro, "mla_alpha": 0.3}
    trainer = make_trainer(
        model=make_model(),
        cls=MLATrainer,
        train_sampling_strategy="sequential",
        num_train_epochs=epochs,
        **settings,
    )
    plain, rows = make_model(), trainer.train_dataset
    batches = [[rows[i] for i in range(start, start + size)] for start in range(0, 24, size)]
    batches = [trainer.data_collator(batch) for batch in batches]
    grouped = [batches[start : start + micro] for start in range(0, len(batches), micro)]
    before = snapshot(plain)
    train_by_hand(plain, grouped, 0.3, 1e-2, 6)
    trainer.train()
    assert trainer.state.global_step == 6
    for name, expected in plain.named_parameters():
        torch.testing.assert_close(trainer.model.get_parameter(name), expected, atol=2e-6, rtol=1e-5, msg=name)
    assert all((before[name] != value).any() for name, value in plain.named_parameters() if "classifier" in name)
    log = trainer.state.log_history[0]
    if micro == 1:
        assert log["loss"] == pytest.approx(sum(log[f"{name}_ce_loss"] for name in plain.projections), rel=1e-4)


def test_a_turn_leaves_the_other_encoders_alone(make_trainer, make_model, digits):
    model = make_model(**parts_of(MLATrainer))
    trainer = make_trainer(model, cls=MLATrainer, num_train_epochs=1)
    trainer.train()
    batch = trainer.data_collator([digits[i] for i in range(8)])
    trainer.model.train()
    trainer.model.zero_grad()
    trainer.take_turn(trainer.model, "text", [batch])
    moved = {name for name, parameter in trainer.model.named_parameters() if parameter.grad is not None}
    assert {"fusion.classifier.weight", "fusion.classifier.bias", "projections.text.weight"} <= moved
    assert not [name for name in moved if "image" in name]


def test_a_huge_alpha_turns_the_projection_off_and_a_small_one_does_not(make_trainer, make_model):
    def trained(alpha):
        trainer = make_trainer(make_model(**parts_of(MLATrainer)), cls=MLATrainer, mla_alpha=alpha, num_train_epochs=1)
        trainer.train()
        return trainer

    off = trained(1e30)
    torch.testing.assert_close(off.projection, torch.eye(8), atol=1e-6, rtol=0)
    other = trained(0.1).model.fusion.classifier.weight
    assert not torch.allclose(off.model.fusion.classifier.weight, other, atol=1e-3)
