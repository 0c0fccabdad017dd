"""Incomplete checkpoints, full disks, and other things that stop a run."""

import os
import shutil
import signal

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from helpers.snapshots import changed, snapshot
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import get_worker_info
from transformers import TrainerCallback

from pmr_hf.training.checkpoints import checkpoint_problems, newest_complete_checkpoint
from pmr_hf.training.failures import check_writable


SETTINGS = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 4}
NEEDED = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]


@pytest.fixture
def trained(make_trainer):
    """A run of 16 steps with a checkpoint every 4 steps, of which only the first two are left."""
    trainer = make_trainer(**SETTINGS)
    trainer.train()
    trainer.weights = snapshot(trainer.model)
    for step in (12, 16):
        shutil.rmtree(f"{trainer.args.output_dir}/checkpoint-{step}")
    return trainer


def name_of(checkpoint):
    return checkpoint and os.path.basename(checkpoint)


def test_the_newest_checkpoint_with_every_file_whole(trained, tmp_path):
    folder = trained.args.output_dir
    assert name_of(newest_complete_checkpoint(folder)) == "checkpoint-8"
    for name in NEEDED:
        for harm in ("deleted", "cut", "empty"):
            shutil.copytree(folder, tmp_path / "harmed")
            file = tmp_path / "harmed" / "checkpoint-8" / name
            whole = file.read_bytes()
            file.unlink() if harm == "deleted" else file.write_bytes(whole[: len(whole) // 2 if harm == "cut" else 0])
            assert name_of(newest_complete_checkpoint(tmp_path / "harmed")) == "checkpoint-4", (name, harm)
            assert any(name in problem for problem in checkpoint_problems(file.parent))
            shutil.rmtree(tmp_path / "harmed")


def test_a_shard_of_the_weights_that_is_missing(trained, tmp_path):
    checkpoint = f"{trained.args.output_dir}/checkpoint-8"
    os.remove(f"{checkpoint}/model.safetensors")
    trained.model.save_pretrained(checkpoint, max_shard_size="10KB")
    shards = [name for name in os.listdir(checkpoint) if name.startswith("model-")]
    assert len(shards) > 1 and not checkpoint_problems(checkpoint)
    os.remove(f"{checkpoint}/{shards[0]}")
    assert checkpoint_problems(checkpoint) == [f"there is no {shards[0]}"]


def test_a_checkpoint_of_two_processes_needs_the_random_states_of_both(trained, tmp_path):
    folder = trained.args.output_dir
    with pytest.raises(ValueError, match=r"checkpoint of 2 process.*another number .* has written rng_state.pth"):
        newest_complete_checkpoint(folder, processes=2)
    states = f"{folder}/checkpoint-8/rng_state"
    shutil.move(f"{states}.pth", f"{states}_0.pth")
    assert name_of(newest_complete_checkpoint(folder)) == "checkpoint-4"
    assert "there is no rng_state_1.pth" in checkpoint_problems(f"{folder}/checkpoint-8", 2)
    shutil.copy(f"{states}_0.pth", f"{states}_1.pth")
    assert name_of(newest_complete_checkpoint(folder, processes=2)) == "checkpoint-8"


def test_without_a_complete_checkpoint_training_starts_from_the_beginning(trained, make_trainer, tmp_path):
    assert newest_complete_checkpoint(tmp_path / "nothing") is None
    folder = trained.args.output_dir
    shutil.rmtree(f"{folder}/checkpoint-8")
    os.remove(f"{folder}/checkpoint-4/trainer_state.json")  # as if the run was killed before writing it
    assert newest_complete_checkpoint(folder) is None
    anew = make_trainer(**SETTINGS)
    anew.train(resume_from_checkpoint=True)
    assert not changed(trained.weights, anew.model)


def test_checkpoints_that_were_saved_without_the_optimizer(make_trainer):
    trainer = make_trainer(save_only_model=True, **SETTINGS)
    trainer.train()
    with pytest.raises(ValueError, match=r"Expected a complete checkpoint.*checkpoint-16 \(there is no optimizer.pt"):
        trainer.train(resume_from_checkpoint=True)


def test_a_path_to_an_incomplete_checkpoint_is_followed_with_a_warning(trained, make_trainer, monkeypatch):
    checkpoint, warnings = f"{trained.args.output_dir}/checkpoint-8", []
    os.remove(f"{checkpoint}/rng_state.pth")
    monkeypatch.setattr("pmr_hf.training.multimodal_trainer.logger.warning", warnings.append)
    make_trainer(**SETTINGS).train(resume_from_checkpoint=checkpoint)
    assert any("there is no rng_state.pth" in warning for warning in warnings)


def test_a_full_disk(trained, make_trainer):
    """Every write to `/dev/full` fails as on a full disk."""
    folder = trained.args.output_dir
    os.makedirs(f"{folder}/checkpoint-12")
    os.symlink("/dev/full", f"{folder}/checkpoint-12/optimizer.pt")
    with pytest.raises(
        RuntimeError, match=r"the disk is full; free some space.*checkpoint is .*checkpoint-8\."
    ) as error:
        make_trainer(**SETTINGS).train(resume_from_checkpoint=True)
    assert "\n" not in str(error.value)
    os.remove(f"{folder}/checkpoint-12/optimizer.pt")
    resumed = make_trainer(**SETTINGS)
    resumed.train(resume_from_checkpoint=True)
    assert not changed(trained.weights, resumed.model)


def test_an_output_dir_that_cannot_be_written_to(make_trainer, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Expected to save in .*file is not a folder; choose another `output_dir`"):
        make_trainer(output_dir=str(tmp_path / "file" / "out"))
    check_writable(tmp_path / "new" / "out")
    tmp_path.chmod(0o555)
    child = os.fork()
    if child == 0:  # root may write anywhere
        if os.getuid() == 0:
            os.setuid(65534)
        try:
            check_writable(tmp_path / "new" / "out")
        except OSError as error:
            os._exit(0 if "cannot be written to" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_file_that_is_deleted_while_training(make_trainer, digits, tmp_path, workers):
    class Delete(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 9:  # in the second epoch
                for file in files:
                    os.remove(file)

    files = [str(tmp_path / f"{i}.png") for i in range(64)]
    for file, row in zip(files, digits, strict=True):
        row["picture"].save(file)
    names = digits.features["label"].names
    features = Features({"picture": Value("string"), "caption": Value("string"), "label": ClassLabel(names=names)})
    rows = {"picture": files, "caption": digits["caption"][:], "label": digits["label"][:]}
    trainer = make_trainer(
        train_dataset=Dataset.from_dict(rows, features=features),
        trainer_kwargs={"callbacks": [Delete()]},
        dataloader_num_workers=workers,
        dataloader_prefetch_factor=1 if workers else None,
        **SETTINGS,
    )
    with pytest.raises(ValueError, match=r"Expected 'image' in row . of this batch, column 'picture', but .*\.png"):
        trainer.train()
    assert name_of(newest_complete_checkpoint(trainer.args.output_dir)) == "checkpoint-8"


class KillsItsWorker(TorchDataset):
    """A dataset that kills the worker process when it reads row 5 for the second time."""

    def __init__(self, rows):
        self.rows, self.read = rows, 0

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        self.read += i == 5
        if self.read == 2 and get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.rows[i]


@pytest.mark.usefixtures("workers_end")
def test_a_worker_that_dies(make_trainer, digits):
    trainer = make_trainer(
        train_dataset=KillsItsWorker(digits),
        prototype_source="online",
        dataloader_num_workers=1,
        dataloader_persistent_workers=True,
        **SETTINGS,
    )
    with pytest.raises(RuntimeError, match=r"one has died.*lower `dataloader_num_workers`.*checkpoint-8"):
        trainer.train()
    assert name_of(newest_complete_checkpoint(trainer.args.output_dir)) == "checkpoint-8"


def test_no_pickle_but_in_checkpoints(make_trainer, tmp_path):
    trainer = make_trainer(prototype_source="online", eval_strategy="epoch", **SETTINGS)
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    trainer.create_model_card()
    kinds = {os.path.splitext(name)[1] for name in os.listdir(trainer.args.output_dir) if "." in name}
    assert kinds == {".json", ".safetensors", ".md", ".png", ".py"}
