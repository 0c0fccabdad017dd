"""`evaluate_report` against scikit-learn, a model that is asked row by row, and pages in a browser."""

import json

import numpy as np
import pytest
import torch
from datasets import Value
from helpers.browser import chromium
from helpers.digits import WORDS
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_fscore_support

from pmr_hf import (
    METHODS,
    MultimodalCollator,
    MultimodalPipeline,
    MultimodalProcessor,
    NumericConfig,
    NumericProcessor,
    PrototypeTrainer,
    evaluate_report,
)
from pmr_hf.diagnosis.evaluate import class_scores, confusions


@pytest.fixture
def trained(make_trainer):
    trainer = make_trainer(cls=PrototypeTrainer, num_train_epochs=1)
    trainer.train()
    return trainer


@pytest.fixture
def gaps(digits):
    """The rows, of which some lack a picture or a caption."""
    return digits.select(range(40)).map(
        lambda row, i: {
            "picture": None if i % 4 == 1 else row["picture"],
            "caption": "" if i % 8 == 2 else row["caption"],
        },
        with_indices=True,
    )


def answers(model, processor, rows, some):
    """The classes of rows one by one, from some of the modalities, by the whole model."""
    columns = {"image": "picture", "text": "caption"}
    with torch.no_grad():
        outputs = [model(**processor(**{name: [row[columns[name]]] for name in some})) for row in rows]
    return torch.cat([output.logits for output in outputs])


def test_one_class_against_scikit_learn_and_the_model_row_by_row(trained, gaps, processor):
    report = evaluate_report(trained, gaps)
    model = trained.model.eval()
    names = ["image", "text"]
    logits = answers(model, processor, gaps, names)
    guesses, labels = logits.argmax(1).numpy(), np.array(gaps["label"])
    assert report.rows == 40 and report.metrics["accuracy"] == np.mean(guesses == labels)
    assert report.confusion == confusion_matrix(labels, guesses, labels=range(4)).tolist()
    expected = precision_recall_fscore_support(labels, guesses, labels=range(4), zero_division=0)
    for k, each in enumerate(report.classes):
        found = (each.precision or 0, each.recall or 0, each.f1 or 0, each.rows)
        assert found == pytest.approx([column[k] for column in expected])
    for each in report.sweep:
        has = {"image": [row["picture"] is not None for row in gaps], "text": [row["caption"] != "" for row in gaps]}
        rows = [i for i in range(40) if all(has[name][i] for name in each.modalities)]
        part = gaps.select(rows)
        right = answers(model, processor, part, each.modalities).argmax(1).numpy() == labels[rows]
        assert each.rows == len(rows) and each.score == right.mean()
    assert [each.modalities for each in report.sweep] == [["image", "text"], ["image"], ["text"]]
    evaluated = trained.evaluate(gaps)
    for each in report.modalities:
        assert each.prototypes == pytest.approx(evaluated[f"eval_{each.name}_prototype_accuracy"])
        assert each.alone == report.sweep[1 + names.index(each.name)].score
    # With two modalities, the shares are halves of differences.
    v = {}
    for some in ((), ("image",), ("text",), ("image", "text")):
        masks = {name: torch.tensor([name in some]) for name in names}
        v[some] = []
        for i, row in enumerate(gaps):
            with torch.no_grad():
                output = model(**processor(image=[row["picture"]], text=[row["caption"]]))
                present = {name: masks[name] & output.present[name] for name in names} if output.present else masks
                v[some].append(model.fuse(output.embeddings, present).softmax(1)[0, labels[i]].item())
    mean = {some: np.mean(values) for some, values in v.items()}
    image = (mean["image",] - mean[()] + mean["image", "text"] - mean["text",]) / 2
    assert report.modalities[0].share == pytest.approx(image, abs=1e-5)
    confidences = logits.softmax(1).max(1).values.numpy()
    assert sum(each.samples for each in report.calibration.bins) == 40
    for each in report.calibration.bins:
        inside = (confidences > each.low) & (confidences <= each.high)
        assert each.samples == inside.sum()
    assert report.calibration.nll == pytest.approx(
        torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).item(), abs=1e-5
    )


def test_a_pipeline_answers_as_it_does_and_a_model_in_training_stays_so(trained, gaps, collator, processor):
    pipe = MultimodalPipeline(trained.model, processor, batch_size=8)
    results = pipe(image=gaps["picture"], text=[text or None for text in gaps["caption"]])
    right = [WORDS.index(one[0]["label"]) == label for one, label in zip(results, gaps["label"], strict=True)]
    confidence = np.mean([one[0]["score"] for one in results])
    report = evaluate_report(pipe, gaps, collator)
    assert report.metrics["accuracy"] == np.mean(right)
    bins = report.calibration.bins
    assert sum(each.samples * each.confidence for each in bins) / 40 == pytest.approx(confidence, abs=1e-6)
    pipe.model.config.calibration_temperature = 3.0
    cooler = evaluate_report(pipe, gaps, collator)
    assert cooler.metrics == report.metrics and cooler.calibration.temperature == 3.0
    assert cooler.calibration.nll != report.calibration.nll
    trained.model.train()
    evaluate_report(trained, gaps)
    assert trained.model.training
    with pytest.raises(ValueError, match="Expected a `data_collator` with a pipeline"):
        evaluate_report(pipe, gaps)


