import inspect
import random

import numpy as np
import pytest
import torch
from conftest import NUM_LABELS, assert_equal
from helpers import oracle
from PIL import Image as PILImage
from torch.utils.data import Dataset as TorchDataset
from transformers import (
    BertConfig,
    CLIPConfig,
    CLIPModel,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

from pmr_hf import MultimodalModel, MultimodalTrainer, PMRTrainer, PrototypeTrainer, attach_prototypes, load_prototypes


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items() if not name.startswith("prototypes.")}


def batch_of(trainer, rows):
    return trainer.data_collator([trainer.train_dataset[i] for i in rows])


def oracle_inputs(trainer, outputs):
    """Embeddings and prototypes of each modality as the nested lists that the oracle takes."""
    names = list(trainer.prototypes.widths)
    embeddings = [outputs.embeddings[name].tolist() for name in names]
    prototypes = [
        [
            row if seen else None
            for row, seen in zip(
                *[t.tolist() for t in (trainer.prototypes.mean(n), trainer.prototypes.seen(n))], strict=True
            )
        ]
        for n in names
    ]
    return embeddings, prototypes


THREE = {
    name: BertConfig(
        vocab_size=16, hidden_size=8 + 4 * i, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    for i, name in enumerate(["image", "text", "audio"])
}


@pytest.fixture
def random_batch():
    """A batch of token ids for the three text encoders of `THREE`."""
    generator = torch.Generator().manual_seed(0)
    batch = {name: {"input_ids": torch.randint(0, 16, (12, 5), generator=generator)} for name in THREE}
    return batch | {"labels": torch.arange(12) % NUM_LABELS}


# ---- The loss ----


@pytest.mark.parametrize("mode", ["clip", "hard"])
@pytest.mark.parametrize(("epoch", "active"), [(0.0, True), (1.99, True), (2.0, False)])
def test_loss_equals_the_oracle_end_to_end(make_trainer, mode, epoch, active):
    trainer = make_trainer(
        pmr_alpha=1.5, pmr_mu=0.7, pmr_weights=mode, pmr_entropy_epochs=2, prototype_fraction=0.5, num_train_epochs=1
    )
    trainer.train()
    trainer.state.epoch = epoch
    inputs = batch_of(trainer, range(16))
    trainer.model.train()
    loss, outputs = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
    embeddings, prototypes = oracle_inputs(trainer, outputs)
    expected = oracle.rebalance_loss(
        embeddings, prototypes, inputs["labels"].tolist(), 1.5, 0.7, entropy_active=active, hard=mode == "hard"
    )
    assert abs(expected) > 1e-3
    cross_entropy = torch.nn.functional.cross_entropy(outputs.logits, inputs["labels"])
    assert loss.item() == pytest.approx(cross_entropy.item() + expected, abs=1e-5)
    trainer.args.pmr_epochs = 1.5
    loss = trainer.compute_loss(trainer.model, inputs).item()
    assert loss == pytest.approx(cross_entropy.item() + (expected if epoch < 1.5 else 0), abs=1e-5)


def test_loss_of_three_modalities_and_an_unseen_class(make_args, make_model, random_batch):
    trainer = PMRTrainer(model=make_model(backbones=THREE), args=make_args(pmr_mu=0.5))
    generator = torch.Generator().manual_seed(1)
    for i, name in enumerate(THREE):
        trainer.prototypes.mean(name).copy_(
            torch.randn(trainer.prototypes.mean(name).shape, generator=generator) / (i + 1)
        )
        trainer.prototypes.seen(name).copy_(torch.tensor([True, True, True, i == 2]))
    trainer.model.train()
    loss, outputs = trainer.compute_loss(trainer.model, random_batch, return_outputs=True)
    labels = random_batch["labels"].tolist()
    expected = oracle.rebalance_loss(*oracle_inputs(trainer, outputs), labels, 1.0, 0.5)
    assert loss.item() == pytest.approx(outputs.loss.item() + expected, abs=1e-5)
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in trainer.model.parameters())


