"""The report of each modality, of all problem types, against loops over the rows and the orders of the modalities."""

from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.metrics import average_precision_score, f1_score, r2_score

from pmr_hf import MultimodalCollator
from pmr_hf.inference.embed import Embedded
from pmr_hf.inference.linear_probe import probe_metric
from pmr_hf.inference.modality_report import modality_report


NAMES = ["big", "odd", "three"]
SINGLE, MULTI, NUMBERS = "single_label_classification", "multi_label_classification", "regression"


def labels_of(problem_type, digit):
    several = [float(digit > 1), float(digit % 2), float(digit == 3)]
    return {SINGLE: digit, MULTI: several, NUMBERS: [100.0 + 10 * digit, -digit / 1000, 7.0]}[problem_type]


@pytest.fixture(params=[SINGLE, MULTI, NUMBERS], scope="module")
def reported(request, make_model, processor, digits):
    """The problem type, the model, labels and inputs of 16 rows, of which each fourth lacks its picture, the report."""
    problem_type = request.param
    named = {"id2label": dict(enumerate(NAMES)), "label2id": {}} if problem_type != SINGLE else {}
    model = make_model(num_labels=3 if named else 4, problem_type=problem_type, **named).eval()
    torch.manual_seed(1)
    labels = [labels_of(problem_type, digit) for digit in digits["label"]]
    with torch.no_grad():
        for parameter in [*model.absent.values(), *model.fusion.parameters()]:
            parameter.normal_()
        embeddings = model(**processor(image=digits["picture"], text=digits["caption"])).embeddings
    if problem_type == NUMBERS:
        model.fit_targets(torch.tensor(labels))
    else:
        model.prototypes.momentum_update(model.prototypes.class_sums(embeddings, torch.tensor(labels)), 0.0)
    rows = digits.remove_columns("label").add_column("label", labels)
    test = rows.select(range(16)).map(
        lambda row, i: {"picture": None if i % 4 == 3 else row["picture"]}, with_indices=True, features=rows.features
    )
    collator = MultimodalCollator(
        processor,
        {"image": "picture", "text": "caption"},
        num_labels=model.config.num_labels,
        problem_type=problem_type,
    )
    report = modality_report(model, collator, {"train": rows, "test": test}, batch_size=6)
    batch = collator([test[i] for i in range(16)])
    return problem_type, model, batch.pop("labels"), batch, report


@pytest.fixture
def answers(reported):
    """A function from a tuple of modalities to what the model answers with these alone, one row at a time."""
    problem_type, model, _, batch, _ = reported
    with torch.no_grad():
        output = model(**batch)

    def answer(names):
        rows = []
        for i in range(16):
            embeddings = {name: values[i : i + 1] for name, values in output.embeddings.items()}
            present = {
                name: torch.tensor([name in names and (name == "text" or i % 4 != 3)]) for name in output.embeddings
            }
            with torch.no_grad():
                logits = model.fuse(embeddings, present)[0]
            rows.append({SINGLE: logits.softmax(0), MULTI: logits.sigmoid(), NUMBERS: logits}[problem_type])
        return torch.stack(rows).double().numpy()

    return answer


def test_the_fused_metrics(reported, answers):
    problem_type, _, labels, _, report = reported
    found, labels = answers(("image", "text")), labels.double().numpy()
    if problem_type == SINGLE:
        expected = {"accuracy": (found.argmax(1) == labels).mean()}
        expected["macro_f1"] = f1_score(labels, found.argmax(1), average="macro", zero_division=0)
    elif problem_type == MULTI:
        guesses = found > 0.5
        expected = {"micro_f1": f1_score(labels, guesses, average="micro")}
        expected["macro_f1"] = f1_score(labels, guesses, average="macro", zero_division=0)
        expected["mAP"] = np.mean([average_precision_score(labels[:, k], found[:, k]) for k in range(3)])
        expected["subset_accuracy"] = np.mean([(a == b).all() for a, b in zip(guesses, labels, strict=True)])
    else:
        errors = np.abs(found - labels)
        expected = {"mae": errors.mean(), "rmse": np.mean(np.sqrt((errors**2).mean(0)))}
        expected["r2"] = np.mean([r2_score(labels[:, k], found[:, k]) for k in range(2)])  # the third never changes
    for name, value in expected.items():
        assert report[f"test_{name}"] == pytest.approx(value, rel=1e-4), name
    assert {key for key in report if key.startswith("test_")} == {f"test_{name}" for name in expected}


