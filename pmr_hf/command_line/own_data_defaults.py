"""Default training arguments for a user's own data, with pretrained encoders (for the paper's sets: `PAPER_SETS`)."""

OWN_DATA_DEFAULTS = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "learning_rate": 1e-3,  # for the head and new encoders; `lower_pretrained_rates` gives pretrained ones a tenth
    "warmup_steps": 0.1,
    "num_train_epochs": 5,
}