def test_evaluation_loss_is_the_cross_entropy_alone(make_trainer):
    trainer = make_trainer(num_train_epochs=1)
    trainer.train()
    inputs = batch_of(trainer, range(8))
    trainer.model.eval()
    loss, outputs = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
    assert torch.equal(loss, outputs.loss)


def test_every_trainable_parameter_moves(make_trainer):
    trainer = make_trainer(num_train_epochs=2)
    before = {name: parameter.clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    still = [name for name, parameter in trainer.model.named_parameters() if torch.equal(parameter, before[name])]
    still = [name for name in still if not name.startswith("absent.")]  # no sample lacks a modality here
    # A key's bias adds the same to all of a query's scores: softmax gives it no gradient, in plain training neither.
    assert all(name.endswith(("key.bias", "k_proj.bias")) for name in still), still


def test_without_its_terms_pmr_is_plain_trainer_to_the_bit(make_trainer, make_model, make_args, digits, collator):
    """With dropout, so that a random number drawn by the refresh would show."""
    plain = Trainer(
        model=make_model(dropout=0.2),
        args=make_args(TrainingArguments, remove_unused_columns=False),
        train_dataset=digits,
        data_collator=collator,
    )
    plain.train()
    for without in ({"pmr_alpha": 0.0, "pmr_mu": 0.0}, {"pmr_epochs": 0.0}):
        trainer = make_trainer(make_model(dropout=0.2), **without)
        trainer.train()
        assert_equal(weights(trainer.model), weights(plain.model))
        assert trainer.prototypes.seen("image").all()
    for cls in (MultimodalTrainer, PrototypeTrainer):
        joint = make_trainer(make_model(dropout=0.2), cls=cls)
        joint.train()
        assert_equal(weights(joint.model), weights(plain.model))


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
    assert_equal(weights(trainer.model), weights(plain.model))


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

    assert_equal(run(), run())


def test_bf16_autocast_keeps_the_prototypes_and_their_distances_in_fp32(make_trainer):
    trainer = make_trainer(bf16=True, prototype_fraction=1.0)
    trainer.train()
    assert all(log[f"{name}_pce_loss"] > 0 for log in trainer.state.log_history[:-1] for name in ("image", "text"))
    for name, means in class_means(trainer, range(64)).items():
        assert trainer.prototypes.mean(name).dtype == torch.float32
        torch.testing.assert_close(trainer.prototypes.mean(name), torch.tensor(means), atol=2e-2, rtol=2e-2)
    inputs = batch_of(trainer, range(16))
    trainer.model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, outputs = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
    embeddings, prototypes = oracle_inputs(trainer, outputs)
    expected = oracle.rebalance_loss(embeddings, prototypes, inputs["labels"].tolist(), 1.0, 0.01)
    assert loss.item() == pytest.approx(outputs.loss.item() + expected, abs=1e-5)


@pytest.mark.parametrize("full_eval", [False, True])
def test_weights_in_bf16_train_and_evaluate(make_trainer, make_model, tmp_path, full_eval):
    make_model().save_pretrained(tmp_path / "model")
    model = MultimodalModel.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    trainer = make_trainer(model, bf16=True, bf16_full_eval=full_eval, num_train_epochs=1)
    trainer.train()
    assert {"eval_image_accuracy", "eval_image_prototype_accuracy"} <= trainer.evaluate().keys()
    assert trainer.prototypes.mean("image").dtype == torch.float32 and trainer.prototypes.seen("image").all()


# ---- Gradient accumulation ----


@pytest.mark.parametrize("forced", [None, ([0.0, 0.8], [0.8, 0.0])], ids=["alpha = mu = 0", "forced weights"])
@pytest.mark.parametrize("own_loss", [False, True], ids=["model's loss", "compute_loss_func"])
def test_accumulation_equals_a_large_batch(make_trainer, digits, monkeypatch, forced, own_loss):
    """Batch 2 x accumulation 4 against 8 x 1, with weights that do not depend on the batch."""
    if forced is not None:
        pair = tuple(map(torch.tensor, forced))
        monkeypatch.setattr("pmr_hf.training.prototype_trainer.rebalance_weights", lambda scores, present: pair)
    strength = 0.0 if forced is None else 1.0

    def sum_loss(outputs, labels, num_items_in_batch=None):
        return torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch

    def train(batch_size, accumulation):
        trainer = make_trainer(
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            pmr_alpha=strength,
            pmr_mu=strength,
            prototype_fraction=1.0,
            optim="sgd",
            trainer_kwargs={"compute_loss_func": sum_loss} if own_loss else {},
        )
        trainer.train()
        return trainer

    small, large = train(2, 4), train(8, 1)
    assert small.state.global_step == large.state.global_step == 16
    for name, value in weights(large.model).items():
        torch.testing.assert_close(weights(small.model)[name], value, atol=1e-4, rtol=1e-4)
    for key in ("loss", "ce_loss", "image_pce_loss", "text_entropy", "image_score"):
        assert small.state.log_history[0][key] == pytest.approx(large.state.log_history[0][key], abs=1e-4), key


def test_live_weights_are_those_of_each_micro_batch(make_trainer):
    """The logged weights of one step over two micro-batches are the mean of the oracle's for each of them."""
    trainer = make_trainer(gradient_accumulation_steps=2, num_train_epochs=1, max_steps=1, prototype_fraction=1.0)
    seen = []
    compute_loss = trainer.compute_loss

    def watch(model, inputs, **kwargs):
        loss, outputs = compute_loss(model, inputs, return_outputs=True)
        if model.training:
            seen.append((*oracle_inputs(trainer, outputs), inputs["labels"].tolist()))
        return loss

    trainer.compute_loss = watch
    trainer.train()
    assert len(seen) == 2
    log = trainer.state.log_history[0]
    scores = [[oracle.score(z, c, labels) for z, c in zip(zs, cs, strict=True)] for zs, cs, labels in seen]
    pce = np.mean([oracle.weights(pair)[0] for pair in scores], axis=0)
    per = np.mean([oracle.weights(pair)[1] for pair in scores], axis=0)
    assert pce.max() > 0
    assert [log["image_pce_weight"], log["text_pce_weight"]] == pytest.approx(pce.tolist(), abs=1e-5)
    assert [log["image_per_weight"], log["text_per_weight"]] == pytest.approx(per.tolist(), abs=1e-5)
    # rho is Eq. 8 of the window's sums, not a mean of ratios
    sums = np.sum(scores, axis=0)
    assert log["rho"] == pytest.approx(sums[0] / sums[1], abs=1e-5)
    assert [log["image_score"], log["text_score"]] == pytest.approx((sums / 2).tolist(), abs=1e-5)
    for i, name in enumerate(["image", "text"]):
        pces = [oracle.cross_entropy(zs[i], cs[i], labels) for zs, cs, labels in seen]
        entropies = [oracle.entropy(zs[i], cs[i], labels) for zs, cs, labels in seen]
        assert log[f"{name}_pce_loss"] == pytest.approx(np.mean(pces), abs=1e-5)
        assert log[f"{name}_entropy"] == pytest.approx(np.mean(entropies), abs=1e-5)


# ---- Logs and metrics ----


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


def test_no_prototype_accuracy_before_there_are_prototypes(make_trainer):
    assert "eval_image_prototype_accuracy" not in make_trainer().evaluate()


# ---- Prototypes ----


def class_means(trainer, rows):
    trainer.model.eval()
    batch = batch_of(trainer, rows)
    with torch.no_grad():
        embeddings = trainer.model(**batch).embeddings
    return {
        name: oracle.prototypes(values.tolist(), batch["labels"].tolist(), NUM_LABELS)
        for name, values in embeddings.items()
    }


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


def test_saved_prototypes_belong_to_the_saved_encoders(make_trainer, tmp_path):
    from transformers import AutoModel

    trainer = make_trainer(prototype_fraction=1.0, prototype_momentum=0.9)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    for name, means in class_means(trainer, range(64)).items():
        torch.testing.assert_close(trainer.prototypes.mean(name), torch.tensor(means), atol=1e-5, rtol=1e-5)
    loaded = AutoModel.from_pretrained(tmp_path / "saved")
    assert_equal(trainer.model.state_dict(), loaded.state_dict())


class Watched(TorchDataset):
    """The digits with random noise in every item, from all three global generators; notes which rows are read."""

    def __init__(self, rows):
        self.rows, self.read = rows, []

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        self.read.append(i)
        noise = random.random() + np.random.rand() + torch.rand(()).item()
        picture = np.asarray(self.rows[i]["picture"]).clip(max=230) + int(8 * noise)
        return {**self.rows[i], "picture": PILImage.fromarray(picture.astype(np.uint8))}


def test_the_subset_is_drawn_from_seed_and_epoch(make_trainer, digits):
    data = Watched(digits)
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
    trainer = make_trainer(train_dataset=Watched(digits))
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
        train_dataset=Watched(digits),
        data_collator=collator,
    )
    plain.train()
    trainer = make_trainer(train_dataset=Watched(digits), pmr_alpha=0.0, pmr_mu=0.0)
    trainer.train()
    assert_equal(weights(trainer.model), weights(plain.model))


