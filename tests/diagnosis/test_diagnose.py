"""`diagnose` against trainings by hand, and its script."""

import json
import subprocess
import sys

import pytest
import torch
from helpers.scripts import EXAMPLES, run_example
from helpers.snapshots import assert_equal_tensors, snapshot
from transformers import TrainingArguments, set_seed

from pmr_hf import MultimodalCollator, MultimodalModel, PrototypeTrainer, PrototypeTrainingArguments, diagnose


@pytest.fixture(scope="module")
def rows(digits):
    return digits.select(range(48)), digits.select(range(48, 64))


def test_each_training_is_that_of_a_trainer(make_model, make_args, rows, collator, processor):
    model = make_model()
    before = snapshot(model)
    args = make_args(PrototypeTrainingArguments, modality_learning_rates={"image": 1e-3})
    found = diagnose(model, *rows, collator, args)
    assert_equal_tensors(snapshot(model), before)

    def accuracy(names, columns):
        set_seed(args.seed)
        encoders = {name: make_model().backbones[name] for name in names}
        set_seed(args.seed)
        trained = PrototypeTrainer(
            model=MultimodalModel.from_backbones(encoders, num_labels=4),
            args=make_args(
                PrototypeTrainingArguments, modality_learning_rates={"image": 1e-3} if "image" in names else None
            ),
            train_dataset=rows[0],
            eval_dataset=rows[1],
            data_collator=MultimodalCollator(processor.only(names), columns),
        )
        trained.train()
        metrics = trained.evaluate()
        return metrics, torch.tensor(trained.predict(rows[1]).predictions).softmax(1)

    columns = {"image": "picture", "text": "caption"}
    joint, _ = accuracy(["image", "text"], columns)
    total = 0
    assert found.joint == joint["eval_accuracy"] and found.rows == 16 and found.steps == 12
    for modality in found.modalities:
        alone, probabilities = accuracy([modality.name], {modality.name: columns[modality.name]})
        assert modality.alone == alone["eval_accuracy"]
        assert modality.alone_prototypes == alone[f"eval_{modality.name}_prototype_accuracy"]
        assert modality.joint_prototypes == joint[f"eval_{modality.name}_prototype_accuracy"]
        # A row adds -1, 0 or 1 to a difference, so the error of 16 rows is at most 1 / 4.
        for apart in (modality.lost_by_probe, modality.lost_by_prototypes, modality.above_joint):
            assert 0 <= apart.error <= 1 / 4
        assert modality.lost_by_probe.value == pytest.approx(modality.alone_probe - modality.joint_probe)
        assert modality.above_joint.value == pytest.approx(modality.alone - found.joint)
        total = total + probabilities
    assert found.averaged == (total.argmax(1) == torch.tensor(rows[1]["label"])).float().mean()
    assert found.averaged_above_joint.value == pytest.approx(found.averaged - found.joint)
    assert max(modality.ratios[0][1] for modality in found.modalities) == 1
    labels = torch.tensor(rows[0]["label"][:]).mode().values.item()
    assert found.majority == sum(label == labels for label in rows[1]["label"]) / 16
    best = max(found.joint, found.averaged, *(modality.alone for modality in found.modalities))
    assert found.above_majority.value == pytest.approx(best - found.majority)


def test_arguments_that_one_training_cannot_take(make_model, make_args, rows, collator):
    args = make_args(
        PrototypeTrainingArguments,
        num_train_epochs=1,
        freeze=["image"],
        eval_on_start=True,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="image_prototype_accuracy",
    )
    assert diagnose(make_model(), *rows, collator, args).steps == 6


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"args": TrainingArguments("x", report_to="none")}, TypeError, "got TrainingArguments; create them with"),
        ({"data_collator": list}, TypeError, "Expected `data_collator` of type MultimodalCollator, got type"),
        ({"eval_dataset": lambda rows: rows.to_iterable_dataset()}, TypeError, "got IterableDataset"),
        ({"train_dataset": list}, TypeError, "got list; give `datasets.Dataset.from_list"),
        ({"eval_dataset": lambda rows: rows.select([])}, ValueError, "evaluation dataset to have at least one row"),
        ({"eval_dataset": lambda rows: rows.remove_columns("label")}, ValueError, r"\['label'\] are not among"),
    ],
)
def test_what_would_fail_after_the_first_training(make_model, make_args, rows, collator, change, error, said):
    given = {"train_dataset": rows[0], "eval_dataset": rows[1], "data_collator": collator, "args": make_args()}
    (name, value), *_ = change.items()
    given[name] = value(given[name]) if name.endswith("dataset") else value
    with pytest.raises(error, match=said):
        diagnose(make_model(), **given)


