"""
Kill a training run repeatedly with SIGKILL and let it resume each time. test_killed.py runs this script.

    kill_and_resume.py FOLDER KILLS

FOLDER holds the model, the processor and the data. A run is killed at a random moment, or right after it starts to
write a checkpoint or to refresh the prototypes. The last line of the output is a JSON object: the number of kills in
each phase, the number of kills that left an incomplete checkpoint, the number of runs that ended, and the names of the
weights that then differ from those of a run without kills.
"""

import json
import os
import random
import select
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from datasets import load_from_disk
from safetensors.torch import load_file
from transformers import TrainerCallback

from pmr_hf import MultimodalCollator, MultimodalModel, MultimodalProcessor, PMRTrainer, PMRTrainingArguments
from pmr_hf.training.checkpoints import checkpoint_problems


PHASES = {"s": "saving", "r": "refreshing", "t": "training"}


class ReportingTrainer(PMRTrainer):
    """Tells the parent process which phase begins."""

    phases: int

    def save_model(self, output_dir=None, _internal_call=False):
        os.write(self.phases, b"s")
        super().save_model(output_dir, _internal_call)

    def refresh_prototypes(self, momentum=None):
        os.write(self.phases, b"r")
        super().refresh_prototypes(momentum)
        os.write(self.phases, b"t")


class ReportSaved(TrainerCallback):
    """Tells the parent process that a checkpoint is written."""

    def __init__(self, phases):
        self.phases = phases

    def on_save(self, args, state, control, **kwargs):
        os.write(self.phases, b"t")


def train(folder: Path, output: Path, source: str, phases: int) -> None:
    args = PMRTrainingArguments(
        str(output),
        per_device_train_batch_size=8,
        num_train_epochs=3,
        learning_rate=1e-2,
        prototype_source=source,
        prototype_fraction=0.5,
        prototype_refresh_steps=3,
        save_strategy="steps",
        save_steps=2,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    processor = MultimodalProcessor.from_pretrained(folder / "processor")
    trainer = ReportingTrainer(
        model=MultimodalModel.from_pretrained(folder / "model"),
        args=args,
        train_dataset=load_from_disk(folder / "data"),
        processing_class=processor,
        data_collator=MultimodalCollator(processor, {"image": "picture", "text": "caption"}),
        callbacks=[ReportSaved(phases)],
    )
    trainer.phases = phases
    trainer.train(resume_from_checkpoint=True)
    trainer.save_model()


def start(folder: Path, output: Path, source: str) -> tuple[int, int]:
    """Train in a child process. Return its id and a pipe from which its phases can be read."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        log = os.open(output.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        train(folder, output, source, write)
        os._exit(0)
    os.close(write)
    return child, read


def kill(child: int, phases: int, seconds: float) -> str | None:
    """Kill a child at a random moment and return its phase, or `None` if it has ended before."""
    wanted = random.choice(["any", "s", "r"])
    until, phase, count = time.time() + random.uniform(0, seconds), "t", random.randint(1, 4)
    while True:
        left = until - time.time()
        if wanted == "any" and left <= 0:
            break
        if select.select([phases], [], [], max(left, 0) if wanted == "any" else None)[0]:
            told = os.read(phases, 1).decode()
            if told == "":
                break
            phase = told
            count -= phase == wanted
            if wanted != "any" and count == 0:
                time.sleep(random.uniform(0, 0.02))
                if select.select([phases], [], [], 0)[0]:
                    phase = os.read(phases, 1).decode() or phase
                break
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return PHASES[phase]
    assert status == 0, "the training run failed by itself; see its log"
    return None


def main() -> None:
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    random.seed(0)
    torch.set_num_threads(1)
    phases, half_written, ended, different = Counter(), 0, 0, set()
    for source in ("subset", "online"):
        began = time.time()
        child, pipe = start(folder, folder / f"whole_{source}", source)
        assert os.waitpid(child, 0)[1] == 0, (folder / f"whole_{source}.log").read_text()
        os.close(pipe)
        seconds = time.time() - began
        whole = load_file(folder / f"whole_{source}" / "model.safetensors")
        output, left = folder / f"killed_{source}", kills // 2
        while True:
            child, pipe = start(folder, output, source)
            if left > 0:
                phase = kill(child, pipe, seconds)
            else:
                assert os.waitpid(child, 0)[1] == 0, output.with_suffix(".log").read_text()
                phase = None
            os.close(pipe)
            if phase is None:
                ended += 1
                weights = load_file(output / "model.safetensors")
                different |= {key for key in whole if not torch.equal(whole[key], weights[key])}
                if left == 0:
                    break
                shutil.rmtree(output)
            else:
                left -= 1
                phases[phase] += 1
                half_written += any(checkpoint_problems(path) for path in output.glob("checkpoint-*"))
    print(json.dumps({"killed": phases, "half_written": half_written, "ended": ended, "different": sorted(different)}))


if __name__ == "__main__":
    main()
