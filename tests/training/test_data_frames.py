"""Trainers of pandas DataFrames with pictures as files and classes by name, against the same rows as a dataset."""

import pandas as pd
import pyarrow as pa
import pytest
from helpers.digits import NUM_LABELS, WORDS
from helpers.snapshots import assert_equal_tensors, snapshot


NAMES = dict(enumerate(WORDS[:NUM_LABELS]))


@pytest.fixture
def frame(digits, tmp_path):
    """The digits as a user's DataFrame, with an index of its own and a missing caption."""
    files = []
    for i, picture in enumerate(digits["picture"]):
        files.append(str(tmp_path / f"{i}.png"))
        picture.save(files[-1])
    captions = [None, *digits["caption"][1:]]
    names = [NAMES[label] for label in digits["label"]]
    return pd.DataFrame({"picture": files, "caption": captions, "label": names}, index=range(100, 164))


@pytest.fixture
def named(make_model):
    return lambda: make_model(id2label=NAMES, label2id={name: k for k, name in NAMES.items()})


def test_a_data_frame_trains_and_evaluates_as_a_dataset(frame, digits, named, make_trainer):
    digits = digits.map(lambda row, i: {"caption": row["caption"] if i else None}, with_indices=True)
    expected = make_trainer(named(), train_dataset=digits, eval_dataset=digits, class_weights="balanced")
    trainer = make_trainer(named(), train_dataset=frame, eval_dataset=frame, class_weights="balanced")
    for each in (expected, trainer):
        each.train()
    assert_equal_tensors(snapshot(trainer.model), snapshot(expected.model))
    assert trainer.class_weights.tolist() == expected.class_weights.tolist()
    loss = expected.evaluate()["eval_loss"]
    assert trainer.evaluate()["eval_loss"] == trainer.evaluate(frame)["eval_loss"] == loss
    assert (trainer.predict(frame).predictions == expected.predict(digits).predictions).all()


def test_prototypes_of_a_data_frame(frame, named, make_trainer):
    half, rest = frame[::2], frame[1::2]
    trainer = make_trainer(named(), train_dataset=half, eval_dataset=None, trainer_kwargs={"prototype_dataset": rest})
    trainer.train()
    assert trainer.prototypes.count("image").sum() == 32
    with pytest.raises(ValueError, match="Expected a dataset that the prototypes were not taken from to evaluate"):
        trainer.evaluate(rest)


def test_several_evaluation_frames(frame, named, make_trainer):
    trainer = make_trainer(named(), train_dataset=frame, eval_dataset={"first": frame[:32], "last": frame[32:]})
    assert {"eval_first_accuracy", "eval_last_accuracy"} <= trainer.evaluate().keys()


@pytest.mark.parametrize("name", ["four", "", " zero"])
def test_a_class_that_the_model_does_not_know(frame, named, make_trainer, name):
    frame.loc[163, "label"] = name
    with pytest.raises(ValueError, match=rf"Expected a class among \['zero', .*\] in row 63, got '{name}'"):
        make_trainer(named(), train_dataset=frame)


def test_a_row_without_a_class(frame, named, make_trainer):
    frame.loc[120, "label"] = None
    with pytest.raises(ValueError, match=r"Expected a class among .* in row 20, got None"):
        make_trainer(named(), train_dataset=frame)


@pytest.mark.parametrize("metric", [None, "loss", "eval_accuracy", "image_prototype_accuracy"])
def test_the_best_model_by_one_of_several_evaluation_sets(frame, named, make_trainer, metric):
    """`Trainer` stops after the first epoch if the metric is of no set."""
    sets = {"first": frame[:32], "last": frame[32:]}
    best = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True, "num_train_epochs": 1}
    with pytest.raises(ValueError, match="to begin with the name of an evaluation set, such as 'first_"):
        make_trainer(named(), train_dataset=frame, eval_dataset=sets, metric_for_best_model=metric, **best)
    name = f"last_{(metric or 'loss').removeprefix('eval_')}"
    trainer = make_trainer(named(), train_dataset=frame, eval_dataset=sets, metric_for_best_model=name, **best)
    trainer.train()
    found = [entry[f"eval_{name}"] for entry in trainer.state.log_history if f"eval_{name}" in entry]
    assert found == [trainer.state.best_metric]


@pytest.mark.parametrize("rows", ["train.csv", pa.table({"label": [0]})])
def test_what_is_no_table_of_rows(named, make_trainer, rows):
    for sets in ({"train_dataset": rows}, {"eval_dataset": {"first": rows}}):
        with pytest.raises(TypeError, match=r"or a list of dicts, got a (str|Table); convert it, or read a file with"):
            make_trainer(named(), **sets)
