"""Each mistake stops with one sentence: what was expected, what was found, what to do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import NUM_LABELS
from datasets import ClassLabel, DatasetDict, IterableDataset, Value
from transformers import BertConfig, ResNetConfig, TrainingArguments
from transformers.modeling_outputs import MaskedLMOutput

from pmr_hf import (
    MultimodalCollator,
    MultimodalConfig,
    MultimodalModel,
    MultimodalProcessor,
    MultimodalTrainingArguments,
    PMRTrainer,
    PMRTrainingArguments,
    Prototypes,
)
from pmr_hf.model.backbones import pool


ROOT = Path(__file__).parents[2]


NAMES = ["a.b", "", "2d", "two words", "class", "_hidden", "keys", "type", "train", "training", "forward"]
NAMES += ["x_prototype"]


@pytest.mark.parametrize("name", NAMES)
def test_modality_names_that_cannot_be_used(name):
    with pytest.raises(ValueError, match="rename this modality"):
        MultimodalConfig(backbones={name: BertConfig()})


@pytest.mark.parametrize(
    "name", ["labels", "label", "loss", "logits", "input_ids", "return_loss", "embeddings", "eval"]
)
def test_modality_names_that_are_taken(name, processor):
    with pytest.raises(ValueError, match="already taken"):
        MultimodalConfig(backbones={name: BertConfig()})
    with pytest.raises(ValueError, match="already taken"):
        MultimodalProcessor({name: processor.processors["text"]})


def test_modality_names_of_prototypes_and_of_another_type():
    for widths, message in (({"a.b": 3}, "rename"), ({1: 3}, "make it a string"), ({}, "at least one modality")):
        with pytest.raises(ValueError, match=message):
            Prototypes(widths, num_labels=3)
    with pytest.raises(ValueError, match="one class"):
        Prototypes({"image": 3}, num_labels=0)


def test_a_backbone_config_without_its_type():
    with pytest.raises(ValueError, match=r"to have a `model_type`, got \['hidden_size'\]"):
        MultimodalConfig(backbones={"image": {"hidden_size": 3}})


CODE = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, ViTImageProcessor
class CustomConfig(BertConfig):
    model_type = "custom"
class CustomModel(BertModel):
    config_class = CustomConfig
class CustomTokenizer(PreTrainedTokenizerFast):
    pass
class CustomImageProcessor(ViTImageProcessor):
    pass
"""


@pytest.fixture
def foreign(tmp_path, processor, monkeypatch):
    """A saved encoder and processor whose files name code of their own, and a user at the keyboard who says yes."""
    folder, marker = tmp_path / "foreign", tmp_path / "marker"
    processor.save_pretrained(folder)
    (folder / "config.json").write_text(
        json.dumps(
            {"model_type": "custom", "auto_map": {"AutoConfig": "code.CustomConfig", "AutoModel": "code.CustomModel"}}
        )
    )
    for name, key, cls in [
        ("text/tokenizer_config.json", "AutoTokenizer", ["code.CustomTokenizer", "code.CustomTokenizer"]),
        ("image/preprocessor_config.json", "AutoImageProcessor", "code.CustomImageProcessor"),
    ]:
        saved = json.loads((folder / name).read_text())
        kind = "tokenizer_class" if key == "AutoTokenizer" else "image_processor_type"
        (folder / name).write_text(json.dumps(saved | {"auto_map": {key: cls}, kind: "Custom"}))
    for place in (folder, folder / "text", folder / "image"):
        (place / "code.py").write_text(CODE.format(marker=str(marker)))
    monkeypatch.setattr("builtins.input", lambda prompt="": "y")
    yield folder
    assert not marker.exists()


def test_code_that_comes_with_a_backbone_is_not_run(foreign):
    for from_backbones in (
        lambda names: MultimodalModel.from_backbones(names, num_labels=2),
        MultimodalProcessor.from_backbones,
    ):
        with pytest.raises(ValueError, match=r"Expected a backbone of transformers itself for 'text', but .*foreign"):
            from_backbones({"text": foreign})
        with pytest.raises(ValueError, match=r"Expected a backbone of transformers itself for 'text', but .*foreign"):
            from_backbones({"text": str(foreign)})


def test_code_that_comes_with_a_processor_is_not_run(foreign):
    with pytest.raises(ValueError, match="trust_remote_code"):
        MultimodalProcessor.from_pretrained(foreign)
    for part in ("text", "image"):
        with pytest.raises((ValueError, OSError)):
            MultimodalProcessor.from_backbones({part: foreign / part})


