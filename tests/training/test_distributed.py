"""Two processes over gloo against one, on the same global batches."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_from_disk
from safetensors.torch import load_file

from pmr_hf import MultimodalModel


ONLINE = {"prototype_source": "online"}
SAME = [
    "holes",
    "apart",
    "apart_online",
    "shuffled",
    "augmented",
    "accumulated",
    "stream",
    "stream_each",
    "saved",
    "reference",
    "weighted",
]
RIVALS = [
    "ogm",
    "ogm_ge",
    "acc_accumulated",
    "agm",
    "mmpareto",
    "opm",
    "dgl",
    "uniform",
    "gblend",
    "mla",
    "valuation",
    "late_fusion",
    "reconboost",
]
# 8 rows are held out; two processes repeat them to fill an evaluation batch of 16
GBLEND = {"blend_epochs": 1, "blend_holdout": 0.125, "learning_rate": 0.02, "per_device_eval_batch_size": 16}
CLIPPED = {"max_grad_norm": 1.0, "class_weights": {"0": 4.0, "2": 0.5}}
# Of 61 or 29 rows, 5 are left for the last evaluation batch of 2 x 4
UNEVEN_EVALUATION = ["labels", "labels_online", "numbers", "relearning"]
# The name of the data, the problem type, and the labels or targets of a digit
OTHER_TARGETS = [
    ("labels", "multi_label_classification", lambda digit: [digit // 2, digit % 2]),
    ("numbers", "regression", lambda digit: [100.0 + 10 * digit, -digit / 1000]),
]
SHARDED = ["sharded", "sharded_saved", "sharded_acc", "sharded_valuation", "sharded_late", "sharded_dgl", "sharded_opm"]
# Scenarios of a kind that another one has too. They run only if a test of theirs is selected.
SLOW = [
    "weighted",
    "stream_each",
    "ogm",
    "agm",
    "gblend",
    "uniform",
    "dgl",
    "opm",
    "sharded_acc",
    "sharded_valuation",
    "sharded_late",
    "sharded_dgl",
    "sharded_opm",
]
SHARDED_PAIR = ("sharded_saved", "sharded_resumed")


def marked(names):
    return [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in names]


def results(folder):
    logs = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    metrics = json.loads((folder / "metrics.json").read_text())
    steps = [entry for entry in logs if "ce_loss" in entry or "mse_loss" in entry]
    return load_file(folder / "model.safetensors"), steps, metrics


@pytest.fixture(scope="module")
def runs(request, tmp_path_factory, make_model, processor, digits):
    """The folders of the runs in one process and of those in two; each holds a folder for each scenario."""
    folder = tmp_path_factory.mktemp("runs")
    make_model().save_pretrained(folder / "model")
    make_model(unimodal_heads=True).save_pretrained(folder / "heads")
    make_model(fusion="shared", embedding_dim=8).save_pretrained(folder / "shared")
    make_model(fusion="late").save_pretrained(folder / "late")
    processor.save_pretrained(folder / "processor")

    def punch(row, i):
        # In batches of 4, rank 1 never has a caption. Both ranks lack the picture in step 3 and in some samples.
        return {
            "caption": None if i // 4 % 2 else row["caption"],
            "picture": None if i // 8 == 2 or i % 4 == 3 else row["picture"],
        }

    digits.map(punch, with_indices=True, features=digits.features).save_to_disk(folder / "holes")
    # In batches of 4, rank 1 sees only class 3, and rank 0 never sees it.
    order = [i for i, label in enumerate(digits["label"]) if label != 3]
    threes = [i for i, label in enumerate(digits["label"]) if label == 3]
    rows = [row for i in (0, 4, 8, 12) for row in order[i : i + 4] + threes[i % 8 : i % 8 + 4]]
    digits.select(rows).save_to_disk(folder / "apart")
    digits.save_to_disk(folder / "all")
    digits.select(range(61)).save_to_disk(folder / "uneven")
    digits.select(range(9)).save_to_disk(folder / "short")
    for name, problem_type, target in OTHER_TARGETS:
        make_model(num_labels=2, problem_type=problem_type).save_pretrained(folder / f"model_{name}")
        rows = load_from_disk(folder / "holes")
        rows = rows.remove_columns("label").add_column("label", [target(label) for label in rows["label"]])
        rows.save_to_disk(folder / name)
    saving = ONLINE | {"save_strategy": "steps", "save_steps": 3, "optim_args": "momentum=0.9", "learning_rate": 0.02}
    still = {"learning_rate": 0.0, "prototype_fraction": 1.0}
    once = {"num_train_epochs": 1}
    often, values = once | {"save_strategy": "steps", "save_steps": 3}, {"valuation_warmup_epochs": 0}
    scenarios = {
        "holes": {"data": "holes", "options": {"gradient_checkpointing": True}},
        "apart": {"data": "apart", "options": {}},
        "apart_online": {"data": "apart", "options": ONLINE | {"num_train_epochs": 4}},
        "shuffled": {
            "data": "all",
            "options": once | {"train_sampling_strategy": "random", "max_grad_norm": 1.0},
        },
        "augmented": {"data": "all", "options": {"train_sampling_strategy": "random"}, "augment": True},
        "accumulated": {"data": "all", "options": {"gradient_accumulation_steps": 3, "prototype_refresh_steps": 2}},
        "weighted": {"data": "holes", "options": once | {"class_weights": {"0": 4.0, "2": 0.5}}},
        "reference": {"data": "all", "options": once, "reference": "uneven"},  # 31 of its rows in one, 30 in the other
        "labels": {"data": "labels", "options": {}, "model": "model_labels", "eval_rows": 61},
        "labels_online": {"data": "labels", "options": ONLINE, "model": "model_labels", "eval_rows": 61},
        "numbers": {
            "data": "numbers",
            "options": {},
            "method": "PrototypeTrainer",
            "model": "model_numbers",
            "eval_rows": 61,
        },
        "uneven": {"data": "uneven", "options": still},
        "uneven_online": {"data": "uneven", "options": still | ONLINE},
        "short_online": {"data": "short", "options": ONLINE},
        "stream": {"data": "all", "options": ONLINE | {"max_steps": 12, "prototype_refresh_steps": 4}, "stream": True},
        "stream_each": {
            "data": "all",
            "options": ONLINE
            | {"max_steps": 12, "prototype_refresh_steps": 4, "accelerator_config": {"dispatch_batches": False}},
            "stream": True,
        },
        "saved": {"data": "all", "options": saving},
        "resumed": {"data": "all", "options": saving, "resume": "saved/checkpoint-3"},
        "uneven_saved": {"data": "uneven", "options": saving},
        "uneven_resumed": {"data": "uneven", "options": saving, "resume": "uneven_saved/checkpoint-3"},
        "agm_saved": {"data": "all", "options": often, "method": "AGMTrainer"},
        "agm_resumed": {"data": "all", "options": often, "method": "AGMTrainer", "resume": "agm_saved/checkpoint-3"},
        "valued_saved": {"data": "all", "options": often | values, "method": "ValuationTrainer"},
        "valued_resumed": {
            "data": "all",
            "options": often | values,
            "method": "ValuationTrainer",
            "resume": "valued_saved/checkpoint-3",
        },
        "ogm": {"data": "holes", "options": once | {"ogm_alpha": 0.5}, "method": "OGMTrainer"},
        "ogm_ge": {"data": "all", "options": once | {"ogm_noise": True, "learning_rate": 0.01}, "method": "OGMTrainer"},
        "acc_accumulated": {
            "data": "all",
            "options": once | {"gradient_accumulation_steps": 2, "modulation": "update"},
            "method": "GradientBoostTrainer",
        },
        "agm": {"data": "holes", "options": once, "method": "AGMTrainer"},
        "mmpareto": {"data": "holes", "options": once, "method": "MMParetoTrainer", "model": "heads"},
        "opm": {
            "data": "holes",
            "options": once | {"gradient_accumulation_steps": 2, "opm_share": 1.0},
            "method": "OPMTrainer",
        },
        "dgl": {"data": "holes", "options": once, "method": "DGLTrainer"},
        "valuation": {
            "data": "holes",
            "options": {"gradient_accumulation_steps": 2, "class_weights": {"0": 4.0}},
            "method": "ValuationTrainer",
        },
        "uneven_valuation": {"data": "uneven", "options": still, "method": "ValuationTrainer"},
        "reconboost": {
            "data": "holes",
            "options": once | {"reconboost_epochs": 0.25, "reconboost_rectify_epochs": 0.25},
            "method": "ReconBoostTrainer",
        },
        "uniform": {"data": "holes", "options": once, "method": "UniformTrainer", "model": "heads"},
        "late_fusion": {
            "data": "holes",
            "options": once
            | {"late_fusion_weights": "validation", "max_grad_norm": 1.0, "gradient_checkpointing": True},
            "method": "LateFusionTrainer",
            "model": "late",
        },
        "gblend": {
            "data": "all",
            "options": once | GBLEND,
            "method": "GradientBlendingTrainer",
            "model": "heads",
        },
        "mla": {
            "data": "holes",
            "options": once | CLIPPED | {"gradient_accumulation_steps": 2, "optim_args": "momentum=0.9"},
            "method": "MLATrainer",
            "model": "shared",
        },
        "relearning": {"data": "holes", "options": {}, "method": "RelearningTrainer", "eval_rows": 29},
        "sharded": {"data": "all", "options": once | {"max_grad_norm": 1.0}, "shard": "transformers"},
        "sharded_acc": {
            "data": "all",
            "options": saving | once | {"prototype_source": "subset", "modulation": "update"},
            "method": "GradientBoostTrainer",
            "shard": "accelerate",
        },
        "sharded_valuation": {"data": "all", "options": once, "method": "ValuationTrainer", "shard": "accelerate"},
        "sharded_late": {
            "data": "all",
            "options": once | {"max_grad_norm": 0.5},
            "method": "LateFusionTrainer",
            "model": "late",
            "shard": "accelerate",
        },
        "sharded_dgl": {"data": "all", "options": once, "method": "DGLTrainer", "shard": "accelerate"},
        "sharded_opm": {
            "data": "all",
            "options": once | {"opm_share": 1.0},
            "method": "OPMTrainer",
            "shard": "accelerate",
        },
        "sharded_saved": {"data": "all", "options": saving, "shard": "accelerate"},
        "sharded_resumed": {
            "data": "all",
            "options": saving,
            "shard": "accelerate",
            "resume": "sharded_saved/checkpoint-3",
        },
    }
    names = {item.name.partition("[")[2].rstrip("]") for item in request.session.items if item.path == request.path}
    if not names <= set(SLOW):
        names |= scenarios.keys() - set(SLOW)
    scenarios = {name: {"batch": 8} | scenario for name, scenario in scenarios.items() if name in names}
    (folder / "scenarios.json").write_text(json.dumps(scenarios))
    command = [sys.executable, str(Path(__file__).parents[1] / "helpers" / "train_scenarios.py"), str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, [line for line in run.stderr.splitlines() if "rank" in line or "Error" in line][-30:]
    return folder / "one", folder / "two"


@pytest.mark.parametrize("name", marked(SAME + RIVALS + SHARDED + UNEVEN_EVALUATION))
def test_two_processes_train_as_one_does(runs, name):
    """
    Weights and prototypes are equal within 1e-6, and all that each step logs within 1e-5. `Trainer` counts repeated
    samples in the evaluation loss.
    """
    (one, one_logs, one_metrics), (two, two_logs, two_metrics) = (results(folder / name) for folder in runs)
    assert one.keys() == two.keys()
    for key, weight in one.items():
        assert (weight.float() - two[key].float()).abs().max() <= 1e-6, key
    assert len(one_logs) == len(two_logs) > 3
    for a, b in zip(one_logs, two_logs, strict=True):
        assert a.keys() == b.keys()
        for key in a.keys() - {"grad_norm"}:
            assert a[key] == pytest.approx(b[key], abs=1e-5), key
    if name != "numbers":
        assert any(entry.get("image_pce_weight", 0) + entry.get("text_pce_weight", 0) > 0 for entry in one_logs)
    unequal = {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second"}
    assert one_metrics.keys() == two_metrics.keys()
    for key in one_metrics.keys() - unequal - ({"eval_loss"} if name in UNEVEN_EVALUATION else set()):
        assert one_metrics[key] == pytest.approx(two_metrics[key], abs=1e-5), key


def test_a_class_that_one_rank_alone_sees_has_a_prototype_on_both(runs):
    for name in ("apart", "apart_online"):
        weights, _, _ = results(runs[1] / name)
        assert weights["prototypes.image_seen"].all() and weights["prototypes.image_count"][3] > 0


def test_prototypes_of_labels_count_the_rows_of_both_processes(runs, digits):
    """Online, the last epoch counts each row that has its picture once."""
    rows = [i for i in range(64) if i // 8 != 2 and i % 4 != 3]
    positives = [sum(digits["label"][i] // 2 for i in rows), sum(digits["label"][i] % 2 for i in rows)]
    counts = results(runs[1] / "labels_online")[0]["prototypes.image_count"]
    assert counts.tolist() == [len(rows) - positives[0], positives[0], len(rows) - positives[1], positives[1]]


def test_re_learning_diagnoses_the_rows_of_both_processes(runs):
    """Also where rows lack a modality, and where one process repeats the last of 29 validation rows."""
    states = (json.loads((folder / "relearning" / "trainer_state.json").read_text()) for folder in runs)
    one, two = ([entry for entry in state["log_history"] if "text_purity_gap" in entry] for state in states)
    assert one == two and len(one) == 1
    assert one[0]["text_relearning_strength"] > 0 and one[0]["image_relearning_strength"] > 0


def test_targets_are_standardised_by_the_rows_of_both_processes(runs, digits):
    targets = np.array([[100 + 10 * digit, -digit / 1000] for digit in digits["label"]])
    weights, _, metrics = results(runs[1] / "numbers")
    np.testing.assert_allclose(weights["target_scale.mean"], targets.mean(0), rtol=1e-6)
    np.testing.assert_allclose(weights["target_scale.std"], targets.std(0), rtol=1e-5)
    assert {"eval_mae", "eval_rmse", "eval_r2"} <= metrics.keys()


@pytest.mark.parametrize("name", ["uneven", "uneven_online", "uneven_valuation"])
def test_repeated_samples_of_an_uneven_last_batch_count_once(runs, name):
    """61 rows in batches of 2 x 4 repeat three rows at the end. The learning rate is 0, so all else is equal."""
    (one, one_logs, one_metrics), (two, two_logs, two_metrics) = (results(folder / name) for folder in runs)
    assert one["prototypes.image_count"].sum() == two["prototypes.image_count"].sum() == 61
    for key, weight in one.items():
        torch.testing.assert_close(weight, two[key], atol=1e-6, rtol=1e-5, msg=key)
    for a, b in zip(
        one_logs, two_logs, strict=True
    ):  # the cross entropy is that of plain `Trainer`, which counts repeated rows
        for key in a.keys() - {"grad_norm", "loss", "ce_loss"}:
            assert a[key] == pytest.approx(b[key], abs=1e-5), key
    for key in ("eval_accuracy", "eval_macro_f1", "eval_image_accuracy", "eval_text_prototype_accuracy"):
        assert one_metrics[key] == pytest.approx(two_metrics[key], abs=1e-6)


def test_a_rank_whose_rows_are_all_repeated_ends_with_the_others(runs):
    """With 9 rows in batches of 2 x 4, rank 1 has only repeated rows in the second step."""
    weights, logs, _ = results(runs[1] / "short_online")
    assert weights["prototypes.image_count"].sum() == 9 and len(logs) == 4


@pytest.mark.parametrize(
    ("kind", "resumed"),
    [
        ("saved", "resumed"),
        ("uneven_saved", "uneven_resumed"),
        ("agm_saved", "agm_resumed"),
        ("valued_saved", "valued_resumed"),
        SHARDED_PAIR,
    ],
)
def test_two_processes_resume_to_the_bit(runs, kind, resumed):
    """In the middle of an epoch, while both ranks sum the embeddings of each class, and with the state of a method."""
    (whole, _, _), (again, _, _) = (results(runs[1] / name) for name in (kind, resumed))
    assert not [key for key in whole if not torch.equal(whole[key], again[key])]


@pytest.mark.parametrize("name", marked(SHARDED))
def test_a_sharded_model_loads_whole_in_one_process(runs, digits, collator, name):
    model = MultimodalModel.from_pretrained(runs[1] / name).eval()
    with torch.no_grad():
        output = model(**collator([digits[i] for i in range(64)]))
    assert output.loss.item() == pytest.approx(results(runs[1] / name)[2]["eval_loss"], abs=1e-5)
    assert model.prototypes.seen("image").all()
