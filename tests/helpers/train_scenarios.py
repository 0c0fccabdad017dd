"""
Train several scenarios, one after the other, in one process or in several. test_distributed.py launches this script.

    train_scenarios.py FOLDER OUTPUT [NAME ...]

FOLDER holds the model, the processor, the datasets and `scenarios.json`, which maps names to the arguments of `run`.
OUTPUT gets a folder for each scenario, or for each NAME.
"""

import json
import os
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from datasets import load_from_disk
from torch.distributed.tensor import DTensor
from transformers.distributed import DistributedConfig

import pmr_hf
from pmr_hf import MultimodalCollator, MultimodalModel, MultimodalProcessor
from pmr_hf.data.augmentation import CropAndFlip


DEFAULTS = {
    "num_train_epochs": 2,
    "optim": "sgd",
    "learning_rate": 0.1,
    "max_grad_norm": 0.0,
    "train_sampling_strategy": "sequential",
    "prototype_fraction": 0.5,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}


def run(
    folder: Path,
    output: Path,
    data: str,
    batch: int,
    options: dict,
    stream: bool = False,
    resume: str | None = None,
    shard: str | None = None,
    method: str = "PMRTrainer",
    model: str = "model",
    reference: str | None = None,
    augment: bool = False,
) -> None:
    """Train with the same global batch for any number of processes. Save model, state and metrics."""
    trainer_class = getattr(pmr_hf, method)
    own = {"pmr_alpha": 2.0} if method == "PMRTrainer" else {}
    args = trainer_class.args_class(str(output), **(DEFAULTS | own | options))
    args.per_device_train_batch_size = batch // args.world_size
    args.per_device_eval_batch_size = options.get("per_device_eval_batch_size", batch) // args.world_size
    shard = shard if args.world_size > 1 else None
    if shard == "accelerate":
        # Accelerate shards only on GPUs. On CPUs it leaves the model whole and gives no warning.
        AcceleratorState._reset_state()
        PartialState().distributed_type = DistributedType.MULTI_GPU
        os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}
        os.environ |= {"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "FSDP_RESHARD_AFTER_FORWARD": "true"}
    by_transformers = {"distributed_config": DistributedConfig(fsdp_size=args.world_size)}
    processor = MultimodalProcessor.from_pretrained(folder / "processor")
    dataset = load_from_disk(folder / data)
    trainer = trainer_class(
        model=MultimodalModel.from_pretrained(folder / model, **(by_transformers if shard == "transformers" else {})),
        args=args,
        train_dataset=dataset.to_iterable_dataset() if stream else dataset,
        eval_dataset=dataset,
        prototype_dataset=None if reference is None else load_from_disk(folder / reference),
        processing_class=processor,
        data_collator=MultimodalCollator(
            processor, {"image": "picture", "text": "caption"}, augment={"image": CropAndFlip()} if augment else None
        ),
    )
    trainer.train(resume_from_checkpoint=None if resume is None else str(output.parent / resume))
    for group in trainer.optimizer.param_groups:
        assert all(isinstance(parameter, DTensor) == (shard is not None) for parameter in group["params"])
    metrics = trainer.evaluate()
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        (output / "metrics.json").write_text(json.dumps(metrics))


if __name__ == "__main__":
    folder, output = map(Path, sys.argv[1:3])
    scenarios = json.loads((folder / "scenarios.json").read_text())
    for name in sys.argv[3:] or scenarios:
        run(folder, output / name, **scenarios[name])
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