def test_values_that_are_not_in_lists(processor, digits):
    with pytest.raises(ValueError, match="Expected a list of values for 'text', got one str"):
        processor(text="the digit two")
    with pytest.raises(ValueError, match="Expected a list of values for 'image'"):
        processor(image=digits[0]["picture"])
    with pytest.raises(ValueError, match=r"as many values of each modality, got \{'image': 1, 'text': 2\}"):
        processor(image=digits["picture"][:1], text=digits["caption"][:2])


def test_a_folder_without_a_saved_processor(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"found no processor_config.json there"):
        MultimodalProcessor.from_pretrained(tmp_path)


def test_datasets_whose_classes_are_encoded_differently(make_trainer, digits):
    other = digits.cast_column("label", ClassLabel(names=["zero", "one", "three", "two"]))
    with pytest.raises(ValueError, match="Expected the same class names in each dataset"):
        make_trainer(eval_dataset=other)


def test_all_splits_in_place_of_one(make_trainer, digits):
    with pytest.raises(ValueError, match=r"got a DatasetDict of \['train'\]; pass one of its splits"):
        make_trainer(train_dataset=DatasetDict({"train": digits}))


def test_no_collator(make_model, make_args, digits):
    with pytest.raises(ValueError, match="Expected a `data_collator`, got none"):
        PMRTrainer(model=make_model(), args=make_args(), train_dataset=digits)


@pytest.mark.parametrize("option", [{"batch_eval_metrics": True}, {"eval_do_concat_batches": False}])
def test_evaluation_options_without_all_predictions(make_args, option):
    with pytest.raises(ValueError, match="need all predictions at once"):
        make_args(**option)


def test_modalities_that_are_not_the_backbones():
    with pytest.raises(ValueError, match="to name each backbone once"):
        MultimodalConfig(backbones={"image": BertConfig()}, modalities=["image", "text"])


def test_unknown_fusion(make_model):
    with pytest.raises(ValueError, match=r"one of \['concat', 'film', 'gated', 'sum'.*got 'nope'"):
        make_model(fusion="nope")


def test_conditioned_fusion_of_one_modality(make_model):
    with pytest.raises(ValueError, match="at least two modalities"):
        make_model(
            fusion="film", backbones={"text": BertConfig(hidden_size=4, num_attention_heads=1, num_hidden_layers=1)}
        )


def test_a_backbone_of_another_type():
    import timm

    with pytest.raises(TypeError, match="wrap a timm model as TimmWrapperConfig"):
        MultimodalModel.from_backbones({"image": timm.create_model("resnet10t")}, num_labels=3)


def test_a_backbone_that_does_not_tell_its_width():
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1])
    backbone = MultimodalModel.from_backbones({"image": config}, num_labels=3).backbones["image"]
    backbone.config.hidden_sizes = None
    with pytest.raises(ValueError, match=r"found no `hidden_size`; set `config.hidden_size`"):
        MultimodalModel.from_backbones({"image": backbone}, num_labels=3)


def test_a_backbone_whose_output_cannot_be_pooled():
    with pytest.raises(ValueError, match=r"Expected backbone 'text' to give `pooler_output`.*got \['logits'\]"):
        pool("text", MaskedLMOutput(logits=torch.zeros(2, 3, 9)))


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


def test_columns_and_processor_with_other_names(processor):
    with pytest.raises(ValueError, match=r"Expected a column for each of the processor's modalities"):
        MultimodalCollator(processor, {"image": "picture"})


def test_backbones_and_processor_with_other_names(make_trainer, make_model):
    model = make_model(backbones={"text": BertConfig(hidden_size=4, num_attention_heads=1, num_hidden_layers=1)})
    with pytest.raises(ValueError, match=r"processor for each of the model's modalities \['text'\]"):
        make_trainer(model)


def test_a_processor_of_another_kind():
    with pytest.raises(TypeError, match="image processor, a feature extractor or a tokenizer"):
        MultimodalProcessor({"text": str.split})


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
        """Read batch by batch; a batch is refused before it is trained on."""

        def __len__(self):
            return 8

        def __getitem__(self, i):
            return data[48 + i]

    trainer = make_trainer(train_dataset=Lazy(), num_train_epochs=1, prototype_fraction=1.0)
    with pytest.raises(ValueError, match=r"Expected labels in 0..3"):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("feature", ["float32", "string"])
