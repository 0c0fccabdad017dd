"""
Train several scenarios, one after the other, in two processes and then in one. test_distributed.py starts this script.

    train_scenarios.py FOLDER

FOLDER holds the models, the processor, the datasets and `scenarios.json`, which maps names to the arguments of `run`.
`FOLDER/two` and `FOLDER/one` get a folder for each scenario. The two processes are forks, so that everything is
imported once.
"""

import gc
import json
import os
import socket
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from datasets import load_from_disk
from torch.distributed.tensor import DTensor
from torch.multiprocessing import ProcessExitedException, start_processes
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


ONLY_TWO = ["short_online", "resumed", "uneven_saved", "uneven_resumed", "sharded_resumed"]  # not compared with one
ONLY_TWO += ["agm_saved", "agm_resumed", "valued_saved", "valued_resumed"]


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
    eval_rows: int | None = None,
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
        eval_dataset=dataset if eval_rows is None else dataset.select(range(eval_rows)),
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


def run_all(folder: Path, output: Path, names: list[str]) -> None:
    scenarios = json.loads((folder / "scenarios.json").read_text())
    for name in names:
        run(folder, output / name, **scenarios[name])


def run_as_rank(rank: int, port: int, *arguments) -> None:
    """Run all as one of two processes, with the environment variables of `torchrun`."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    run_all(*arguments)
    torch.distributed.destroy_process_group()


def run_in_two_processes(*arguments, attempts: int = 1) -> None:
    for attempt in range(1, attempts + 1):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        try:
            start_processes(run_as_rank, args=(port, *arguments), nprocs=2, start_method="fork")
            return
        except ProcessExitedException as error:
            # torch's DTensors sometimes crash over gloo. Any other failure is ours.
            if error.signal_name not in ("SIGSEGV", "SIGABRT") or attempt == attempts:
                raise


if __name__ == "__main__":
    gc.freeze()  # `Trainer.train` collects garbage, which takes a third of a second with all that is imported
    folder = Path(sys.argv[1])
    names = list(json.loads((folder / "scenarios.json").read_text()))
    sharded = [name for name in names if "sharded" in name]
    run_in_two_processes(folder, folder / "two", [name for name in names if name not in sharded])
    run_in_two_processes(folder, folder / "two", sharded, attempts=4)
    run_all(folder, folder / "one", [name for name in names if name not in ONLY_TWO])
