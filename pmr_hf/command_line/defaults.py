"""Default training arguments of the scripts in `examples/`."""

import torch


# For every script: the best epoch is chosen by validation accuracy, and a stopped run can resume.
DEFAULTS = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "load_best_model_at_end": True,
    "metric_for_best_model": "accuracy",
    "logging_steps": 20,
    "dataloader_pin_memory": torch.cuda.is_available(),
    "report_to": "none",
}
# For the paper's datasets: the paper's batch size, optimizer and alpha. Its learning rate of 1e-3 is for 100 epochs.
PAPER_DEFAULTS = {
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 256,
    "optim": "sgd",
    "optim_args": "momentum=0.9,weight_decay=1e-4",
}
PAPER_ALPHA = 2.0
# For a user's own data, with pretrained encoders
OWN_DATA_DEFAULTS = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "learning_rate": 1e-3,  # for the head and new encoders; `lower_pretrained_rates` gives pretrained ones a tenth
    "warmup_steps": 0.1,
    "num_train_epochs": 5,
}
