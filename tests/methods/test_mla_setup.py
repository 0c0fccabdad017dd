"""MLA: the losses of its turns, its metrics, and what it refuses."""

import pytest
import torch
from helpers.all_methods import parts_of
from torch.nn import functional as F

from pmr_hf import MLATrainer


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


def test_the_accuracy_of_a_modality_is_that_of_the_head_on_it_alone(make_trainer, make_model, digits):
    rows = digits.select(range(24)).map(
        lambda row, i: {"caption": row["caption"] if i % 3 else None}, with_indices=True, features=digits.features
    )
    trainer = make_trainer(make_model(**parts_of(MLATrainer)), cls=MLATrainer, eval_dataset=rows)
    trainer.train()
    metrics = trainer.evaluate()
    model, kept = trainer.model.eval(), [i for i in range(24) if rows[i]["caption"]]
    batch = trainer.data_collator([rows[i] for i in kept])
    with torch.no_grad():
        guesses = {name: model(**{name: batch[name]}).logits.argmax(1) for name in ("image", "text")}
    right = {name: (values == batch["labels"]).float().mean().item() for name, values in guesses.items()}
    assert metrics["eval_text_accuracy"] == pytest.approx(right["text"])
    assert trainer.evaluate(rows.select(kept))["eval_image_accuracy"] == pytest.approx(right["image"]) != right["text"]


def test_what_mla_cannot_train_is_refused(make_trainer, make_args, make_model):
    with pytest.raises(ValueError, match="`mla_alpha` above 0, got 0"):
        make_args(MLATrainer.args_class, mla_alpha=0)
    with pytest.raises(ValueError, match=r"with fusion='shared' for MLATrainer.*got 'concat'; build it with"):
        make_trainer(cls=MLATrainer)
    with pytest.raises(ValueError, match="no `gradient_cosine_steps` for MLATrainer"):
        make_args(MLATrainer.args_class, gradient_cosine_steps=1)
    model = make_model(**parts_of(MLATrainer))
    own = {"compute_loss_func": lambda outputs, labels, num_items_in_batch=None: outputs.loss}
    with pytest.raises(ValueError, match=r"the loss of the model for MLATrainer, .* got a `compute_loss_func`"):
        make_trainer(model, cls=MLATrainer, trainer_kwargs=own)
