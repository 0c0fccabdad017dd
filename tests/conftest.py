"""Tiny real models on real digits: an 8 x 8 scan and a caption that is sometimes wrong."""

import os


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # models this small are slower on two threads
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from sklearn.datasets import load_digits
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, PreTrainedTokenizerFast, ViTConfig, ViTImageProcessor, set_seed

from pmr_hf import MultimodalCollator, MultimodalModel, MultimodalProcessor, PMRTrainer, PMRTrainingArguments


WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
NUM_LABELS = 4


def state(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def assert_equal(left, right):
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different, different


@pytest.fixture(scope="session")
def processor():
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "the", "digit", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return MultimodalProcessor(
        {
            "image": ViTImageProcessor(do_resize=False, image_mean=[0.3], image_std=[0.35]),
            "text": PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"),
        }
    )


@pytest.fixture(scope="session")
def digits():
    """64 rows of the digits 0 to 3: `picture`, `caption`, `label`."""
    from PIL import Image as PILImage

    scans = load_digits(n_class=NUM_LABELS)
    labels = scans.target[:64].tolist()
    features = Features({"picture": Image(), "caption": Value("string"), "label": ClassLabel(names=WORDS[:NUM_LABELS])})
    return Dataset.from_dict(
        {
            "picture": [PILImage.fromarray((scan * 15.9).astype("uint8")) for scan in scans.images[:64]],
            "caption": [
                f"the digit {WORDS[label]}" if i % 5 else WORDS[(label + i) % NUM_LABELS]
                for i, label in enumerate(labels)
            ],
            "label": labels,
        },
        features=features,
    )


@pytest.fixture
def collator(processor):
    return MultimodalCollator(processor, columns={"image": "picture", "text": "caption"}, label="label")


@pytest.fixture(scope="session")
def make_model():
    def make(seed=0, dropout=0.0, **kwargs):
        set_seed(seed)
        image = ViTConfig(
            image_size=8,
            patch_size=4,
            num_channels=1,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            hidden_dropout_prob=dropout,
        )
        text = BertConfig(
            vocab_size=16,
            hidden_size=12,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=16,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
        backbones = kwargs.pop("backbones", {"image": image, "text": text})
        return MultimodalModel.from_backbones(backbones, num_labels=NUM_LABELS, **kwargs)

    return make


@pytest.fixture
def make_args(tmp_path):
    def make(cls=PMRTrainingArguments, **kwargs):
        defaults = {
            "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": 8,
            "per_device_eval_batch_size": 8,
            "num_train_epochs": 2,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        return cls(**(defaults | kwargs))

    return make


@pytest.fixture
def make_trainer(make_model, make_args, digits, processor, collator):
    """A PMRTrainer on the digits; keyword arguments of `PMRTrainingArguments`, and `model`, `cls` or a dataset."""

    def make(model=None, cls=PMRTrainer, train_dataset=digits, eval_dataset=digits, trainer_kwargs=None, **kwargs):
        return cls(
            model=make_model() if model is None else model,
            args=make_args(cls.args_class, **kwargs),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processor,
            data_collator=collator,
            **(trainer_kwargs or {}),
        )

    return make