def test_the_shares_over_all_orders_of_the_modalities(reported, answers):
    problem_type, _, labels, _, report = reported
    rows, truth = range(16), labels.double().numpy()

    def goodness(found):
        if problem_type == SINGLE:
            return np.array([found[i][labels[i]] for i in rows])
        if problem_type == MULTI:
            return np.array([[p if t else 1 - p for p, t in zip(found[i], truth[i], strict=True)] for i in rows])
        return -np.abs(found - truth)

    for name in ("image", "text"):
        gains, changes = [], []
        for order in permutations(["image", "text"]):
            before = order[: order.index(name)]
            gains.append(goodness(answers((*before, name))) - goodness(answers(before)))
            changes.append(answers((*before, name)) - answers(before))
        assert report[f"{name}_share"] == pytest.approx(np.mean(gains), rel=1e-3, abs=1e-5)
        if problem_type == SINGLE:
            assert f"{name}_label_shares" not in report
            continue
        expected = dict(zip(NAMES, np.abs(np.mean(changes, 0)).mean(0), strict=True))
        assert report[f"{name}_label_shares"] == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_the_answer_of_each_modality_alone(reported):
    problem_type, model, labels, batch, report = reported
    keys = {"accuracy": SINGLE, "micro_f1": MULTI, "mae": NUMBERS}
    metric = next(name for name, problem in keys.items() if problem == problem_type)
    assert {f"image_probe_{metric}", f"text_probe_{metric}"} <= report.keys()
    if problem_type == NUMBERS:
        assert not any("prototype" in key or "head" in key for key in report)
        return
    with torch.no_grad():
        output = model(**batch)
        by_modality = {
            "prototype": model.prototypes(output.embeddings),
            "head": model.modality_logits(output.embeddings, output.present),
        }
    for name, rows in {"image": [i for i in range(16) if i % 4 != 3], "text": list(range(16))}.items():
        for classifier, logits in by_modality.items():
            if problem_type == SINGLE:
                expected = np.mean([int(logits[name][i].argmax() == labels[i]) for i in rows])
            else:
                expected = f1_score(labels[rows], logits[name][rows] > 0, average="micro", zero_division=0)
            assert report[f"{name}_{classifier}_{metric}"] == pytest.approx(expected)


def test_a_report_of_one_class_has_the_keys_of_the_lines_in_docs_results(reported):
    problem_type, _, _, _, report = reported
    if problem_type == SINGLE:
        fused = [
            "split",
            "modalities",
            "test_accuracy",
            "answer",
            "head_accuracy",
            "prototypes_accuracy",
            "test_macro_f1",
        ]
        alone = ["prototype_accuracy", "head_accuracy", "probe_accuracy", "share"]
        assert list(report) == fused + [f"{name}_{what}" for name in ("image", "text") for what in alone]


def test_probes_by_hand():
    """The embedding tells the first label. The second is on in all rows to fit, and off in one other row."""
    x = torch.tensor([[-3.0], [-2.0], [-1.0], [1.0], [2.0], [3.0]])
    everywhere = {"a": torch.ones(6, dtype=torch.bool)}
    labels = torch.stack([(x[:, 0] > 0).float(), torch.ones(6)], 1)
    fitted, other = Embedded({"a": x}, everywhere, labels), labels.clone()
    other[0, 1] = 0
    # 3 + 6 guesses, of which 8 are among the 8 labels
    assert probe_metric(MULTI, "a", fitted, Embedded({"a": x}, everywhere, other)) == pytest.approx(2 * 8 / (9 + 8))
    assert probe_metric(MULTI, "a", Embedded({"a": x}, everywhere, torch.ones(6, 2)), fitted) is None
    many = torch.linspace(-1, 1, 1001)[:, None]
    numbers = Embedded({"a": many}, {"a": torch.ones(1001, dtype=torch.bool)}, 1000 + 50 * many[:, 0])
    assert probe_metric(NUMBERS, "a", numbers, numbers) < 0.1  # ridge with a penalty of 1 on 1001 rows
    line = LinearRegression().fit(x, [0, 2, 1, 5, 9, 7])
    of_six = Embedded({"a": x}, everywhere, torch.tensor([0.0, 2, 1, 5, 9, 7]))
    # standardised x of 6 rows has the sum of squares 6, so the penalty of 1 shrinks the slope to 6 / 7
    predicted = np.mean([0, 2, 1, 5, 9, 7]) + 6 / 7 * line.coef_[0] * x[:, 0].numpy()
    expected = np.abs(predicted - [0, 2, 1, 5, 9, 7]).mean()
    assert probe_metric(NUMBERS, "a", of_six, of_six) == pytest.approx(expected, rel=1e-5)


def test_late_fusion_answers_by_each_modality_alone(make_model, processor, digits):
    model = make_model(fusion="late").eval()
    collator = MultimodalCollator(processor, {"image": "picture", "text": "caption"})
    batch = collator([digits[i] for i in range(64)])
    labels = batch.pop("labels")
    with torch.no_grad():
        for head in model.fusion.classifiers.values():
            head.weight.normal_()
        alone = {
            name: (model(**{name: batch[name]}).logits.argmax(1) == labels).float().mean().item() for name in batch
        }
    report = modality_report(model, collator, {"train": digits, "test": digits}, batch_size=16)
    assert {name: report[f"{name}_head_accuracy"] for name in alone} == pytest.approx(alone)
