"""
Train PMR on CG-MNIST with prototypes of 960 *test* digits, as the authors' code does, to see what that leak is worth.

    python benchmarks/leak_test_prototypes.py --dataset cg_mnist --data_dir mnist --output_dir outputs/leak ...

The script takes the arguments of `examples/run_pmr.py`, and adds a line to `results.jsonl` in the output folder. Its
accuracy is no result of a method: the labels of test digits steer the training.
"""

import json
import logging
from pathlib import Path

from transformers import set_seed

from pmr_hf import PMRTrainer
from pmr_hf.command_line.build import add_new_encoders, build_collator, build_model, pretrained_processor
from pmr_hf.command_line.parse_arguments import parse_arguments
from pmr_hf.command_line.splits import load_splits
from pmr_hf.data.tables import draw_rows
from pmr_hf.inference.modality_report import modality_report


TEST_DIGITS = 960  # 15 batches of 64 in the authors' main_Prototype_grad.py


def main() -> None:
    script_args, args = parse_arguments()
    logging.basicConfig(level=logging.INFO)
    set_seed(args.seed)
    pretrained = pretrained_processor(script_args)
    dataset = load_splits(script_args, pretrained, args.seed)
    backbones, processor = add_new_encoders(script_args, pretrained, dataset["train"])
    collator = build_collator(script_args, processor)
    if script_args.preprocess == "cached":
        dataset = collator.cache(dataset)
    trainer = PMRTrainer(
        model=build_model(script_args, backbones, dataset["train"].features["label"].names),
        args=args,
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"],
        prototype_dataset=draw_rows(dataset["test"], TEST_DIGITS, args.seed),
        processing_class=processor,
        data_collator=collator,
    )
    trainer.train(resume_from_checkpoint=True)
    trainer.save_model()
    report = modality_report(trainer.model.eval(), collator, dataset, args.per_device_eval_batch_size, args.seed)
    line = {"method": "pmr_test_prototypes", "setting": None, "fusion": script_args.fusion, "seed": args.seed} | report
    with (Path(args.output_dir) / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line))


if __name__ == "__main__":
    main()
