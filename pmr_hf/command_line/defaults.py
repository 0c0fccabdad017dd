"""Defaults of `examples/run_pmr.py` that depend on the data or on the recipe."""

from ..model.targets import MULTI_LABEL, REGRESSION, SINGLE_LABEL


# The validation metric that selects the best epoch, and in the benchmark the learning rate, by problem type. The loss
# of a regression is that of standardised targets, so that each of several targets counts alike.
SELECTED_BY = {SINGLE_LABEL: "accuracy", MULTI_LABEL: "micro_f1", REGRESSION: "loss"}
# For a user's own data, with pretrained encoders. (`PAPER_SETS` has those of the paper's datasets.)
OWN_DATA_DEFAULTS = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "learning_rate": 1e-3,  # for the head and new encoders; `lower_pretrained_rates` gives pretrained ones a tenth
    "warmup_steps": 0.1,
    "num_train_epochs": 5,
}
# Five epochs of a small table are too few steps for a new head. More epochs than these only repeat its rows.
LEAST_STEPS = 500
MOST_EPOCHS = 40
# Number of examples to save of the digits, which are public. Rows of other data are only saved when asked for.
DIGIT_EXAMPLES = 4
# Defaults of `--method pmr`, by `--recipe`. The recommended ones were found by the validation of seeds that
# docs/results.md does not report.
RECIPES = {
    "recommended": {
        "pmr_weights": "hard",
        "pmr_alpha": 1.0,
        "pmr_mu": 0.0,
        "modality_dropout": 0.3,
        "answer": "best",
    },
    "paper": {},
}