def test_classes_without_a_prototype_are_named(make_trainer, digits, monkeypatch):
    messages = []
    monkeypatch.setattr("pmr_hf.training.prototype_trainer.logger.warning", messages.append)
    trainer = make_trainer(train_dataset=digits.filter(lambda label: label != 2, input_columns="label"))
    trainer.args.prototype_fraction = 1.0
    trainer.refresh_prototypes()
    assert [message.split(" yet")[0] for message in messages] == [
        f"Classes [2] have no prototype of {name!r}" for name in ("image", "text")
    ]
    trainer.refresh_prototypes()  # nothing new
    assert len(messages) == 2


def test_prototypes_never_see_evaluation_data(make_trainer, digits):
    train, held_out = Watched(digits.select(range(40))), Watched(digits.select(range(40, 64)))
    trainer = make_trainer(train_dataset=train, eval_dataset=held_out, prototype_fraction=1.0)
    trainer.train()
    assert not held_out.read
    assert trainer.prototypes.count("image").sum() == 40


# ---- Foreign models ----


class CLIPCollator:
    """Rows to the flat batch that `CLIPModel` takes."""

    def __init__(self, processor):
        self.processor = processor

    def __call__(self, rows):
        batch = self.processor(image=[row["picture"] for row in rows], text=[row["caption"] for row in rows])
        labels = torch.tensor([row["label"] for row in rows])
        return {**batch["image"], **batch["text"], "labels": labels, "return_loss": True}


