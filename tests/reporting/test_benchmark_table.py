"""The table of the benchmark against numbers worked by hand."""

from pmr_hf import METHODS
from pmr_hf.reporting.benchmark_table import OWN_HEAD, table_of


def test_the_table_by_hand():
    base = {"fusion": "concat", "setting": None, "rho": 0.5, "peak_memory_mib": 100.0, "learning_rate": 0.01}
    base |= {"modalities": ["a"], "split": "test"}
    results = []
    for method, accuracies, seconds in (("joint", (0.3, 0.4, 0.5), 10.0), ("pmr", (0.5, 0.5, 0.4), 12.0)):
        for seed, accuracy in enumerate(accuracies):
            own = {"a_probe_accuracy": 0.25, "a_prototype_accuracy": accuracy, "a_share": 0.1 * seed}
            own |= {"method": method, "seed": seed, "test_accuracy": accuracy, "test_macro_f1": 0.2}
            results.append({**base, **own, "train_seconds": None if seed == 1 else seconds})
    fused, alone = table_of(results).strip().split("\n\n")
    joint, pmr = ([cell.strip() for cell in line.split("|")[1:-1]] for line in fused.splitlines()[2:])
    assert joint[:5] == ["concat", "joint", "3", "40.0 ± 10.0", ""]
    # differences of 20, 10 and -10 points
    assert pmr[3:5] == ["46.7 ± 5.8", "+6.7 ± 15.3 (2 of 3 ahead)"]
    assert pmr[6:9] == ["1.20", "1.00", "0.01"]
    lines = alone.splitlines()
    assert [cell.strip() for cell in lines[3].split("|")[1:-1]] == [
        "concat",
        "pmr",
        "46.7 ± 5.8",
        "",
        "25.0 ± 0.0",
        "0.10",
        "0.50",
    ]
    assert len({len(line) for line in lines}) == 1  # the columns are aligned


def test_a_varied_setting_is_compared_with_joint_training_in_that_setting():
    base = {"fusion": "sum", "seed": 0, "rho": None, "peak_memory_mib": None, "learning_rate": 0.01}
    base |= {"modalities": ["a"], "split": "test", "test_macro_f1": 0.2, "train_seconds": None}
    accuracies = {("joint", None): 0.2, ("joint", "d=1"): 0.5, ("pmr", "d=1"): 0.6, ("pmr", "d=2"): 0.3}
    results = [
        {**base, "method": method, "setting": setting, "test_accuracy": accuracy}
        for (method, setting), accuracy in accuracies.items()
    ]
    lines = table_of(results).splitlines()[2:6]
    assert [line.split("|")[5].strip() for line in lines] == [
        "",
        "+30.0 (1 of 1 ahead)",
        "+10.0 (1 of 1 ahead)",
        "+10.0 (1 of 1 ahead)",
    ]


def test_late_fusion_is_compared_with_joint_training_of_the_only_other_head():
    base = {"seed": 0, "rho": None, "peak_memory_mib": None, "learning_rate": 0.01, "setting": None}
    base |= {"modalities": ["a"], "split": "test", "test_macro_f1": 0.2, "train_seconds": None}
    runs = [("late", "late_fusion", 0.6), ("concat", "joint", 0.5), ("late", "pmr", 0.5), ("sum", "joint", 0.2)]
    rows = [{**base, "fusion": head, "method": name, "test_accuracy": value} for head, name, value in runs]
    gains = [cells[4] for cells in cells_of(table_of(rows[:3]).split("\n\n")[0])[2:]]
    assert gains == ["+10.0 (1 of 1 ahead)", "", ""]
    assert not any(cells[4] for cells in cells_of(table_of(rows).split("\n\n")[0])[2:])


def test_the_methods_with_a_head_of_their_own_are_those_of_the_trainers():
    assert set(OWN_HEAD) == {name for name, trainer in METHODS.items() if trainer.own_fusion is not None}


def cells_of(text):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]


def test_the_table_of_a_regression():
    """An error that is lower than that of joint training is better. No part of a prediction answers alone."""
    base = {"fusion": "concat", "setting": None, "rho": None, "peak_memory_mib": None, "learning_rate": 0.01}
    base |= {"modalities": ["a"], "split": "test", "train_seconds": None, "problem_type": "regression"}
    results = []
    for method, errors in (("joint", (1200.0, 1300.0)), ("gblend", (1100.0, 1310.0))):
        for seed, error in enumerate(errors):
            own = {"a_probe_mae": 1500.0, "a_share": 250.5, "method": method, "seed": seed}
            own |= {"test_mae": error, "test_rmse": 2 * error, "test_r2": 0.5}
            results.append({**base, **own})
    fused, alone = table_of(results).strip().split("\n\n")
    header, _, joint, gblend = cells_of(fused)
    assert header[3:8] == ["test MAE", "over joint", "RMSE", "R²", "time"]
    assert joint[3:7] == ["1250 ± 70.71", "", "2500 ± 141.4", "0.5 ± 0"]
    assert gblend[3:5] == ["1205 ± 148.5", "-45 ± 77.78 (1 of 2 ahead)"]
    assert cells_of(alone)[0] == ["fusion", "method", "a, probe", "a, share"]
    assert cells_of(alone)[2] == ["concat", "joint", "1500 ± 0", "250.5"]


def test_the_table_of_several_labels():
    result = {"fusion": "sum", "setting": None, "rho": 0.5, "peak_memory_mib": None, "learning_rate": 0.01, "seed": 0}
    result |= {"modalities": ["a"], "split": "validation", "train_seconds": None, "method": "joint"}
    result |= {"problem_type": "multi_label_classification", "test_micro_f1": 0.5, "test_macro_f1": 0.25}
    result |= {"test_mAP": 0.125, "test_subset_accuracy": 0.1, "a_prototype_micro_f1": 0.75}
    fused, alone = table_of([result]).strip().split("\n\n")
    header, _, joint = cells_of(fused)
    assert header[3:8] == ["validation micro F1, selected by", "over joint", "macro F1", "mAP", "subset accuracy"]
    assert joint[3:8] == ["50.0", "", "25.0", "12.5", "10.0"]
    assert cells_of(alone)[2][:3] == ["sum", "joint", "75.0"]
