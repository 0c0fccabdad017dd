"""One temperature: fitted, saved with the model, and applied by the pipeline and the exported model."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Value
from helpers.digits import take_prototypes

from pmr_hf import ExportableModel, MultimodalCollator, MultimodalConfig, MultimodalPipeline, PMRTrainer
from pmr_hf.inference.calibration import expected_calibration_error, fit_temperature, nll, reliability_bins


SINGLE, MULTI = "single_label_classification", "multi_label_classification"


def drawn(problem, rows=4000, seed=0):
    """Logits, and labels that are drawn with their probabilities."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, 3, generator=generator)
    if problem == SINGLE:
        return logits, torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return logits, torch.bernoulli(logits.sigmoid(), generator=generator)


@pytest.mark.parametrize("problem", [SINGLE, MULTI])
def test_five_times_too_sure(problem):
    logits, labels = drawn(problem)
    others, their_labels = drawn(problem, seed=1)
    found = fit_temperature(problem, 5 * logits, labels)
    assert found == pytest.approx(5, rel=0.05) and found == fit_temperature(problem, 5 * logits, labels)
    assert nll(problem, 5 * others / found, their_labels) < nll(problem, 5 * others, their_labels)
    best = nll(problem, 5 * logits.double() / found, labels)
    for other in (0.99 * found, 1.01 * found):
        assert nll(problem, 5 * logits.double() / other, labels) > best
    assert fit_temperature(problem, logits / 5, labels) == pytest.approx(found / 25, rel=1e-4)


def test_what_no_temperature_fits():
    logits, labels = drawn(SINGLE, 50)
    with pytest.raises(ValueError, match="the model makes no mistake on these 50 rows"):
        fit_temperature(SINGLE, logits, logits.argmax(1))
    with pytest.raises(ValueError, match="knows nothing of these 50 rows"):
        fit_temperature(SINGLE, logits, logits.argmin(1))
    with pytest.raises(ValueError, match=r"Expected labelled rows .*, got none"):
        fit_temperature(SINGLE, logits[:0], labels[:0])
    with pytest.raises(ValueError, match="got a regression, which has no probabilities"):
        fit_temperature("regression", logits, logits)
    unseen = torch.cat([logits, torch.full((50, 1), -torch.inf)], 1)
    labels_with_unseen = torch.cat([labels, torch.tensor([3])])
    found = fit_temperature(SINGLE, torch.cat([unseen, unseen[:1]]), labels_with_unseen)
    assert found == pytest.approx(fit_temperature(SINGLE, logits, labels))


def test_the_error_is_that_of_a_loop_and_of_a_sum_by_hand():
    # Two bins: [0, 0.5] has confidences 0.2, 0.4 and one right; (0.5, 1] has 0.9 and none right.
    bins = reliability_bins(np.array([0.2, 0.4, 0.9]), np.array([1, 0, 0]), bins=2)
    assert bins == [(2, pytest.approx(0.3), 0.5), (1, 0.9, 0.0)]
    assert expected_calibration_error(bins) == pytest.approx((2 * 0.2 + 1 * 0.9) / 3)
    generator = np.random.default_rng(0)
    confidences = np.concatenate([generator.random(200), [0.0, 1.0, 0.5]])
    right = generator.random(203) < confidences**2
    total = 0.0
    for b in range(15):
        inside = [i for i, p in enumerate(confidences) if b / 15 < p <= (b + 1) / 15 or (p == 0 and b == 0)]
        if inside:
            accuracy = sum(bool(right[i]) for i in inside) / len(inside)
            confidence = sum(confidences[i] for i in inside) / len(inside)
            total += len(inside) / 203 * abs(accuracy - confidence)
    assert expected_calibration_error(reliability_bins(confidences, right)) == pytest.approx(total)


@pytest.fixture(params=["head", "prototypes"])
def pipe(request, make_model, processor, digits):
    """A model whose head was fitted to twenty rows, which is too sure of the others."""
    model, few = make_model(answer=request.param).eval(), digits.select(range(20))
    take_prototypes(model, processor, few)
    inputs = processor(image=few[:]["picture"], text=few[:]["caption"])
    optimizer = torch.optim.Adam(model.fusion.parameters(), 0.1)
    for _ in range(60):
        optimizer.zero_grad()
        model.loss_of(model.fuse_by_head(model(**inputs).embeddings), torch.tensor(few[:]["label"])).backward()
        optimizer.step()
    return MultimodalPipeline(model, processor, batch_size=8)


def scores(pipe, **values):
    return {entry["label"]: entry["score"] for entry in pipe(**values)}


