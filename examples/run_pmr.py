"""
Train PMR, or plain joint training, on colored-and-gray digits.

    accelerate launch examples/run_pmr.py                                            # scikit-learn's real digits
    accelerate launch examples/run_pmr.py --method joint                             # the same without PMR
    accelerate launch examples/run_pmr.py --data_dir mnist                           # raw MNIST files
    accelerate launch examples/run_pmr.py --dataset_name ylecun/mnist                # a copy on the Hub

Every argument of `PMRTrainingArguments`, and so of `TrainingArguments`, can be given too.
"""

import logging
from dataclasses import dataclass, field

import torch
from transformers import HfArgumentParser, ViTImageProcessor, set_seed

from pmr_hf import (
    CGMNISTConfig,
    MultimodalCollator,
    MultimodalModel,
    MultimodalProcessor,
    PMRTrainer,
    PMRTrainingArguments,
)
from pmr_hf.colored_digits import NAMES, cg_mnist, read_dataset, read_mnist, read_sklearn_digits


@dataclass
class ScriptArguments:
    """Arguments of this script."""

    method: str = field(
        default="pmr",
        metadata={
            "help": "'pmr', or 'joint' for alpha = mu = 0: plain training, watched.",
            "choices": ["pmr", "joint"],
        },
    )
    fusion: str = field(default="concat", metadata={"help": "Fusion head: concat, sum, film or gated."})
    dataset: str = field(
        default="digits",
        metadata={"help": "'digits' of scikit-learn, or 'cg_mnist'.", "choices": ["digits", "cg_mnist"]},
    )
    data_dir: str | None = field(default=None, metadata={"help": "Folder of the raw MNIST files, for cg_mnist."})
    dataset_name: str | None = field(default=None, metadata={"help": "Hub name or folder of a copy of MNIST."})
    test_correlation: float = field(
        default=0.0,
        metadata={
            "help": "Share of validation and test digits in the colour of their own class; the others' is random."
        },
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Keep that many training digits."})


def parse_arguments() -> tuple[ScriptArguments, PMRTrainingArguments]:
    script_parser = HfArgumentParser(ScriptArguments, add_help=False)
    script_args, _ = script_parser.parse_args_into_dataclasses(return_remaining_strings=True)
    if script_args.data_dir is not None:
        script_args.dataset = "cg_mnist"
    parser = HfArgumentParser((ScriptArguments, PMRTrainingArguments))
    data = script_args.dataset_name or script_args.dataset
    parser.set_defaults(
        output_dir=f"outputs/{data.replace('/', '-')}-{script_args.fusion}-{script_args.method}",
        # The paper's batch and optimiser; its learning rate of 1e-3 is for 100 epochs.
        per_device_train_batch_size=64,
        per_device_eval_batch_size=256,
        optim="sgd",
        optim_args="momentum=0.9,weight_decay=1e-4",
        learning_rate=3e-2,
        num_train_epochs=60,
        pmr_alpha=2.0,
        # Selection on validation; the test is touched once, at the end.
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        logging_steps=20,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="none",
    )
    _, training_args = parser.parse_args_into_dataclasses()
    return script_args, training_args


def main() -> None:
    script_args, training_args = parse_arguments()
    logging.basicConfig(level=logging.INFO if training_args.should_log else logging.WARNING)
    set_seed(training_args.seed)
    if script_args.method == "joint":
        training_args.pmr_alpha = training_args.pmr_mu = 0.0

    # Data
    if script_args.dataset_name is not None:
        digits = read_dataset(script_args.dataset_name)
    elif script_args.dataset == "cg_mnist":
        if script_args.data_dir is None:
            raise ValueError("Expected --data_dir or --dataset_name with --dataset cg_mnist; give the folder of MNIST.")
        digits = read_mnist(script_args.data_dir)
    else:
        digits = read_sklearn_digits()
    data_name = script_args.dataset_name or script_args.dataset
    dataset = cg_mnist(
        digits,
        test_correlation=script_args.test_correlation,
        max_train_samples=script_args.max_train_samples,
        seed=training_args.seed,
    )

    # Processor
    processor = MultimodalProcessor(
        {
            "gray": ViTImageProcessor(do_resize=False, image_mean=[0.1307], image_std=[0.3081]),
            "colored": ViTImageProcessor(do_resize=False, image_mean=[0.1307] * 3, image_std=[0.3081] * 3),
        }
    )

    # Model
    model = MultimodalModel.from_backbones(
        {"gray": CGMNISTConfig(num_channels=1), "colored": CGMNISTConfig(num_channels=3)},
        num_labels=len(NAMES),
        id2label=dict(enumerate(NAMES)),
        label2id={name: i for i, name in enumerate(NAMES)},
        fusion=script_args.fusion,
    )

    # Trainer
    trainer = PMRTrainer(
        model=model,
        args=training_args,
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"],
        processing_class=processor,
        data_collator=MultimodalCollator(processor, columns={"gray": "gray", "colored": "colored"}, label="label"),
    )

    # Train
    checkpoint = training_args.resume_from_checkpoint
    train_metrics = trainer.train(resume_from_checkpoint=True if checkpoint == "True" else checkpoint).metrics
    trainer.save_metrics("train", train_metrics)

    # Evaluate
    trainer.save_metrics("eval", trainer.evaluate())
    test_metrics = trainer.evaluate(dataset["test"], metric_key_prefix="test")
    trainer.save_metrics("test", test_metrics)

    # Save
    trainer.save_model()
    trainer.save_state()
    trainer.create_model_card(dataset=data_name)
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset=data_name)

    if trainer.is_world_process_zero():
        ratios = [f"{entry['rho']:.2f}" for entry in trainer.state.log_history if "rho" in entry]
        rows = {
            "test accuracy, fused": f"{test_metrics['test_accuracy']:.3f}",
            "test accuracy, gray alone (prototypes)": f"{test_metrics['test_gray_prototype_accuracy']:.3f}",
            "test accuracy, colored alone (prototypes)": f"{test_metrics['test_colored_prototype_accuracy']:.3f}",
            "ratio gray / colored, least of the logs": min(ratios, default="not logged"),
            "ratio gray / colored, last": (ratios or ["not logged"])[-1],
            "training time": f"{train_metrics['train_runtime']:.0f} s",
            "saved to": training_args.output_dir,
        }
        print(f"\n{script_args.method} on {data_name}, {script_args.fusion}")
        for name, value in rows.items():
            print(f"  {name:<42}  {value}")


if __name__ == "__main__":
    main()
