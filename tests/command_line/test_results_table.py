"""The printed table: the kept epoch, and rows for any number of modalities and without any that answer alone."""

from transformers import TrainerState, TrainingArguments

from pmr_hf.command_line.results_table import kept_epoch, legend, method_rows, print_table


LOG = [
    {"loss": 1.0, "a_score": 0.2, "b_score": 0.4, "c_score": 0.8, "step": 5, "epoch": 1.0},
    {"eval_loss": 1.0, "step": 5, "epoch": 1.0},
    {"loss": 1.0, "a_score": 0.5, "b_score": 0.5, "c_score": 0.6, "step": 10, "epoch": 2.0},
    {"eval_loss": 1.0, "step": 10, "epoch": 2.0},
    {"train_loss": 1.0, "step": 10, "epoch": 2.0},
]


def test_the_kept_epoch_is_the_best_or_the_last(tmp_path):
    state = TrainerState(log_history=LOG, global_step=10, epoch=2.0, num_train_epochs=2, best_global_step=5)
    args = TrainingArguments(str(tmp_path), eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True)
    assert kept_epoch(state, args, ["a", "b"]) == ("1 of 2", {"a": 0.2, "b": 0.4})
    args = TrainingArguments(str(tmp_path))
    assert kept_epoch(state, args, ["a", "c"]) == ("2 of 2", {"a": 0.5, "c": 0.6})
    assert kept_epoch(state, args, ["a", "other"]) == ("2 of 2", {})


def test_three_modalities_of_which_the_test_lacks_one(capsys):
    metrics = {"test_accuracy": 0.75, "test_a_prototype_accuracy": 0.5, "test_b_prototype_accuracy": 0.25}
    kept = ("1 of 2", {"a": 0.2, "b": 0.4, "c": 0.8})
    rows = method_rows("pmr", "test", metrics, ["a", "b", "c"], "single_label_classification", kept, 12.4)
    print_table("posts, concat", [("most frequent class", {"test accuracy": "0.600"}), *rows])
    assert capsys.readouterr().out.splitlines() == [
        "",
        "posts, concat             test accuracy  a alone  b alone    c alone  kept epoch  training time",
        "  most frequent class             0.600",
        "  pmr                             0.750    0.500    0.250  none seen      1 of 2           12 s",
        "    score                                  0.200    0.400      0.800",
        "    ratio                                   1.00     2.00       4.00",
    ]


def test_one_modality_has_no_ratio_and_the_legend_explains_only_what_the_table_has():
    metrics, kept = {"test_accuracy": 0.75, "test_a_prototype_accuracy": 0.5}, ("1 of 2", {"a": 0.2})
    rows = method_rows("joint", "test", metrics, ["a"], "single_label_classification", kept, 12.4)
    assert [name for name, _ in rows] == ["joint", "  score"]
    words = {count: legend("single_label_classification", count) for count in (1, 2)}
    assert "score:" in words[1] and "ratio:" not in words[1] and "ratio:" in words[2]
    assert legend("regression", 2) == ""


def test_a_regression_has_its_error_alone():
    rows = method_rows("joint", "validation", {"eval_mae": 2.0}, ["a", "b"], "regression", ("3 of 3", {}), 1)
    assert rows == [("joint", {"validation mae": "2.000", "kept epoch": "3 of 3", "training time": "1 s"})]
