"""Folders have owners: whose checkpoint is taken, who may write, and what damage, foreign files and full disks do."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.scripts import EXAMPLES
from helpers.snapshots import changed, snapshot
from torch import nn
from transformers import TrainerCallback

from pmr_hf import OGMTrainer
from pmr_hf.training.checkpoints import checkpoint_problems, foreign_optimizer_state, newest_complete_checkpoint
from pmr_hf.training.failures import failures_explained
from pmr_hf.training.folder_lock import TRAINING_LOCK, held
from pmr_hf.training.resuming import begin_run
from pmr_hf.training.run_identity import RunRecord, differences, fingerprint_of, read_record
from pmr_hf.training.whole_files import saved_whole, write_whole


SETTINGS = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 4, "eval_strategy": "no"}


class Stop(TrainerCallback):
    """Ends a run as a kill does, after some step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole(make_model, processor, digits, tmp_path_factory):
    """The folder of a run with checkpoints at the steps 4, 8, 12 and 16, and its last weights."""
    from pmr_hf import MultimodalCollator, PMRTrainer, PMRTrainingArguments

    folder = tmp_path_factory.mktemp("whole") / "out"
    args = PMRTrainingArguments(
        str(folder),
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        logging_steps=1,
        **SETTINGS,
    )
    collator = MultimodalCollator(processor, columns={"image": "picture", "text": "caption"}, label="label")
    trainer = PMRTrainer(make_model(), args, train_dataset=digits, processing_class=processor, data_collator=collator)
    trainer.train()
    return folder, snapshot(trainer.model)


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of that folder, which is the output folder of `make_trainer`."""
    shutil.copytree(whole[0], tmp_path / "out")
    return tmp_path / "out"


def newest(folder):
    found = newest_complete_checkpoint(folder)
    return found and os.path.basename(found)


def legacy(folder):
    """Make a folder look as one that was written before runs had records and checksums."""
    for name in ("_run.json", "checksums.json"):
        for path in folder.rglob(name):
            path.unlink()


# ---- Whose checkpoint ----


def test_a_run_writes_who_it_is(folder):
    record = read_record(folder)
    assert record.facts == {
        "method": "PMRTrainer",
        "modalities": ["image", "text"],
        "fusion": "concat",
        "encoders": {"image": "vit", "text": "bert"},
        "problem_type": "single_label_classification",
        "classes": 4,
        "rows": 64,
        "optimizer": "adamw_torch_fused",
    }
    assert record.arguments["learning_rate"] == 0.01 and record.arguments["pmr_alpha"] == 1.0
    assert {read_record(path).id for path in folder.glob("checkpoint-*")} == {record.id}
    assert "output_dir" not in record.arguments and str(folder) not in (folder / "_run.json").read_text()


def test_the_checkpoint_of_an_older_run_is_not_taken(folder, whole, make_trainer, caplog):
    """The issue's case: an older run left checkpoint-16, a newer one is killed after checkpoint-8."""
    killed = make_trainer(trainer_kwargs={"callbacks": [Stop(9)]}, **SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    assert newest(folder) == "checkpoint-8"
    resumed = make_trainer(**SETTINGS)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.resumed_from.endswith("checkpoint-8") and not changed(whole[1], resumed.model)
    assert "checkpoint-16, which another run wrote; give its path" in caplog.text
    assert read_record(folder).id == killed.run_record.id == resumed.run_record.id


def test_a_new_run_without_a_checkpoint_takes_none(folder):
    RunRecord({}, {}).write(folder)
    assert newest(folder) is None


def begin(folder, resume, facts=None, arguments=None):
    record = read_record(folder if resume is True else Path(resume))
    run = RunRecord(facts or dict(record.facts), arguments or dict(record.arguments))
    return begin_run(folder, resume, 1, run, nn.Linear(1, 1))


def test_a_run_that_was_resumed_by_name_owns_what_it_continues(folder):
    first = read_record(folder).id
    _, run, _ = begin(folder, str(folder / "checkpoint-8"))
    assert run.id != first and run.ancestors == [[first, 8]]
    assert newest(folder) == "checkpoint-8"  # and not 12 or 16, which it has left behind
    (folder / "checkpoint-8" / "optimizer.pt").unlink()
    assert newest(folder) == "checkpoint-4"


def test_checkpoints_of_an_older_version_still_resume(folder, whole, make_trainer):
    legacy(folder)
    shutil.rmtree(folder / "checkpoint-16")
    resumed = make_trainer(trainer_kwargs={"callbacks": [Stop(13)]}, **SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        resumed.train(resume_from_checkpoint=True)
    assert resumed.resumed_from.endswith("checkpoint-12") and read_record(folder).ancestors == [[None, 12]]
    assert newest(folder) == "checkpoint-12"  # killed before its own first checkpoint
    again = make_trainer(**SETTINGS)
    again.train(resume_from_checkpoint=True)
    assert not changed(whole[1], again.model) and read_record(folder / "checkpoint-16").id is not None


def test_a_broken_record_counts_as_none(folder, caplog):
    for text in ("", "{}", "[]", '{"id": 1'):
        (folder / "_run.json").write_text(text)
        assert newest(folder) == "checkpoint-16"
    assert "_run.json, which says what run the folder belongs to" in caplog.text


OTHER = [
    ("method", "OGMTrainer"),
    ("modalities", ["image"]),
    ("fusion", "film"),
    ("encoders", {"image": "vit", "text": "roberta"}),
    ("problem_type", "regression"),
    ("classes", 5),
    ("rows", 63),
    ("optimizer", "sgd"),
]


@pytest.mark.parametrize("by_name", [True, False], ids=["named", "newest"])
@pytest.mark.parametrize(("name", "value"), OTHER, ids=[name for name, _ in OTHER])
def test_a_checkpoint_of_another_kind_of_run_is_refused(folder, name, value, by_name):
    before = read_record(folder)
    with pytest.raises(ValueError, match=r"Expected a checkpoint of this run.*checkpoint-16") as error:
        begin(folder, str(folder / "checkpoint-16") if by_name else True, before.facts | {name: value})
    assert f"{name}: {before.facts[name]} there, {value} here" in str(error.value) and "\n" not in str(error.value)
    assert read_record(folder) == before  # the folder still belongs to the run that it had


@pytest.mark.parametrize("is_legacy", [False, True])
def test_the_trainer_refuses_other_settings(folder, make_trainer, make_model, digits, is_legacy):
    if is_legacy:
        legacy(folder)
    checkpoint = str(folder / "checkpoint-16")
    with pytest.raises(ValueError, match="fusion: concat there, film here"):
        make_trainer(make_model(fusion="film"), **SETTINGS).train(resume_from_checkpoint=checkpoint)
    if not is_legacy:
        with pytest.raises(ValueError, match="method: PMRTrainer there, OGMTrainer here"):
            make_trainer(cls=OGMTrainer, **SETTINGS).train(resume_from_checkpoint=True)
        with pytest.raises(ValueError, match="rows: 64 there, 32 here"):
            make_trainer(train_dataset=digits.select(range(32)), **SETTINGS).train(resume_from_checkpoint=checkpoint)


def test_other_arguments_are_said(folder, make_trainer, caplog):
    trainer = make_trainer(**SETTINGS | {"learning_rate": 0.02, "pmr_alpha": 3.0})
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-16"))
    assert "learning_rate: 0.01 there, 0.02 here; pmr_alpha: 1.0 there, 3.0 here" in caplog.text
    assert "The optimizer and the schedule keep the learning_rate of the checkpoint." in caplog.text
    assert trainer.lr_scheduler.base_lrs[0] == 0.01  # which is true


def test_edited_labels_are_said_and_equal_ones_are_not():
    labels = np.arange(5)
    assert fingerprint_of(labels) == fingerprint_of(labels.astype("int32")) != fingerprint_of(labels[::-1])
    assert fingerprint_of(None) is None
    found = differences({"a": 1, "b": None, "c": 3, "d": 4}, {"a": 2, "b": 5, "d": 4})
    assert found == ["a: 1 there, 2 here", "b: None there, 5 here"]


def test_weights_of_other_shapes_are_one_sentence(folder):
    legacy(folder)
    model = nn.Module()
    model.classifier = nn.Linear(3, 3)
    from safetensors.torch import save_file

    save_file({"classifier.weight": torch.zeros(3, 7)}, folder / "checkpoint-16" / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 parameters have other shapes \(first classifier.weight: \[3, 7\] there"):
        begin_run(folder, str(folder / "checkpoint-16"), 1, RunRecord({}, {}), model)


# ---- Damage ----

BINARY = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"]


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", BINARY)
def test_one_flipped_bit_falls_back_to_the_checkpoint_before(folder, name, caplog):
    flip(folder / "checkpoint-16" / name)
    assert newest(folder) == "checkpoint-12"
    assert f"{name} was damaged or exchanged after it was written" in caplog.text


@pytest.mark.parametrize("name", BINARY)
def test_a_file_of_another_checkpoint_falls_back(folder, name):
    shutil.copy(folder / "checkpoint-4" / name, folder / "checkpoint-16" / name)
    assert newest(folder) == "checkpoint-12"


@pytest.mark.parametrize("is_legacy", [False, True])
@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("content", [{}, {"a": 1}, [1], torch.zeros(2)], ids=["empty", "dict", "list", "tensor"])
def test_a_foreign_file_of_torch_falls_back(folder, name, content, is_legacy):
    if is_legacy:
        legacy(folder)
    torch.save(content, folder / "checkpoint-16" / name)
    assert newest(folder) == "checkpoint-12"


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"global_step": 16}', '{"odd": 1}', '{"global_step": "16"}'])
def test_a_trainer_state_without_a_state_falls_back(folder, text, make_trainer):
    (folder / "checkpoint-16" / "trainer_state.json").write_text(text)
    assert newest(folder) == "checkpoint-12"
    with pytest.raises(ValueError, match=r"undamaged checkpoint.*trainer_state.json holds no state"):
        begin(folder, str(folder / "checkpoint-16"))


def test_the_state_of_another_step_falls_back(folder):
    shutil.copy(folder / "checkpoint-4" / "trainer_state.json", folder / "checkpoint-16")
    assert checkpoint_problems(folder / "checkpoint-16") == ["trainer_state.json is of step 4"]


@pytest.mark.parametrize("text", ["{}", "[]", '{"weight_map": {}}', '{"weight_map": [1]}', "{"])
def test_an_index_without_weights_falls_back(folder, text):
    checkpoint = folder / "checkpoint-16"
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors.index.json").write_text(text)
    assert newest(folder) == "checkpoint-12"


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_broken_config_falls_back(folder, text):
    (folder / "checkpoint-16" / "config.json").write_text(text)
    assert newest(folder) == "checkpoint-12"


@pytest.mark.parametrize("is_legacy", [False, True])
@pytest.mark.parametrize("name", ["notes.json", "training_args.bin", "notes.pt", "checksums.json", "image/notes.json"])
def test_a_stray_broken_file_discards_nothing(folder, name, is_legacy):
    if is_legacy:
        legacy(folder)
    (folder / "checkpoint-16" / name).parent.mkdir(exist_ok=True)
    (folder / "checkpoint-16" / name).write_text("{ broken")
    assert newest(folder) == "checkpoint-16"


def test_when_all_are_damaged_nothing_is_overwritten(folder, make_trainer):
    for checkpoint in folder.glob("checkpoint-*"):
        flip(checkpoint / "model.safetensors")
    before = read_record(folder)
    with pytest.raises(ValueError, match=r"Expected a complete checkpoint .*checkpoint-16 \(model.safetensors was dam"):
        make_trainer(**SETTINGS).train(resume_from_checkpoint=True)
    assert read_record(folder) == before


def test_a_named_checkpoint_that_is_damaged_or_absent_is_one_sentence(folder):
    flip(folder / "checkpoint-16" / "model.safetensors")
    with pytest.raises(ValueError, match=r"undamaged checkpoint.*model.safetensors was damaged.*name an earlier one"):
        begin(folder, str(folder / "checkpoint-16"))
    with pytest.raises(ValueError, match="found none at nowhere"):
        begin_run(folder, "nowhere", 1, RunRecord({}, {}), nn.Linear(1, 1))


def test_an_optimizer_of_another_model_is_one_sentence(folder, make_trainer):
    legacy(folder)
    other = torch.optim.AdamW(nn.Linear(2, 2).parameters())
    torch.save(other.state_dict(), folder / "checkpoint-16" / "optimizer.pt")
    with pytest.raises(ValueError, match=r"resume from .*checkpoint-16, but that failed before the first") as error:
        make_trainer(**SETTINGS).train(resume_from_checkpoint=True)
    assert "\n" not in str(error.value)


def test_the_state_of_another_optimizer_is_noticed():
    model = nn.Linear(3, 2)
    adam, sgd = torch.optim.AdamW(model.parameters()), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    adam.step(), sgd.step()
    assert foreign_optimizer_state(adam) is None and foreign_optimizer_state(sgd) is None
    sgd.load_state_dict(adam.state_dict())
    assert foreign_optimizer_state(sgd) == "it has no dampening, momentum, so another optimizer has written it"
    adam.state[model.weight]["exp_avg"] = torch.zeros(2, 4)
    assert foreign_optimizer_state(adam) == "exp_avg has the shape [2, 4] for a parameter of [2, 3]"


# ---- Two writers ----


def hold(lock):
    """The id of a process that holds a lock, and of a process that it has forked meanwhile, as data workers are."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with held(lock, "x", "y"):
            worker = os.fork()
            if worker:
                os.write(write, f"{worker}\n".encode())
            time.sleep(60)
            os._exit(0)
    with os.fdopen(read) as pipe:
        return child, int(pipe.readline())


def kill(*processes):
    for process in processes:
        os.kill(process, signal.SIGKILL)


def test_one_process_at_a_time_trains_in_a_folder(make_trainer, tmp_path, monkeypatch):
    monkeypatch.setattr("pmr_hf.training.folder_lock.WAIT_SECONDS", 0.1)
    trainer = make_trainer(num_train_epochs=1)
    process, worker = hold(tmp_path / "out" / TRAINING_LOCK)
    try:
        for write in (trainer.train, trainer.save_model):
            with pytest.raises(RuntimeError, match=rf"out, but process {process} on .*; wait.*or choose another"):
                write()
        assert not (tmp_path / "out" / "_run.json").exists()
        trainer.save_model(str(tmp_path / "elsewhere"))
    finally:
        kill(process)
        os.waitpid(process, 0)
    try:
        with held(tmp_path / "out" / TRAINING_LOCK, "x", "y"):
            os.kill(worker, 0)  # the worker still lives
    finally:
        kill(worker)


def test_a_lock_can_be_held_twice_and_is_released_after_an_error(tmp_path):
    lock = tmp_path / "lock"
    with pytest.raises(KeyError), held(lock, "x", "y"), held(lock, "x", "y"):
        raise KeyError
    assert not lock.with_name("lock.json").exists()
    kill(*hold(lock))
    with held(lock, "x", "y"):
        assert json.loads(lock.with_name("lock.json").read_text())["process"] == os.getpid()


# ---- Full disks ----


@pytest.mark.parametrize(
    "text", ["No space left on device", "Disk quota exceeded", "File too large", "basic_ios::clear: iostream error"]
)
def test_every_word_for_a_full_disk(tmp_path, text):
    wanted = r"the disk is full; free some space, then resume"
    with pytest.raises(RuntimeError, match=wanted), failures_explained(tmp_path):
        raise OSError(text)


SLOW_FILES = [pytest.param(name, marks=pytest.mark.slow) for name in ("rng_state.pth", "trainer_state.json")]


@pytest.mark.parametrize("name", ["scheduler.pt", "checksums.json", *SLOW_FILES])
def test_a_full_disk_at_each_file_of_a_checkpoint(folder, make_trainer, name):
    """Every write to `/dev/full` fails as on a full disk."""
    shutil.rmtree(folder / "checkpoint-16")
    (folder / "checkpoint-16").mkdir()
    (folder / "checkpoint-16" / name).symlink_to("/dev/full")
    with pytest.raises(RuntimeError, match=r"the disk is full.*checkpoint is .*checkpoint-1[26]\.") as error:
        make_trainer(**SETTINGS).train(resume_from_checkpoint=str(folder / "checkpoint-12"))
    assert "\n" not in str(error.value) and not checkpoint_problems(folder / "checkpoint-12")


def test_a_full_disk_at_the_final_save_loses_nothing(make_trainer, tmp_path):
    """A limit of the size of files, which the system enforces, in a process of its own."""
    trainer = make_trainer()
    trainer.save_model()
    out = tmp_path / "out"
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with torch.no_grad():
        next(trainer.model.parameters()).add_(1)
    child = os.fork()
    if child == 0:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        try:
            trainer.save_model()
        except RuntimeError as error:
            os._exit(0 if "the disk is full; free some space, then save again, or resume" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (out / "model.safetensors").unlink()
    (out / "model.safetensors").symlink_to("/dev/full")
    with pytest.raises(RuntimeError, match="the disk is full"):
        trainer.save_model()


def test_a_full_disk_at_the_metrics_and_the_state_loses_nothing(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.save_metrics("eval", {"eval_accuracy": 0.5})
    for name in ("all_results.json.part", "trainer_state.json.part"):
        (tmp_path / "out" / name).symlink_to("/dev/full")
    with pytest.raises(RuntimeError, match="the disk is full"):
        trainer.save_metrics("eval", {"eval_accuracy": 0.9})
    with pytest.raises(RuntimeError, match="the disk is full"):
        trainer.save_state()
    assert json.loads((tmp_path / "out" / "all_results.json").read_text()) == {"eval_accuracy": 0.5}
    (tmp_path / "out" / "all_results.json").write_text("")  # cut by an older version
    trainer.save_metrics("eval", {"eval_accuracy": 0.9})
    assert json.loads((tmp_path / "out" / "all_results.json").read_text()) == {"eval_accuracy": 0.9}


def test_a_folder_is_saved_whole_or_not_at_all(tmp_path):
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "model_best.safetensors"):
        (tmp_path / name).write_text("old")
    stale = r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?"
    with pytest.raises(KeyError), saved_whole(tmp_path, stale) as part:
        (part / "model.safetensors").write_text("new")
        raise KeyError
    assert len(list(tmp_path.iterdir())) == 3
    with saved_whole(tmp_path, stale) as part:
        (part / "model.safetensors").write_text("new")
        (part / "image").mkdir()
        (part / "image" / "a.json").write_text("new")
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"model.safetensors", "model_best.safetensors", "image/a.json"}
    write_whole(tmp_path / "a", "1")
    assert (tmp_path / "a").read_text() == "1" and not (tmp_path / "a.part").exists()


# ---- predict.py ----


@pytest.fixture
def job(tmp_path, monkeypatch):
    """`examples/predict.py` as a module, and arguments whose output was begun with two of three rows."""
    import argparse
    import importlib.util

    spec = importlib.util.spec_from_file_location("predict", EXAMPLES / "predict.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "rows.csv").write_text("title\na\nb\nc\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    args = argparse.Namespace(
        model=str(tmp_path / "model"),
        input=tmp_path / "rows.csv",
        output=tmp_path / "out.jsonl",
        columns=["text=title"],
        encoding="utf-8",
        top_k=1,
        explain=False,
        missing="prototypes",
        keep=[],
    )
    module.check_options(args)
    args.output.write_text('{"row": 1, "labels": []}\n{"row": 2, "labels": []}\n{"row": 3, "la')
    return module, args, tmp_path / "out.jsonl.options.json"


@pytest.mark.parametrize("changed", ["rows.csv", "model/model.safetensors"])
def test_predictions_of_an_edited_input_or_model_are_not_continued(job, tmp_path, changed):
    module, args, _ = job
    module.check_options(args)
    with (tmp_path / changed).open("a") as file:
        file.write("d\n")
    with pytest.raises(ValueError, match=r"but it was begun with \{.*give another --output, or delete it"):
        module.check_options(args)
    args.output.unlink()
    module.check_options(args)


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_an_options_file_that_cannot_be_read_stops_no_restart(job, text, capsys):
    module, args, options = job
    whole = options.read_text()
    options.write_text(text)
    module.check_options(args)
    assert "out.jsonl as begun with the same options" in capsys.readouterr().err and options.read_text() == whole


def test_the_options_of_an_older_version_are_compared_as_far_as_they_go(job):
    module, args, options = job
    found = json.loads(options.read_text())
    options.write_text(json.dumps({name: found[name] for name in ("model", "top_k")}))
    module.check_options(args)
    options.write_text(json.dumps({"top_k": "5"}))
    with pytest.raises(ValueError, match=r"begun with \{.top_k.: .5.\}"):
        module.check_options(args)


def test_an_output_of_two_runs_is_noticed(job):
    module, args, _ = job
    assert module.resume(args.output, 3) == 2 and args.output.read_text().count("\n") == 2
    with pytest.raises(ValueError, match="got 2 predictions"):
        module.resume(args.output, 1)
    args.output.write_text('{"row": 1, "labels": []}\n' * 2)
    with pytest.raises(ValueError, match=r"3 rows .*in their order, got line 2 of another row"):
        module.resume(args.output, 3)
