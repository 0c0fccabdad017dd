"""Tiny real models on real digits: an 8 x 8 scan and a caption that is sometimes wrong."""

import faulthandler
import gc
import os
from functools import lru_cache


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # models this small are slower on two threads
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import psutil  # installed with accelerate
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from helpers.all_methods import parts_of
from helpers.digits import NUM_LABELS, WORDS, batch_of
from helpers.media_files import write_video, write_wav
from hypothesis import HealthCheck, settings
from PIL import Image as PILImage
from sklearn.datasets import load_digits
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from transformers import (
    BertConfig,
    PreTrainedTokenizerFast,
    VideoMAEImageProcessor,
    ViTConfig,
    ViTImageProcessor,
    Wav2Vec2FeatureExtractor,
    dynamic_module_utils,
    set_seed,
)

from pmr_hf import (
    MultimodalCollator,
    MultimodalModel,
    MultimodalProcessor,
    NumericProcessor,
    PMRTrainer,
    PMRTrainingArguments,
    PrototypeTrainer,
    SpectrogramFeatureExtractor,
)


# Each save copies the code of the package. What its files import is the same in each test.
dynamic_module_utils.get_relative_import_files = lru_cache(dynamic_module_utils.get_relative_import_files)

# Derandomized: the same examples in every run. Fixtures of one test are fine: no example changes them.
settings.register_profile(
    "pmr_hf",
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("pmr_hf")


@pytest.fixture(autouse=True, scope="module")
def keep_what_is_there():
    """`Trainer.train` collects garbage, which takes a third of a second with all that is imported, and now nothing."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def workers_end():
    """Persistent workers that are left to the garbage collection take five seconds each."""
    yield
    for found in gc.get_objects():
        if type(found) is _MultiProcessingDataLoaderIter:
            found._shutdown_workers()


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
        return MultimodalModel.from_backbones(backbones, **({"num_labels": NUM_LABELS} | kwargs))

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
    """A function that makes a PMRTrainer on the digits; its other keyword arguments are training arguments."""

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


@pytest.fixture
def prepared(make_trainer, make_model):
    """A trainer of a model that has been trained for one epoch and has prototypes, and a batch."""

    def make(cls, batch_size=16, fusion="concat", **kwargs):
        model = make_model(**{"fusion": fusion} | parts_of(cls))
        warm = make_trainer(model, cls=PrototypeTrainer, num_train_epochs=1, prototype_fraction=1.0)
        warm.train()
        trainer = make_trainer(warm.model, cls=cls, **kwargs)
        trainer.model.train()
        return trainer, batch_of(trainer, range(batch_size))

    return make


@pytest.fixture
def media(tmp_path, processor):
    """A dataset with every kind of modality, on disk, with missing values, and a collator for it."""
    generator = np.random.default_rng(0)
    rows = []
    for i in range(6):
        PILImage.fromarray(generator.integers(0, 256, (9, 7 + i, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        write_wav(tmp_path / f"{i}.wav", generator.normal(0, 0.1, 400 + 100 * i), 8000)
        write_video(tmp_path / f"{i}.mp4", generator.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8), 5)
        rows.append(
            {
                "img": str(tmp_path / f"{i}.png") if i else None,
                "clip": str(tmp_path / f"{i}.mp4"),
                "caption": f"the digit {WORDS[i]}" if i % 2 else "",
                "speech": str(tmp_path / f"{i}.wav"),
                "age": float(i),
                "weight": None if i == 4 else 2.0 * i,
                "label": i % 3,
            }
        )
    small = {"size": {"height": 8, "width": 8}}
    audio = Wav2Vec2FeatureExtractor(feature_size=1, sampling_rate=16000)
    collator = MultimodalCollator(
        MultimodalProcessor(
            {
                "image": ViTImageProcessor(**small),
                "frames": ViTImageProcessor(**small),
                "video": VideoMAEImageProcessor(size={"shortest_edge": 8}, crop_size=8),
                "text": processor.processors["text"],
                "speech": audio,
                "spectrum": SpectrogramFeatureExtractor(seconds=0.1, window=64, overlap=32),
                "vitals": NumericProcessor([1.0, 2.0], [2.0, 1.0]),
            },
            num_frames={"frames": 3, "video": 4},
        ),
        {
            "image": "img",
            "frames": "clip",
            "video": "clip",
            "text": "caption",
            "speech": "speech",
            "spectrum": "speech",
            "vitals": ["age", "weight"],
        },
    )
    return Dataset.from_list(rows), collator


@pytest.fixture
def limited():
    """Let a test take 4 GiB and five minutes. Past them it fails, and with it the process that runs it."""
    import resource  # not available on Windows

    size = psutil.Process().memory_info().vms
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + 4 * 2**30, hard))
    faulthandler.dump_traceback_later(300, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def case(request):
    """Embeddings (12, 7), prototypes (5, 7), the seen classes (5,), of which one is unseen, and labels of all five."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(12, 7, generator=generator).to(request.param)
    prototypes = torch.randn(5, 7, generator=generator)
    prototypes[3] = 0
    seen = torch.ones(5, dtype=torch.bool)
    seen[3] = False
    labels = torch.arange(12) % 5
    return embeddings, prototypes, seen, labels
