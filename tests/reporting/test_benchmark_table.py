"""The table of the benchmark against numbers worked by hand."""

from pmr_hf.reporting.benchmark_table import table_of


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
    assert "| concat | pmr | 46.7 ± 5.8 |  | 25.0 ± 0.0 | 0.10 | 0.50 |" in alone


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
