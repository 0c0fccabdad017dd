"""Samples that lack a modality: the batch, the model, the terms, the metrics and training."""

import pytest
import torch
from helpers.oracle import prototypes
from torch.nn import functional as F

from pmr_hf import MultimodalModel, PMRTrainer
from pmr_hf.model.missing_modalities import drop_modalities


@pytest.fixture
def holes(digits):
    """The digits; rows 0, 3, 6, ... lack the picture, and rows 1, 4, 7, ... the caption."""
    rows = digits.to_list()
    pictures = digits["picture"]
    return [
        {
            "picture": None if i % 3 == 0 else pictures[i],
            "caption": ("", None)[i % 2] if i % 3 == 1 else row["caption"],
            "label": row["label"],
        }
        for i, row in enumerate(rows)
    ]


def test_the_collator_says_what_is_there(collator, holes):
    batch = collator(holes[:7])
    assert batch["image"]["present"].tolist() == [i % 3 != 0 for i in range(7)]
    assert batch["text"]["present"].tolist() == [i % 3 != 1 for i in range(7)]
    assert all(len(value) == 7 for inputs in (batch["image"], batch["text"]) for value in inputs.values())
    complete = collator([row for row in holes if row["picture"] and row["caption"]])
    assert "present" not in complete["image"] and "present" not in complete["text"]
    alone = collator([holes[1], holes[4]])  # no sample has a caption
    assert list(alone["text"]) == ["present"] and not alone["text"]["present"].any()


@pytest.mark.parametrize("fusion", ["concat", "film"])
def test_an_absent_embedding_is_replaced_by_the_learned_vector(make_model, collator, holes, fusion):
    model = make_model(fusion=fusion, embedding_dim=6).eval()
    torch.nn.init.normal_(model.absent["image"])
    torch.nn.init.normal_(model.absent["text"])
    output = model(**collator(holes[:6]))
    for i, row in enumerate(holes[:6]):
        embeddings = {name: vector[None].clone() for name, vector in model.absent.items()}
        for name, column in (("image", "picture"), ("text", "caption")):
            if row[column]:
                inputs = collator.processor(**{name: [row[column]]})
                alone = model(**inputs)
                torch.testing.assert_close(alone.embeddings[name][0], output.embeddings[name][i])
                embeddings[name] = model.projections[name](alone.embeddings[name])
            else:
                assert not output.embeddings[name][i].any()
        torch.testing.assert_close(model.fusion(embeddings)[0], output.logits[i])
        # leaving the modality out gives the same
        given = {n: [row[c]] for n, c in (("image", "picture"), ("text", "caption")) if row[c]}
        torch.testing.assert_close(model(**collator.processor(**given)).logits[0], output.logits[i])


def test_prototypes_scores_and_terms_skip_what_is_absent(make_trainer, holes):
    trainer = make_trainer(train_dataset=holes, eval_dataset=holes, prototype_fraction=1.0)
    trainer.refresh_prototypes(momentum=0.0)
    model, collate = trainer.model.eval(), trainer.data_collator
    for name, column in (("image", "picture"), ("text", "caption")):
        rows = [row for row in holes if row[column]]
        labels = [row["label"] for row in rows]
        embeddings = model(**collate.processor(**{name: [row[column] for row in rows]})).embeddings[name]
        expected = prototypes(embeddings.tolist(), labels, 4)
        torch.testing.assert_close(trainer.prototypes.mean(name), torch.tensor(expected), rtol=1e-4, atol=1e-5)
        assert trainer.prototypes.count(name).tolist() == [labels.count(k) for k in range(4)]

    batch = collate(holes[:16])
    output = model(**batch)
    terms = trainer.prototype_terms(output.embeddings, batch["labels"], output.present)
    loss = trainer.method_loss(torch.tensor(0.0), terms, output, batch["labels"])
    pce, entropy, score = {}, {}, {}
    for name, logits in trainer.prototypes(output.embeddings).items():
        has = batch[name]["present"]
        probabilities = logits[has].softmax(1)
        own = probabilities[torch.arange(has.sum()), batch["labels"][has]]
        pce[name], score[name] = -own.log().mean(), own.mean()
        entropy[name] = -(probabilities * probabilities.log()).sum(1).mean()
    slow, fast = sorted(score, key=score.get)
    weight = (score[fast] / score[slow] - 1).clamp(0, 1)
    assert weight > 0
    expected = trainer.args.pmr_alpha * weight * pce[slow] - trainer.args.pmr_mu * weight * entropy[fast]
    torch.testing.assert_close(loss, expected)