def test_the_pipeline_divides_and_a_saved_model_keeps_it(pipe, digits, collator, tmp_path):
    row = {"image": digits[3]["picture"], "text": digits[3]["caption"]}
    before, alone = pipe(**row), pipe(**row, explain=True)["modalities"]["text"]["labels"]
    incomplete = pipe(text=row["text"])
    found = pipe.calibrate(digits, collator)
    assert found != 1 and pipe.model.config.calibration_temperature == found
    with torch.no_grad():
        logits = pipe.model(**pipe.processor(image=[row["image"]], text=[row["text"]])).logits[0]
    expected = (logits / found).softmax(0)
    for k in range(4):
        assert scores(pipe, **row)[f"LABEL_{k}"] == pytest.approx(expected[k].item(), abs=1e-6)
    assert [entry["label"] for entry in pipe(**row)] == [entry["label"] for entry in before] and pipe(**row) != before
    assert pipe(**row, explain=True)["modalities"]["text"]["labels"] == alone
    # The product of prototype classifiers has no temperature, unless prototypes always answer.
    assert (pipe(text=row["text"]) == incomplete) == (pipe.model.config.answer == "head")
    pipe.model.save_pretrained(tmp_path)
    pipe.processor.save_pretrained(tmp_path)
    loaded = MultimodalPipeline(tmp_path)
    assert loaded.model.config.calibration_temperature == found
    assert scores(loaded, **row) == pytest.approx(scores(pipe, **row), abs=1e-6)
    # A config from before the field
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("calibration_temperature") == found
    (tmp_path / "config.json").write_text(json.dumps(config))
    old = MultimodalPipeline(tmp_path)
    assert old.model.config.calibration_temperature == 1.0
    expected = {entry["label"]: entry["score"] for entry in before}
    assert scores(old, **row) == pytest.approx(expected, abs=1e-6)
    assert scores(pipe, **row) != pytest.approx(expected, abs=1e-3)


def test_training_sets_the_temperature_to_one(make_trainer, make_model):
    model = make_model(calibration_temperature=2.0)
    make_trainer(model, max_steps=1).train()
    assert model.config.calibration_temperature == 1


def test_rows_may_be_a_data_frame_and_need_labels(pipe, digits, collator, processor):
    rows = [{**row, "label": int(row["label"])} for row in digits]
    expected = pipe.calibrate(digits, collator)
    assert pipe.calibrate(pd.DataFrame(rows), collator) == expected
    unlabelled = MultimodalCollator(processor, collator.columns, label=None)
    with pytest.raises(ValueError, match=r"Expected batches with labels, got \['image', 'text'\]"):
        pipe.calibrate(digits, unlabelled)
    with pytest.raises(TypeError, match=r"got a PMRTrainer; give the model of a trainer as `trainer\.model`"):
        MultimodalPipeline(object.__new__(PMRTrainer), processor)
    pipe.model.config.calibration_temperature = 1.0


def test_a_temperature_of_one_changes_no_bit(pipe, digits):
    row = {"image": digits[3]["picture"], "text": digits[3]["caption"]}
    with torch.inference_mode():
        logits = pipe.model(**pipe.processor(image=[row["image"]], text=[row["text"]])).logits[0].float()
    assert [entry["score"] for entry in pipe(**row)] == logits.softmax(0).sort(descending=True).values.tolist()


def test_rows_that_the_temperature_does_not_change_are_left_out(pipe, processor, digits):
    rows = digits.map(lambda row, i: {"caption": "" if i % 2 else row["caption"]}, with_indices=True)
    collator = MultimodalCollator(processor, {"image": "picture", "text": "caption"})
    found = pipe.calibrate(rows, collator)
    whole = pipe.calibrate(rows.select(range(0, 64, 2)), collator)
    assert (found == pytest.approx(whole)) == (pipe.model.config.answer == "head")


def test_the_exported_model_divides(pipe, digits):
    rows = digits[:4]
    inputs = pipe.processor(image=rows["picture"], text=rows["caption"])
    flat = ExportableModel(pipe.model, inputs)
    with torch.no_grad():
        before = flat(*flat.arguments(inputs))
        pipe.model.config.calibration_temperature = 2.5
        program = torch.export.export(flat, flat.arguments(inputs), dynamic_shapes=flat.dynamic_shapes)
        after = program.module()(*flat.arguments(inputs))
    torch.testing.assert_close(after, before / 2.5)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), True, "2", None])
def test_a_temperature_that_the_config_refuses(value):
    with pytest.raises(ValueError, match="Expected `calibration_temperature` to be a finite number above 0"):
        MultimodalConfig(calibration_temperature=value)


def test_a_regression_has_none(make_model, processor, digits, collator):
    with pytest.raises(ValueError, match="with `problem_type='regression'`"):
        MultimodalConfig(problem_type="regression", calibration_temperature=2.0)
    model = make_model(num_labels=1, problem_type="regression")
    rows = digits.cast_column("label", Value("float32"))
    collator = MultimodalCollator(processor, collator.columns, problem_type="regression")
    with pytest.raises(ValueError, match="got a regression"):
        MultimodalPipeline(model, processor).calibrate(rows, collator)
