"""`SavingTrainer`: `Trainer` that saves all of a file or nothing, holds its folder, and pushes no pickle."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from huggingface_hub.errors import EntryNotFoundError, HTTPError  # the HTTPError of the client's httpx
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from .checksums import write_checksums
from .failures import failures_explained
from .folder_lock import TRAINING_LOCK, held
from .run_identity import RunRecord
from .whole_files import saved_whole, write_json, write_whole


logger = logging.get_logger(__name__)

WEIGHT_FILES = r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?"
PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")


class SavingTrainer(Trainer):
    """
    `Trainer` whose files are written whole or not at all. A checkpoint has the record of its run and the state of its
    method. A failed write is explained.
    """

    run_record: RunRecord | None = None  # of the run that is under way
    _checkpoint: Path | None = None  # the checkpoint that was saved last

    def save_method_state(self, folder: str) -> None:
        """
        Save what the method needs to resume, beside the model in `folder`. The trainer calls this method in every
        process after it has saved a checkpoint. Override it. Only the process with `self.args.should_save` may write.
        """

    @contextmanager
    def folder_held(self) -> Iterator[None]:
        """Lock the output folder. Raises `RuntimeError` if another process trains there."""
        folder = Path(self.args.output_dir)
        with held(folder / TRAINING_LOCK, str(folder), "choose another `output_dir`"):
            yield

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """
        Save as `Trainer` does. If saving fails, the files that were there stay. Raises `RuntimeError` for a full or
        read-only disk, or if another process trains in the folder.
        """
        if _internal_call and output_dir is not None:
            self._save_checkpoint_files(Path(output_dir))
            return
        folder = Path(self.args.output_dir if output_dir is None else output_dir)
        is_own = folder == Path(self.args.output_dir)
        with self.saving_explained(), ExitStack() as stack:
            if is_own and self.args.should_save:
                stack.enter_context(self.folder_held())
            staged = self.args.should_save and not self.is_deepspeed_enabled  # DeepSpeed saves in all processes
            part = stack.enter_context(saved_whole(folder, WEIGHT_FILES)) if staged else folder
            super().save_model(str(part), _internal_call=True)
            if is_own and self.args.should_save:
                # This file is a pickle, and would be pushed. The checkpoints keep their copies.
                (part / "training_args.bin").unlink(missing_ok=True)
                (folder / "training_args.bin").unlink(missing_ok=True)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save_checkpoint_files(self, folder: Path) -> None:
        """Save the model and the state of the method. `Trainer` saves the rest of a checkpoint afterwards."""
        if self.args.should_save:
            for path in folder.rglob("*") if folder.name.startswith(PREFIX_CHECKPOINT_DIR) else ():
                if path.is_file():  # of a run that was here before
                    path.unlink()
            if self.run_record is not None:
                folder.mkdir(parents=True, exist_ok=True)
                self.run_record.write(folder)
        self.accelerator.wait_for_everyone()  # the other processes save their random states there
        super().save_model(str(folder), _internal_call=True)
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)  # FSDP has not written there yet
        self.save_method_state(str(folder))
        self._checkpoint = folder

    def save_state(self) -> None:
        """Save `trainer_state.json` as `Trainer` does, all of it or nothing."""
        if self.is_world_process_zero():
            with self.saving_explained():
                content = json.dumps(asdict(self.state), indent=2, sort_keys=True) + "\n"
                write_whole(Path(self.args.output_dir, "trainer_state.json"), content)

    def save_metrics(self, split: str, metrics: dict[str, float], combined: bool = True) -> None:
        """Save the metrics of a split as `Trainer` does, all of them or nothing."""
        if not self.is_world_process_zero():
            return
        folder = Path(self.args.output_dir)
        with self.saving_explained():
            write_json(folder / f"{split}_results.json", dict(sorted(metrics.items())))
            if combined:
                file = folder / "all_results.json"
                try:
                    known = json.loads(file.read_bytes()) if file.is_file() else {}
                except ValueError:  # cut short, as by `Trainer` on a full disk
                    logger.warning(f"Cannot read {file}: writing it anew.")
                    known = {}
                write_json(file, dict(sorted((known | metrics).items())))

    @contextmanager
    def saving_explained(self) -> Iterator[None]:
        """Explain a full or read-only disk."""
        again = "save again, or resume with `resume_from_checkpoint=True`"
        with failures_explained(self.args.output_dir, self.args.world_size, again):
            yield

    def push_to_hub(self, *args, **kwargs):
        """
        Push the model, as `Trainer.push_to_hub` does.

        Raises:
            ValueError: if `output_dir` holds pickles, which would be pushed too.
            RuntimeError: if the upload fails. Everything is saved in `output_dir` by then.
        """
        folder = Path(self.args.output_dir)
        (folder / "training_args.bin").unlink(missing_ok=True)  # as `save_model` does
        names = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix in PICKLES)
        # `Trainer` pushes no checkpoints of its own, but those that lie deeper, in folders of other runs.
        pickles = sorted(str(name) for name in names if not name.parts[0].startswith((PREFIX_CHECKPOINT_DIR, "_")))
        if pickles:
            raise ValueError(
                f"Expected no pickles to push in {folder}, got {len(pickles)}, first {pickles[0]}; delete them, such "
                "as the checkpoints of other runs, and push again."
            )
        if self.hub_model_id is None:  # `Trainer` would ask the Hub for a repository before it saves
            self.save_model(_internal_call=True)
        try:
            return super().push_to_hub(*args, **kwargs)
        except (HTTPError, EntryNotFoundError, OSError, RuntimeError) as error:
            name = self.hub_model_id or self.args.hub_model_id or folder.name
            raise RuntimeError(
                f"Expected to push to {name}, but the upload failed ({error}). The model is saved in "
                f"{folder}: push again with `trainer.push_to_hub()`, or by `hf upload`."
            ) from error


class EndCheckpoint(TrainerCallback):
    """Writes the checksums of a checkpoint once all processes have written their files."""

    def __init__(self, trainer: SavingTrainer):
        self.trainer = trainer

    def on_save(self, args, state, control, **kwargs):
        self.trainer.accelerator.wait_for_everyone()
        checkpoint = self.trainer._checkpoint
        if args.should_save and checkpoint is not None and checkpoint.is_dir():
            write_checksums(checkpoint)