def test_metrics_of_a_modality_are_over_the_samples_that_have_it(make_trainer, holes):
    trainer = make_trainer(train_dataset=holes, eval_dataset=holes, prototype_fraction=1.0)
    trainer.train()
    metrics = trainer.evaluate()
    model = trainer.model.eval()
    for name, column in (("image", "picture"), ("text", "caption")):
        rows = [row for row in holes if row[column]]
        output = model(**trainer.data_collator.processor(**{name: [row[column] for row in rows]}))
        guesses = model.prototypes(output.embeddings)[name].argmax(1).tolist()
        right = sum(guess == row["label"] for guess, row in zip(guesses, rows, strict=True))
        assert metrics[f"eval_{name}_prototype_accuracy"] == pytest.approx(right / len(rows))


def test_a_run_without_any_sample_of_a_modality(make_trainer, digits):
    rows = [{**row, "picture": row["picture"], "caption": None} for row in digits]
    trainer = make_trainer(train_dataset=rows, eval_dataset=rows)
    before = {name: parameter.clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("backbones.text"))
    assert not torch.equal(before["absent.text"], after["absent.text"])
    assert not trainer.prototypes.seen("text").any() and trainer.prototypes.seen("image").any()
    metrics = trainer.evaluate()
    assert "eval_image_prototype_accuracy" in metrics and "eval_text_prototype_accuracy" not in metrics
    entry = next(entry for entry in trainer.state.log_history if "ce_loss" in entry)
    assert "image_score" in entry and "text_score" not in entry and "rho" not in entry


def test_modality_dropout(make_model, collator, digits):
    torch.manual_seed(0)
    present = {"image": torch.ones(4000, dtype=torch.bool), "text": torch.arange(4000) % 2 == 0}
    dropped = drop_modalities(present, 0.3)
    assert (dropped["image"] | dropped["text"]).all() and not (dropped["text"] & ~present["text"]).any()
    assert dropped["image"][1::2].all()  # the only modality of these samples
    # dropping both (probability 0.09) keeps both
    assert dropped["image"][::2].float().mean().item() == pytest.approx(0.7 + 0.09, abs=0.03)
    model = make_model(modality_dropout=0.5)
    batch = collator([digits[i] for i in range(16)])
    torch.manual_seed(1)
    output = model.train()(**batch)
    assert not output.present["image"].all() and not output.present["text"].all()
    mixed = torch.where(output.present["image"][:, None], output.embeddings["image"], 0)
    text = torch.where(output.present["text"][:, None], output.embeddings["text"], 0)
    torch.testing.assert_close(output.logits, model.fusion({"image": mixed, "text": text}))
    assert model.eval()(**batch).present is None


def test_batch_norm_sees_only_the_samples_that_are_there(digits):
    from pmr_hf import CGMNISTConfig

    model = MultimodalModel.from_backbones({"image": CGMNISTConfig(num_channels=1)}, num_labels=4).train()
    pixels = torch.randn(6, 1, 8, 8)
    present = torch.tensor([True, False, True, True, False, True])
    model(image={"pixel_values": pixels, "present": present})
    norm = model.backbones["image"].norm
    torch.testing.assert_close(norm.running_mean, 0.1 * pixels[present].mean().reshape(1))


def test_training_with_missing_modalities_equals_a_loop_by_hand(make_trainer, make_model, holes, collator):
    """One step of SGD with the cross entropy alone: samples without a modality train the learned vector."""
    kwargs = {"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "num_train_epochs": 1}
    trainer = make_trainer(train_dataset=holes[:8], pmr_alpha=0.0, pmr_mu=0.0, learning_rate=0.1, **kwargs)
    assert isinstance(trainer, PMRTrainer)
    trainer.train()
    model = make_model().train()
    order = [holes[:8][i] for i in next(iter(trainer.get_train_dataloader().batch_sampler))]
    assert {id(row) for row in order} == {id(row) for row in holes[:8]}
    batch = collator(order)
    labels = batch.pop("labels")
    F.cross_entropy(model(**batch).logits, labels).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    for (name, expected), parameter in zip(model.named_parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-4, atol=1e-6, msg=name)
    assert trainer.model.absent["image"].any()