def tiny_clip():
    set_seed(0)
    text = {
        "vocab_size": 16,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    vision = {"image_size": 8, "patch_size": 4, "num_channels": 1, "hidden_size": 16, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "intermediate_size": 8}
    config = CLIPConfig(text_config=text | {"eos_token_id": 0}, vision_config=vision, projection_dim=8)
    return CLIPModel(config)


def clip_embeddings(output):
    return {"image": output.image_embeds, "text": output.text_embeds}


def test_a_foreign_model_trains_saves_and_resumes(make_args, digits, processor, tmp_path):
    def trainer_of(model, **kwargs):
        attach_prototypes(model, {"image": 8, "text": 8}, num_labels=NUM_LABELS)
        return PMRTrainer(
            model=model,
            args=make_args(**{"prototype_fraction": 1.0, "save_strategy": "epoch", **kwargs}),
            embeddings_fn=clip_embeddings,
            train_dataset=digits,
            eval_dataset=digits,
            data_collator=CLIPCollator(processor),
        )

    trainer = trainer_of(tiny_clip())
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_image_prototype_accuracy"] > 0 and "eval_accuracy" not in metrics
    log = trainer.state.log_history[8]
    inputs = batch_of(trainer, range(16))
    trainer.model.train()
    loss, outputs = trainer.compute_loss(trainer.model, dict(inputs), return_outputs=True)
    assert log["rho"] > 0 and loss.item() != pytest.approx(outputs.loss.item())

    trainer.save_model(str(tmp_path / "clip"))
    loaded = CLIPModel.from_pretrained(tmp_path / "clip")
    attach_prototypes(loaded, {"image": 8, "text": 8}, num_labels=NUM_LABELS)
    load_prototypes(loaded, tmp_path / "clip")
    assert_equal(loaded.state_dict(), trainer.model.state_dict())

    resumed = trainer_of(CLIPModel(tiny_clip().config))
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-8"))
    assert_equal(resumed.model.state_dict(), trainer.model.state_dict())


class ViTCollator(CLIPCollator):
    def __call__(self, rows):
        batch = super().__call__(rows)
        return {"pixel_values": batch["pixel_values"], "labels": batch["labels"], "output_hidden_states": True}


@pytest.mark.parametrize("model_init", [False, True])
def test_a_foreign_vit_resumes_though_its_class_saves_legacy_names(make_args, digits, processor, model_init):
    def model_of(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return new_model()

    def new_model():
        config = ViTConfig(image_size=8, patch_size=4, num_channels=1, hidden_size=16, num_hidden_layers=1)
        config.num_attention_heads, config.num_labels = 2, NUM_LABELS
        model = ViTForImageClassification(config)
        attach_prototypes(model, {"image": 16}, num_labels=NUM_LABELS)
        return model

    def trainer_of(seed):
        return PMRTrainer(
            **({"model_init": lambda: model_of(seed)} if model_init else {"model": model_of(seed)}),
            args=make_args(save_strategy="epoch"),
            embeddings_fn=lambda output: {"image": output.hidden_states[-1][:, 0]},
            train_dataset=digits,
            eval_dataset=digits,
            data_collator=ViTCollator(processor),
        )

    trainer, resumed = trainer_of(0), trainer_of(1)
    trainer.train()
    resumed.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-8")
    assert_equal(resumed.model.state_dict(), trainer.model.state_dict())
    assert "rho" not in trainer.state.log_history[0]  # one modality is in balance with itself
    assert {"eval_accuracy", "eval_image_prototype_accuracy"} <= trainer.evaluate().keys()


def test_a_foreign_model_without_embeddings_fn_is_told_what_to_do(make_args, digits, processor):
    model = tiny_clip()
    attach_prototypes(model, {"image": 8, "text": 8}, num_labels=NUM_LABELS)
    trainer = PMRTrainer(model=model, args=make_args(), train_dataset=digits, data_collator=CLIPCollator(processor))
    with pytest.raises(ValueError, match=r"to have `embeddings`, got .*pass an `embeddings_fn`"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_batch_without_labels(make_trainer, digits, processor):
    from pmr_hf import MultimodalCollator

    trainer = make_trainer()
    trainer.data_collator = MultimodalCollator(processor, {"image": "picture", "text": "caption"}, label=None)
    with pytest.raises(ValueError, match="Expected a batch with `labels`"):
        trainer.train()
    with pytest.raises(ValueError, match="Expected a batch with `labels`"):
        trainer.compute_loss(trainer.model, batch_of(trainer, range(8)))


def test_labels_of_a_users_own_collator(make_args, digits, processor):
    """Nothing is known of its columns, so the first batches of the prototypes are looked at."""
    model = tiny_clip()
    attach_prototypes(model, {"image": 8, "text": 8}, num_labels=NUM_LABELS - 1)
    trainer = PMRTrainer(
        model=model,
        args=make_args(),
        embeddings_fn=clip_embeddings,
        train_dataset=digits,
        data_collator=CLIPCollator(processor),
    )
    with pytest.raises(ValueError, match=r"Expected labels in 0..2, got labels from . to 3"):
        trainer.train()


def test_a_foreign_model_without_prototypes_is_told_what_to_do(make_args, digits):
    with pytest.raises(ValueError, match=r"call `attach_prototypes\(model, widths, num_labels\)`"):
        PMRTrainer(model=tiny_clip(), args=make_args(), embeddings_fn=clip_embeddings, train_dataset=digits)


def test_compute_loss_has_the_signature_of_trainer():
    assert (
        inspect.signature(PMRTrainer.compute_loss).parameters.keys()
        == inspect.signature(Trainer.compute_loss).parameters.keys()
    )
