"""Two epochs of PMR on samples with holes, in one process or several; test_distributed.py runs it."""

import sys

from datasets import load_from_disk

from pmr_hf import MultimodalCollator, MultimodalModel, MultimodalProcessor, PMRTrainer, PMRTrainingArguments


folder, output, batch_size = sys.argv[1], sys.argv[2], int(sys.argv[3])
processor = MultimodalProcessor.from_pretrained(f"{folder}/processor")
trainer = PMRTrainer(
    model=MultimodalModel.from_pretrained(f"{folder}/model"),
    args=PMRTrainingArguments(
        output,
        per_device_train_batch_size=batch_size,
        num_train_epochs=2,
        optim="sgd",
        learning_rate=0.1,
        max_grad_norm=0.0,
        gradient_checkpointing=True,
        train_sampling_strategy="sequential",
        prototype_fraction=0.5,
        pmr_alpha=2.0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    ),
    train_dataset=load_from_disk(f"{folder}/data"),
    processing_class=processor,
    data_collator=MultimodalCollator(processor, {"image": "picture", "text": "caption"}),
)
trainer.train()
trainer.save_model()
trainer.save_state()
