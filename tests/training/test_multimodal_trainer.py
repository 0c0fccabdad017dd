"""What the trainers share with plain `Trainer`, and the metrics that they add."""

import numpy as np
import pytest
import torch
from helpers.digits import NUM_LABELS, batch_of
from helpers.snapshots import assert_equal_tensors, changed, snapshot, weights_of
from transformers import Trainer, TrainingArguments

from pmr_hf import MultimodalModel, MultimodalTrainer, PMRTrainer


def test_label_smoothing_is_that_of_plain_trainer(make_trainer, make_model, make_args, digits, collator):
    plain = Trainer(
        model=make_model(),
        args=make_args(
            TrainingArguments, remove_unused_columns=False, label_names=["labels"], label_smoothing_factor=0.1
        ),
        train_dataset=digits,
        data_collator=collator,
    )
    plain.train()
    trainer = make_trainer(pmr_alpha=0.0, pmr_mu=0.0, label_smoothing_factor=0.1)
    trainer.train()
    assert_equal_tensors(weights_of(trainer.model), weights_of(plain.model))


@pytest.mark.usefixtures("workers_end")
def test_persistent_workers_read_the_dataset_that_is_evaluated(make_trainer, digits):
    trainer = make_trainer(dataloader_num_workers=1, dataloader_persistent_workers=True)
    before = trainer.evaluate()["eval_loss"]
    other = trainer.evaluate(digits.select(range(5)))["eval_loss"]
    assert other == pytest.approx(make_trainer().evaluate(digits.select(range(5)))["eval_loss"], abs=1e-6)
    assert other != before == trainer.evaluate()["eval_loss"]


def test_identical_runs_are_identical_to_the_bit(make_trainer, make_model):
    def run():
        trainer = make_trainer(make_model(dropout=0.2))
        trainer.train()
        return trainer.model.state_dict()

    assert_equal_tensors(run(), run())


@pytest.mark.parametrize("full_eval", [False, True])
def test_weights_in_bf16_train_and_evaluate(make_trainer, make_model, tmp_path, full_eval):
    make_model().save_pretrained(tmp_path / "model")
    model = MultimodalModel.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    trainer = make_trainer(model, bf16=True, bf16_full_eval=full_eval, num_train_epochs=1)
    trainer.train()
    assert {"eval_image_accuracy", "eval_image_prototype_accuracy"} <= trainer.evaluate().keys()
    assert trainer.prototypes.mean("image").dtype == torch.float32 and trainer.prototypes.seen("image").all()


def test_log_and_metric_keys(make_trainer, digits):
    trainer = make_trainer(num_train_epochs=1, eval_strategy="epoch")
    result = trainer.train()
    train_log = trainer.state.log_history[0]
    terms = ["pce_loss", "entropy", "score", "pce_weight", "per_weight"]
    expected = {"ce_loss", "rho"} | {f"{name}_{term}" for name in ("image", "text") for term in terms}
    assert expected <= train_log.keys()
    metrics = trainer.evaluate(digits.select(range(20)), metric_key_prefix="test")
    assert {
        "test_loss",
        "test_accuracy",
        "test_macro_f1",
        "test_image_accuracy",
        "test_text_accuracy",
        "test_image_prototype_accuracy",
        "test_text_prototype_accuracy",
    } <= metrics.keys()
    evals = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(evals) == 1 and not expected & evals[0].keys()
    assert "train_loss" in result.metrics and not expected & result.metrics.keys()


def test_metrics_equal_a_forward_over_all_rows(make_trainer, digits):
    trainer = make_trainer(num_train_epochs=1)
    trainer.train()
    output = trainer.predict(digits.select(range(21)))  # the last batch is smaller
    batch = batch_of(trainer, range(21))
    trainer.model.eval()
    with torch.no_grad():
        expected = trainer.model(**batch)
        prototype_logits = trainer.prototypes(expected.embeddings)
        slices = trainer.model.modality_logits(expected.embeddings)
    assert isinstance(output.predictions, np.ndarray)
    np.testing.assert_allclose(output.predictions, expected.logits, atol=1e-5)

    def accuracy(logits):
        return (logits.argmax(1) == batch["labels"]).float().mean().item()

    assert output.metrics["test_accuracy"] == pytest.approx(accuracy(expected.logits))
    for name in ("image", "text"):
        assert output.metrics[f"test_{name}_prototype_accuracy"] == pytest.approx(accuracy(prototype_logits[name]))
        assert output.metrics[f"test_{name}_accuracy"] == pytest.approx(accuracy(slices[name]))


