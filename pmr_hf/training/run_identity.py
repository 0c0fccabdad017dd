"""
Who a run is: what it writes about itself into its output folder and into each of its checkpoints.

A run resumes from its own checkpoints. The checkpoints of an earlier run in the same folder are not its own, and a
checkpoint of other modalities, or of another method, cannot continue as this run.
"""

import json
import zlib
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from transformers import TrainingArguments
from transformers.utils import logging

from ..model.configuration import MultimodalConfig
from ..model.targets import SINGLE_LABEL
from .whole_files import write_json


logger = logging.get_logger(__name__)

RECORD = "_run.json"  # names that begin with _ are not pushed to the Hub
# The inherited arguments that change the weights. Those of a method, which `TrainingArguments` lacks, all do.
INHERITED = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "optim_args",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "label_smoothing_factor",
    "train_sampling_strategy",
    "seed",
    "bf16",
    "fp16",
)
# The optimizer and the schedule continue with the values that are in the checkpoint.
KEPT = {"learning_rate", "lr_scheduler_type", "weight_decay", "optim_args", "modality_learning_rates"}
KEPT |= {"adam_beta1", "adam_beta2", "adam_epsilon"}


@dataclass
class RunRecord:
    """
    The record of a run.

    Attributes:
        facts (`dict[str, Any]`): what must be the same to resume: the method, the problem type, the modalities, the
            fusion head, the encoders, the numbers of classes and of training rows, and the optimizer.
        arguments (`dict[str, Any]`): what changes the result, but may differ.
        id (`str`, *optional*): identifies the run. `None` for a checkpoint that was written before there were records.
        ancestors (`list`): the runs that this run continues, each as its id and the step that it was left at.
        began (`str`): when the run began.
    """

    facts: dict[str, Any]
    arguments: dict[str, Any]
    id: str | None = field(default_factory=lambda: uuid4().hex)
    ancestors: list[list[Any]] = field(default_factory=list)
    began: str = field(default_factory=lambda: datetime.now().astimezone().isoformat(timespec="seconds"))

    def owns(self, other: "RunRecord", step: int) -> bool:
        """Whether a checkpoint of the run `other` at a step belongs to this run, or to what it continues."""
        return other.id == self.id or any(other.id == id and step <= left for id, left in self.ancestors)

    def write(self, folder: Path) -> None:
        """Write the record to a folder, as `_run.json`."""
        write_json(folder / RECORD, asdict(self))


def read_record(folder: Path) -> RunRecord | None:
    """The record in an output folder or a checkpoint. `None` if there is none or, with a warning, no readable one."""
    file = folder / RECORD
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_bytes())
        return RunRecord(**{each.name: found[each.name] for each in fields(RunRecord)})
    except (ValueError, TypeError, KeyError):
        logger.warning(f"Cannot read {file}, which says what run the folder belongs to; treating it as missing.")
        return None


def record_of_checkpoint(checkpoint: Path) -> RunRecord:
    """The record of a checkpoint. One without a record has no id, and only the facts that its `config.json` states."""
    record = read_record(checkpoint)
    if record is not None:
        return record
    file = checkpoint / "config.json"
    config = json.loads(file.read_bytes()) if file.is_file() else {}
    return RunRecord(facts_of_config(config), {}, id=None)


def facts_of_config(config: dict[str, Any]) -> dict[str, Any]:
    """What the configuration of a [`MultimodalModel`] states of a run. Empty for another model's configuration."""
    if config.get("model_type") != MultimodalConfig.model_type:
        return {}
    backbones = config.get("backbones", {})
    return {
        "modalities": config.get("modalities"),
        "fusion": config.get("fusion"),
        "encoders": {name: backbones[name].get("model_type") for name in sorted(backbones)},
        "problem_type": config.get("problem_type") or SINGLE_LABEL,
        "classes": len(config.get("id2label", (0, 1))),  # two by default
    }


def arguments_that_matter(args: TrainingArguments) -> dict[str, Any]:
    """The arguments that change the weights, by name, in types of JSON."""
    inherited = {each.name for each in fields(TrainingArguments)}
    own = [each.name for each in fields(args) if each.name not in inherited]
    values = args.to_dict()
    return json.loads(json.dumps({name: values[name] for name in [*INHERITED, *own]}, default=str))


def fingerprint_of(labels: np.ndarray | None) -> str | None:
    """A fingerprint of the labels of the training rows in their order, or `None` if they are not known."""
    if labels is None or labels.dtype.kind not in "iubf":
        return None
    kept = np.float64 if labels.dtype.kind == "f" else np.int64
    return f"{zlib.crc32(np.ascontiguousarray(labels, dtype=kept)):08x}"


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The values that two runs both have and that differ, each as "name: value there, value here"."""
    return [
        f"{name}: {before[name]} there, {now[name]} here"
        for name in before
        if name in now and before[name] != now[name]
    ]


def stated(values: dict[str, Any]) -> dict[str, Any]:
    """The values that are known."""
    return {name: value for name, value in values.items() if value is not None}


def check_same_run(checkpoint: str, before: RunRecord, now: RunRecord) -> list[str]:
    """
    Compare the run that wrote a checkpoint with the one that would resume from it. Returns a warning of the arguments
    that differ, if there are any.

    Raises:
        ValueError: for another method, problem type, fusion head or optimizer, or other modalities, encoders, classes
            or rows.
    """
    found = differences(stated(before.facts), stated(now.facts))
    if found:
        raise ValueError(
            f"Expected a checkpoint of this run, got {checkpoint}, which differs ({'; '.join(found)}); resume with the "
            "same settings, or train in another `output_dir`. To train on from its weights alone, load the model with "
            "`from_pretrained`."
        )
    changed = differences(before.arguments, now.arguments)
    kept = sorted(name for name in KEPT if differences({name: before.arguments.get(name)}, now.arguments))
    note = f" The optimizer and the schedule keep the {', '.join(kept)} of the checkpoint." if kept else ""
    return [f"Resuming from {checkpoint} with other arguments ({'; '.join(changed)}).{note}"] if changed else []
