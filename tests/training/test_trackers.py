"""What TensorBoard and Trackio hold after training, read back from what they have written."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter
from transformers.integrations import TensorBoardCallback

from pmr_hf import MultimodalTrainer
from pmr_hf.training.trackers import by_quantity


# Of a tracker, by the key of the log
CURVES = {
    "train/score/image": "image_score",
    "train/score/text": "text_score",
    "train/pce_loss/text": "text_pce_loss",
    "train/rho": "rho",
    "eval/accuracy": "eval_accuracy",
    "eval/accuracy/text": "eval_text_accuracy",
    "eval/prototype_accuracy/image": "eval_image_prototype_accuracy",
    "eval/prototype_accuracy/text": "eval_text_prototype_accuracy",
    "test/accuracy/image": "test_image_accuracy",
}


def logged(trainer, key):
    return [(entry["step"], pytest.approx(entry[key])) for entry in trainer.state.log_history if key in entry]


def test_the_quantity_comes_before_the_modality():
    logs = {"image_score": 1, "image_back_score": 2, "eval_image_back_prototype_accuracy": 3}
    logs["answers_image_accuracy"] = 4
    assert by_quantity(logs, ["image", "image_back"]) == {
        "score/image": 1,
        "score/image_back": 2,
        "eval_prototype_accuracy/image_back": 3,
        "answers_accuracy/image": 4,
    }
    others = {"loss": 1, "rho": 2, "eval_accuracy": 3, "images_seen": 4, "train_loss": 5, "eval_mae_price": 6}
    assert by_quantity(others, ["image", "text"]) == others


def test_tensorboard_has_each_quantity_of_all_modalities_side_by_side(make_trainer):
    trainer = make_trainer(report_to="tensorboard", eval_strategy="epoch")
    trainer.train()
    trainer.evaluate(metric_key_prefix="test")
    (folder,) = Path(trainer.args.output_dir, "runs").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    for curve, key in CURVES.items():
        assert [(event.step, event.value) for event in events.Scalars(curve)] == logged(trainer, key) != []
    tags = sorted(events.Tags()["scalars"])  # the order of the page
    for quantity in ("train/score", "train/per_weight", "eval/prototype_accuracy", "test/accuracy"):
        first = tags.index(f"{quantity}/image")
        assert tags[first : first + 2] == [f"{quantity}/image", f"{quantity}/text"]
    assert not any("image_" in tag or "text_" in tag for tag in tags)


def test_a_callback_of_ones_own_gets_the_same_names(make_trainer, tmp_path):
    callbacks = [TensorBoardCallback(SummaryWriter(tmp_path / "mine"))]
    trainer = make_trainer(cls=MultimodalTrainer, trainer_kwargs={"callbacks": callbacks})
    trainer.evaluate()
    tags = EventAccumulator(str(tmp_path / "mine")).Reload().Tags()["scalars"]
    assert {"eval/accuracy/image", "eval/accuracy/text", "eval/accuracy"} <= set(tags)


def test_trackio_has_the_same_names_and_one_run(make_trainer, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))  # trackio reads it when it is imported
    trainer = make_trainer(report_to="trackio", eval_strategy="epoch", project="posts", run_name="first")
    trainer.train()
    trainer.evaluate(metric_key_prefix="test")  # after the end of training, which closed the run
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    trackio.finish()
    assert list(tmp_path.glob("posts*.db")) and SQLiteStorage.get_runs("posts") == ["first"]
    entries = SQLiteStorage.get_logs("posts", "first")
    for curve, key in CURVES.items():
        found = [(entry["train/global_step"], entry[curve]) for entry in entries if curve in entry]
        assert found == logged(trainer, key) != []
