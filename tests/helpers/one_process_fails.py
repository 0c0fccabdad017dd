"""Train in two processes, of which one fails at its third batch: `one_process_fails.py RANK OUTPUT`."""

import os
import sys

import torch
from datasets import Dataset

from pmr_hf import (
    MultimodalCollator,
    MultimodalModel,
    MultimodalProcessor,
    NumericConfig,
    NumericProcessor,
    PMRTrainer,
    PMRTrainingArguments,
)


class FailingCollator(MultimodalCollator):
    batches = 0

    def __call__(self, rows):
        self.batches += 1
        if os.environ["RANK"] == sys.argv[1] and self.batches == 3:
            raise ValueError("the row cannot be read")
        return super().__call__(rows)


rows = Dataset.from_list([{"a": [float(i % 2)], "b": [float(i)], "label": i % 2} for i in range(64)])
processor = MultimodalProcessor({name: NumericProcessor([0.0], [1.0]) for name in "ab"})
torch.manual_seed(0)
model = MultimodalModel.from_backbones({name: NumericConfig(hidden_size=4) for name in "ab"}, num_labels=2)
args = PMRTrainingArguments(
    sys.argv[2], per_device_train_batch_size=4, use_cpu=True, report_to="none", prototype_source="online"
)
collator = FailingCollator(processor, {"a": "a", "b": "b"})
PMRTrainer(model, args, train_dataset=rows, data_collator=collator).train()