def test_several_labels(make_model, make_args, rows, collator):
    names = ["even", "big", "one"]
    tags = [["even"] * (label % 2 == 0) + ["big"] * (label > 1) + ["one"] * (label == 1) for label in range(4)]
    several = [split.remove_columns("label").add_column("label", [tags[k] for k in split["label"]]) for split in rows]
    model = make_model(num_labels=3, problem_type="multi_label_classification", id2label=dict(enumerate(names)))
    found = diagnose(model, *several, collator, make_args(PrototypeTrainingArguments, num_train_epochs=1))
    assert found.metric == "micro_f1" and 0 <= found.joint <= 1 and "Micro F1" in str(found)


def test_a_modality_that_no_evaluation_row_has(make_model, make_args, rows, collator):
    lacking = rows[1].map(lambda row: {"caption": ""})
    with pytest.raises(ValueError, match=r"evaluation rows that have 'text', .* got 0 of 16 evaluation rows"):
        diagnose(make_model(), rows[0], lacking, collator, make_args(PrototypeTrainingArguments, num_train_epochs=1))


def test_what_cannot_be_compared(make_model, make_args, rows, collator, processor):
    image = make_model(backbones={"image": make_model().backbones["image"]})
    with pytest.raises(ValueError, match="at least two modalities"):
        diagnose(image, *rows, collator.only(["image"]), make_args(PrototypeTrainingArguments))
    numbers = make_model(num_labels=1, problem_type="regression")
    with pytest.raises(ValueError, match="predicts classes or labels"):
        diagnose(numbers, *rows, collator, make_args(PrototypeTrainingArguments))


def test_the_script(tmp_path):
    lines = ["a,b,c,label", *(f"{i % 3},{(i * 7) % 5},{i % 2},{'xy'[i % 2]}" for i in range(40))]
    (tmp_path / "train.csv").write_text("\n".join(lines))
    command = ["diagnose.py", "--train_file", "train.csv", "--use_cpu", "True"]
    command += ["--columns", "left=a,b", "right=c", "--backbones", "left=numbers", "right=numbers"]
    folder = tmp_path / "outputs" / f"{tmp_path.name}-train-concat-diagnosis"
    folder.mkdir(parents=True)
    (folder / "diagnosis.json").write_text("{}")
    done = run_example(*command, "--num_train_epochs", "1", cwd=tmp_path)
    assert done.returncode == 0 and "Training left alone" not in done.stderr, done.stderr  # no bars where none can move
    saved = json.loads((folder / "diagnosis.json").read_text())
    assert saved["sentence"] in done.stdout and "train, concat" in done.stdout
    assert (folder / "report.html").is_file() and done.stdout.endswith(" in place of an earlier diagnosis\n")
    assert saved["rows"] == 12 and saved["steps"] == 1  # 30 percent of 40 rows, and the rest in one batch
    refused = run_example(*command, "--method", "pmr", cwd=tmp_path)
    assert refused.returncode == 1 and refused.stderr.startswith("Expected no --method here")
    wrong = run_example(*command, "--learning_rate", "-1", cwd=tmp_path)
    assert wrong.returncode == 1
    assert wrong.stderr == "ValueError: Expected `learning_rate` of at least 0, got -1.0; correct it.\n"


@pytest.mark.slow
def test_gray_is_starved_on_the_digits(tmp_path):
    command = [
        sys.executable,
        str(EXAMPLES / "diagnose.py"),
        "--use_cpu",
        "True",
        "--seed",
        "1",
        "--output_dir",
        "found",
    ]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert "gray" in json.loads((tmp_path / "found" / "diagnosis.json").read_text())["starved"]
