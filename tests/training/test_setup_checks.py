"""Each mistake stops with one sentence that says what was expected, what was found and what to do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, DatasetDict, IterableDataset, Value
from helpers.digits import NUM_LABELS
from transformers import BertConfig, TrainingArguments

from pmr_hf import PMRTrainer


ROOT = Path(__file__).parents[2]


def test_datasets_whose_classes_are_encoded_differently(make_trainer, digits):
    other = digits.cast_column("label", ClassLabel(names=["zero", "one", "three", "two"]))
    with pytest.raises(ValueError, match="Expected the same class names in each dataset"):
        make_trainer(eval_dataset=other)


def test_all_splits_in_place_of_one(make_trainer, digits):
    with pytest.raises(ValueError, match=r"got a DatasetDict of \['train'\]; pass one of its splits"):
        make_trainer(train_dataset=DatasetDict({"train": digits}))


@pytest.mark.parametrize("form", ["dataset", "list", "numpy", "one row"])
def test_a_training_set_of_one_class(make_trainer, digits, form):
    """As a dataset that is sorted by class and then cut gives it."""
    twos = [i for i, label in enumerate(digits["label"]) if label == 2]
    rows = digits.select(twos[:1] if form == "one row" else twos)
    rows = {"list": list(rows), "numpy": rows.with_format("numpy")}.get(form, rows)
    with pytest.raises(ValueError, match=f"at least two classes, got only class 2 in {len(rows)} rows"):
        make_trainer(train_dataset=rows)
    make_trainer(eval_dataset=rows)


def test_no_collator(make_model, make_args, digits):
    with pytest.raises(ValueError, match="Expected a `data_collator`, got none"):
        PMRTrainer(model=make_model(), args=make_args(), train_dataset=digits)


@pytest.mark.parametrize("change", ["none", "unknown"])
def test_a_batch_with_other_modalities(make_trainer, change):
    trainer = make_trainer()
    collate = trainer.data_collator

    def other(rows):
        batch = collate(rows)
        return {"labels": batch["labels"]} if change == "none" else {**batch, "audio": batch["text"]}

    trainer.data_collator = other
    with pytest.raises(ValueError, match=r"Expected a batch with some of the modalities \['image', 'text'\], got"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_missing_column(make_trainer, digits):
    with pytest.raises(ValueError, match=r"\['caption'\] are not among"):
        make_trainer(train_dataset=digits.rename_column("caption", "title"))
    with pytest.raises(ValueError, match=r"\['label'\] are not among"):
        make_trainer(eval_dataset=digits.rename_column("label", "class"))


def test_backbones_and_processor_with_other_names(make_trainer, make_model):
    model = make_model(backbones={"text": BertConfig(hidden_size=4, num_attention_heads=1, num_hidden_layers=1)})
    with pytest.raises(ValueError, match=r"processor for each of the model's modalities \['text'\]"):
        make_trainer(model)


@pytest.mark.parametrize("bad", [NUM_LABELS, -1])
def test_labels_outside_the_classes(make_trainer, digits, bad):
    labels = digits["label"][:]
    labels[50] = bad
    data = digits.remove_columns("label").add_column("label", labels)
    with pytest.raises(ValueError, match=r"Expected labels in 0..3, got labels from"):
        make_trainer(train_dataset=data)
    with pytest.raises(ValueError, match=r"Expected labels in 0..3, got labels from"):
        make_trainer(eval_dataset=data)
    with pytest.raises(ValueError, match=r"Expected labels in 0..3, got labels from"):
        make_trainer(train_dataset=list(data))

    class Lazy(torch.utils.data.Dataset):
        """A dataset whose labels are not known before training; its bad batch is refused before a step."""

        def __len__(self):
            return 8

        def __getitem__(self, i):
            return data[48 + i]

    trainer = make_trainer(train_dataset=Lazy(), num_train_epochs=1, prototype_fraction=1.0)
    with pytest.raises(ValueError, match=r"Expected labels in 0..3"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_labels_that_are_not_integers(make_trainer, digits):
    data = digits.cast_column("label", Value("int64")).cast_column("label", Value("float32"))
    with pytest.raises(ValueError, match=r"Expected integer labels 0..K-1, got .*class_encode_column"):
        make_trainer(train_dataset=data)


def test_an_empty_dataset(make_trainer, digits):
    for kwargs in ({"train_dataset": digits.select([])}, {"eval_dataset": {"held_out": digits.select([])}}):
        with pytest.raises(ValueError, match="to have at least one row"):
            make_trainer(**kwargs)


def test_a_training_set_without_a_length(make_trainer, digits):
    with pytest.raises(ValueError, match=r"Expected a map-style training set.*`prototype_source='online'`"):
        make_trainer(train_dataset=digits.to_iterable_dataset(), max_steps=4)
    assert isinstance(digits.to_iterable_dataset(), IterableDataset)


def test_arguments_of_another_class(make_model, make_args):
    with pytest.raises(TypeError, match="Expected `args` of PMRTrainingArguments, got TrainingArguments"):
        PMRTrainer(model=make_model(), args=make_args(TrainingArguments))


def test_prototypes_of_other_widths(make_trainer):
    trainer = make_trainer()
    trainer.embeddings_fn = lambda output: {"image": output.embeddings["text"], "text": output.embeddings["image"]}
    with pytest.raises(ValueError, match=r"Expected one embedding per modality, of shapes .*'image': \('batch', 16\)"):
        trainer.refresh_prototypes()


@pytest.mark.slow
def test_processes_that_are_not_connected(tmp_path):
    """This happens with `accelerate launch` of two processes on a machine without GPUs, without `--use_cpu`."""
    command = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "examples/run_pmr.py"]
    run = subprocess.run(
        [sys.executable, *command, "--output_dir", str(tmp_path / "out")],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert run.returncode != 0
    assert "Expected 2 connected processes" in run.stderr and "add `--use_cpu`" in run.stderr
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def test_a_class_label_feature_is_fine(make_trainer, digits):
    assert isinstance(digits.features["label"], ClassLabel)
    make_trainer(train_dataset=digits)