@pytest.mark.parametrize("problem_type", ["multi_label_classification", "regression"])
def test_several_labels_and_numbers(problem_type, make_model, make_args, digits, collator, tmp_path):
    labels = [[float(k > 1), float(k % 2)] for k in digits["label"]]
    data = digits.remove_columns("label").add_column("label", labels)
    names = {"id2label": {0: "big", 1: "odd"}, "label2id": {"big": 0, "odd": 1}}
    trainer = METHODS["joint"](
        model=make_model(num_labels=2, problem_type=problem_type, **names),
        args=make_args(METHODS["joint"].args_class, num_train_epochs=1),
        train_dataset=data,
        data_collator=collator,
    )
    trainer.train()
    report = evaluate_report(trainer, data)
    logits, truth = trainer.predict(data).predictions, np.array(labels)
    logits = logits["logits"] if isinstance(logits, dict) else logits
    metrics = trainer.evaluate(data)
    assert all(metrics[f"eval_{key}"] == pytest.approx(value, rel=1e-4) for key, value in report.metrics.items())
    assert report.confusion is None and report.confused == []
    if problem_type == "regression":
        errors = logits - truth
        for r, each in enumerate(report.targets):
            assert each.mae == pytest.approx(np.abs(errors[:, r]).mean(), rel=1e-4)
            assert each.rmse == pytest.approx(np.sqrt((errors[:, r] ** 2).mean()), rel=1e-4)
            assert each.pairs[5] == pytest.approx((truth[5, r], logits[5, r]), rel=1e-4)
        assert report.calibration is None and report.classes == []
    else:
        expected = precision_recall_fscore_support(truth, logits > 0, zero_division=0)
        for k, each in enumerate(report.classes):
            assert ((each.precision or 0), each.recall, each.f1) == pytest.approx([part[k] for part in expected[:3]])
            assert each.average_precision == pytest.approx(average_precision_score(truth[:, k], logits[:, k]))
        assert sum(each.samples for each in report.calibration.bins) == 128  # each label of each row
        share = sum(each.samples * each.accuracy for each in report.calibration.bins) / 128
        assert share == pytest.approx(truth.mean())
    page = report.save(tmp_path / problem_type)
    assert json.loads((page.parent / "report.json").read_text())["rows"] == 64
    assert page.read_text().count("<img") == 2


def test_what_a_report_cannot_be_of(trained, make_trainer, digits, collator):
    with pytest.raises(TypeError, match="Expected a trainer or a pipeline, got a MultimodalModel"):
        evaluate_report(trained.model, digits, collator)
    for rows, found in ((digits.select([]), "got none"), ({"test": digits}, r"got the splits \['test'\]")):
        with pytest.raises(ValueError, match=found):
            evaluate_report(trained, rows)
    trainer = make_trainer(trainer_kwargs={"prototype_dataset": digits.select(range(32))}, eval_dataset=None)
    with pytest.raises(ValueError, match="got the `prototype_dataset`, whose labels the model has seen"):
        evaluate_report(trainer, digits.select(range(32)))


def test_many_classes_are_shown_by_their_mistakes():
    labels = np.array([0, 0, 0, 149, 7])
    matrix, mistakes = confusions(np.array([3, 3, 0, 0, 7]), labels, [f"c{k}" for k in range(150)])
    assert matrix is None and mistakes == [("c0", "c3", 2), ("c149", "c0", 1)]
    scores = class_scores(np.array([3, 3, 0, 0, 7]), labels, [f"c{k}" for k in range(150)])
    assert (scores[0].precision, scores[0].recall, scores[0].f1) == (0.5, pytest.approx(1 / 3), 0.4)
    assert (scores[3].precision, scores[3].recall, scores[5].f1) == (0.0, None, None)


def test_above_six_modalities_one_is_left_out_or_alone(make_model, digits):
    names = [f"m{i}" for i in range(7)]
    model = make_model(backbones={name: NumericConfig(num_features=1, hidden_size=2) for name in names})
    processor = MultimodalProcessor({name: NumericProcessor([0.0], [1.0]) for name in names})
    rows = digits.remove_columns("picture").add_column("x", [float(i % 7) for i in range(64)])
    collator = MultimodalCollator(processor, {name: ["x"] for name in names})
    report = evaluate_report(MultimodalPipeline(model, processor, missing="fused"), rows, collator)
    assert [len(each.modalities) for each in report.sweep] == [7, *[6] * 7, *[1] * 7]
    with pytest.raises(ValueError, match="or set `missing='fused'`"):
        evaluate_report(MultimodalPipeline(model, processor), rows, collator)


def test_the_page_in_a_browser(trained, digits, tmp_path):
    trained.model.config.id2label = {k: f"<b>{k}</b>" for k in range(4)}
    report = evaluate_report(trained, digits.cast_column("caption", Value("string")))
    file, requests = report.save(tmp_path), []
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1000, "height": 1300})
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())
        text = page.locator("body").inner_text()
        assert "<b>3</b>" in text and report.calibration_sentence in text and "Confusion matrix" in text
        drawn = page.locator("img").evaluate_all("images => images.map(image => image.naturalWidth)")
        assert len(drawn) == 3 and min(drawn) > 400
        assert page.evaluate("document.documentElement.scrollWidth") <= 1000
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    for title, table in report.tables().items():
        assert title in str(report) and all(line[0] in str(report) for line in table)