def test_a_head_that_does_not_split_reports_no_modality_as_the_fused_one(make_trainer, make_model):
    trainer = make_trainer(make_model(fusion="gated"), num_train_epochs=1)
    trainer.train()
    metrics = trainer.evaluate()
    assert "eval_image_accuracy" not in metrics and "eval_image_prototype_accuracy" in metrics


def test_a_users_metrics_and_preprocessing_see_the_fused_logits(make_trainer):
    trainer = make_trainer(
        num_train_epochs=1,
        trainer_kwargs={
            "compute_metrics": lambda prediction: {"shape": list(prediction.predictions.shape)},
            "preprocess_logits_for_metrics": lambda logits, labels: logits.argmax(-1),
        },
    )
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_shape"] == [64] and "eval_accuracy" not in metrics
    assert "eval_image_prototype_accuracy" in metrics


def test_predict_without_labels(make_trainer, digits, processor):
    from pmr_hf import MultimodalCollator

    trainer = make_trainer(num_train_epochs=1)
    trainer.data_collator = MultimodalCollator(processor, {"image": "picture", "text": "caption"}, label=None)
    output = trainer.predict(digits.remove_columns("label"))
    assert output.predictions.shape == (64, NUM_LABELS) and output.label_ids is None


@pytest.mark.slow
def test_compiled_training_is_uncompiled_training(make_trainer, make_model, tmp_path):
    settings = {"num_train_epochs": 2, "eval_strategy": "epoch", "optim": "sgd"}
    eager = make_trainer(make_model(), **settings)
    eager.train()
    compiled = make_trainer(make_model(), torch_compile=True, torch_compile_backend="aot_eager", **settings)
    compiled.train()
    assert isinstance(compiled.model_wrapped, torch._dynamo.OptimizedModule)
    for (name, a), b in zip(eager.model.state_dict().items(), compiled.model.state_dict().values(), strict=True):
        torch.testing.assert_close(a.float(), b.float(), atol=1e-5, rtol=1e-4, msg=name)
    for a, b in zip(eager.state.log_history, compiled.state.log_history, strict=True):
        assert a.keys() == b.keys()
        assert a.get("rho", 0) == pytest.approx(b.get("rho", 0), rel=1e-3)
    compiled.save_model(str(tmp_path / "saved"))
    loaded = MultimodalModel.from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded.prototypes.mean("image"), compiled.prototypes.mean("image"))


def test_length_grouped_sampling(make_trainer, digits):
    with pytest.raises(ValueError, match="a column 'length' to sample by"):
        make_trainer(train_sampling_strategy="group_by_length")
    lengths = [len(caption.split()) + i % 7 for i, caption in enumerate(digits["caption"])]
    rows, seen = digits.add_column("length", lengths), []
    with pytest.raises(ValueError, match=r"the evaluation set to be a `datasets\.Dataset` with a column 'length'"):
        make_trainer(train_dataset=rows, train_sampling_strategy="group_by_length")
    trainer = make_trainer(
        train_dataset=rows,
        eval_dataset=rows,
        train_sampling_strategy="group_by_length",
        prototype_source="online",
        num_train_epochs=1,
    )
    collate = trainer.data_collator
    trainer.data_collator = lambda rows: seen.append([row["length"] for row in rows]) or collate(rows)
    trainer.train()
    assert all(batch == sorted(batch, reverse=True) for batch in seen) and len(seen) == 8
    assert trainer.prototypes.count("text").sum() == 64
    with pytest.raises(ValueError, match=r"the evaluation set to be a `datasets\.Dataset` with a column 'length'"):
        trainer.evaluate(digits)


@pytest.mark.parametrize("cls", [MultimodalTrainer, PMRTrainer])
def test_a_frozen_encoder_does_not_move_and_the_rest_does(make_trainer, cls):
    trainer = make_trainer(cls=cls, freeze=["text"], num_train_epochs=1)
    before = snapshot(trainer.model)
    trainer.train()
    moved = changed(before, trainer.model)
    assert not any(name.startswith("backbones.text") for name in moved)
    assert any(name.startswith("backbones.image") for name in moved) and "fusion.classifier.weight" in moved


def test_freezing_works_with_model_init(make_args, make_model, digits, collator):
    trainer = MultimodalTrainer(
        model_init=lambda: make_model(),
        args=make_args(MultimodalTrainer.args_class, freeze=["image"], num_train_epochs=1),
        train_dataset=digits,
        data_collator=collator,
    )
    trainer.train()
    assert not any(p.requires_grad for p in trainer.model.backbones["image"].parameters())
    fresh = make_model()
    assert torch.equal(
        trainer.model.backbones["image"].embeddings.cls_token, fresh.backbones["image"].embeddings.cls_token
    )
