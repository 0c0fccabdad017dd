"""MLA: its training against a plain loop, the projection against its formula by element, and what it refuses."""

import pytest
import torch
from helpers.all_methods import parts_of
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
        for name in ("image", "text"):
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


@pytest.mark.parametrize(("size", "micro"), [(8, 1), (4, 2)])
def test_mla_trains_as_a_plain_loop(make_trainer, make_model, rows, size, micro):
    settings = {"optim": "adamw_torch", "adam_epsilon": 1e-3, "max_grad_norm": 0.5, "lr_scheduler_type": "constant"}
    settings |= {"per_device_train_batch_size": size, "gradient_accumulation_steps": micro, "mla_alpha": 0.3}
    trainer = make_trainer(
        make_model(**parts_of(MLATrainer)),
        cls=MLATrainer,
        train_dataset=rows,
        train_sampling_strategy="sequential",
        num_train_epochs=2,
        **settings,
    )
    plain = make_model(**parts_of(MLATrainer))
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
    assert log["loss"] == pytest.approx(log["image_ce_loss"] + log["text_ce_loss"], rel=0.2)
    assert log["image_fusion_weight"] + log["text_fusion_weight"] > 0.9


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


def test_the_losses_have_class_weights_and_label_smoothing(make_trainer, make_model, digits):
    settings = {"class_weights": {"0": 4.0}, "label_smoothing_factor": 0.3}
    trainer = make_trainer(make_model(**parts_of(MLATrainer)), cls=MLATrainer, **settings)
    batch = trainer.data_collator([digits[i] for i in range(8)])
    logits, counted = torch.randn(8, 4), torch.arange(8) % 3 > 0
    expected = F.cross_entropy(
        logits[counted], batch["labels"][counted], torch.tensor([4.0, 1, 1, 1]), label_smoothing=0.3
    )
    torch.testing.assert_close(trainer.unimodal_loss("text", logits, batch["labels"], counted), expected)
    none = trainer.unimodal_loss("text", logits, batch["labels"], torch.zeros_like(counted))
    assert none.item() == 0


def test_a_huge_alpha_turns_the_projection_off_and_a_small_one_does_not(make_trainer, make_model):
    def trained(alpha):
        trainer = make_trainer(make_model(**parts_of(MLATrainer)), cls=MLATrainer, mla_alpha=alpha, num_train_epochs=1)
        trainer.train()
        return trainer

    off = trained(1e30)
    torch.testing.assert_close(off.projection, torch.eye(8), atol=1e-6, rtol=0)
    other = trained(0.1).model.fusion.classifier.weight
    assert not torch.allclose(off.model.fusion.classifier.weight, other, atol=1e-3)


def test_the_accuracy_of_a_modality_is_that_of_the_head_on_it_alone(make_trainer, make_model, rows):
    trainer = make_trainer(make_model(**parts_of(MLATrainer)), cls=MLATrainer, eval_dataset=rows)
    trainer.train()
    metrics = trainer.evaluate()
    model, kept = trainer.model.eval(), [i for i in range(24) if rows[i]["caption"]]
    batch = trainer.data_collator([rows[i] for i in kept])
    with torch.no_grad():
        guesses = model(text=batch["text"]).logits.argmax(1)
    assert metrics["eval_text_accuracy"] == pytest.approx((guesses == batch["labels"]).float().mean().item())
    assert metrics["eval_text_accuracy"] > 0.3


def test_what_mla_cannot_train_is_refused(make_trainer, make_args, make_model):
    with pytest.raises(ValueError, match="`mla_alpha` to be finite and above 0, got 0"):
        make_args(MLATrainer.args_class, mla_alpha=0)
    with pytest.raises(ValueError, match=r"with fusion='shared' for MLATrainer.*got 'concat'; build it with"):
        make_trainer(cls=MLATrainer)
    model = make_model(**parts_of(MLATrainer))
    with pytest.raises(ValueError, match="no `gradient_cosine_steps` for MLATrainer"):
        make_trainer(model, cls=MLATrainer, gradient_cosine_steps=1)
    own = {"compute_loss_func": lambda outputs, labels, num_items_in_batch=None: outputs.loss}
    with pytest.raises(ValueError, match=r"the loss of the model for MLATrainer, .* got a `compute_loss_func`"):
        make_trainer(model, cls=MLATrainer, trainer_kwargs=own)