def test_labels_that_are_not_integers(make_trainer, digits, feature):
    data = digits.cast_column("label", Value("int64")).cast_column("label", Value(feature))
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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prototype_fraction", 0.0),
        ("prototype_fraction", 1.01),
        ("prototype_fraction", float("nan")),
        ("prototype_momentum", 1.0),
        ("prototype_momentum", -0.1),
        ("pmr_alpha", -1.0),
        ("pmr_mu", -1e-3),
        ("pmr_mu", float("inf")),
        ("pmr_entropy_epochs", -1.0),
        ("pmr_epochs", -1.0),
        ("pmr_weights", "soft"),
        ("prototype_source", "all"),
        ("prototype_refresh_steps", 0),
    ],
)
def test_arguments_outside_their_range(name, value, tmp_path):
    with pytest.raises(ValueError, match=rf"Expected `{name}`.*got "):
        PMRTrainingArguments(str(tmp_path), **{name: value})


def test_arguments_that_would_remove_the_columns(tmp_path):
    with pytest.raises(ValueError, match="remove_unused_columns=False"):
        MultimodalTrainingArguments(str(tmp_path), remove_unused_columns=True)


def test_arguments_of_another_class(make_model, make_args):
    with pytest.raises(TypeError, match="Expected `args` of PMRTrainingArguments, got TrainingArguments"):
        PMRTrainer(model=make_model(), args=make_args(TrainingArguments))


def test_prototypes_of_other_widths(make_trainer):
    trainer = make_trainer()
    trainer.embeddings_fn = lambda output: {"image": output.embeddings["text"], "text": output.embeddings["image"]}
    with pytest.raises(ValueError, match=r"Expected one embedding per modality, of shapes .*'image': \('batch', 16\)"):
        trainer.refresh_prototypes()


def test_processes_that_are_not_connected(tmp_path):
    """`accelerate launch` of two processes on a machine without GPUs, without `--use_cpu`."""
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


# ---- Losses and weights that are not finite ----


def poison_after(trainer, step):
    """Make a weight NaN when the given step is done."""
    from transformers import TrainerCallback

    class Poison(TrainerCallback):
        def on_optimizer_step(self, args, state, control, **kwargs):
            if state.global_step == step - 1:
                with torch.no_grad():
                    next(trainer.model.parameters()).fill_(float("nan"))

    trainer.add_callback(Poison())


def test_a_loss_that_is_not_finite_stops_at_the_next_log_and_names_the_terms(make_trainer):
    trainer = make_trainer(logging_steps=3)
    poison_after(trainer, 4)
    with pytest.raises(FloatingPointError, match=r"at step 6, got ce_loss=nan, image_pce_loss=nan"):
        trainer.train()


@pytest.mark.parametrize("poisoned", [6, 7])
def test_no_checkpoint_that_is_not_finite_is_written(make_trainer, make_model, poisoned):
    """Without any log: after the 7th step the loss was NaN already; after the 8th only the weights are."""
    settings = {"logging_strategy": "no", "save_strategy": "steps", "save_steps": 4, "pmr_alpha": 0.5}
    trainer = make_trainer(**settings)
    poison_after(trainer, poisoned + 1)
    with pytest.raises(FloatingPointError, match="ce_loss=nan" if poisoned == 6 else "weights, first backbones"):
        trainer.train()
    folder = Path(trainer.args.output_dir)
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-4"]
    resumed = make_trainer(make_model(seed=5), **settings)
    resumed.train(resume_from_checkpoint=str(folder / "checkpoint-4"))
    assert resumed.state.global_step == 16


def test_training_goes_on_after_the_weights_are_mended(make_trainer):
    trainer = make_trainer(logging_strategy="no", save_strategy="steps", save_steps=4, num_train_epochs=1, optim="sgd")
    good = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    poison_after(trainer, 2)
    with pytest.raises(FloatingPointError):
        trainer.train()
    trainer.model.load_state_dict(good)
    trainer.callback_handler.callbacks.pop()
    trainer.train()
    assert trainer.state.global_step == 8


def test_a_mask_of_minus_infinity_is_no_reason_to_stop(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.model.register_buffer("causal_mask", torch.full((2,), float("-inf")))
    trainer.save_model(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "model.safetensors").is_file()


def test_the_filter_of_trainer_that_logs_zero_for_nan_is_off(make_args):
    assert make_args().logging_nan_inf_filter is False


def test_a_class_label_feature_is_fine(make_trainer, digits):
    assert isinstance(digits.features["label"], ClassLabel)
    make_trainer(train_dataset=digits)
