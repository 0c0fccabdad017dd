"""
Train PMR, or a method that it is compared with, on any dataset of several modalities.

    accelerate launch examples/run_pmr.py                                # colored-and-gray digits of scikit-learn
    accelerate launch examples/run_pmr.py --dataset cg_mnist --data_dir mnist            # raw MNIST files
    accelerate launch examples/run_pmr.py --dataset crema_d --data_dir CREMA-D           # or ave: the raw downloads
    accelerate launch examples/run_pmr.py --dataset_name user/posts \\
        --columns image=picture text=title --label_column topic \\
        --backbones image=google/vit-base-patch16-224 text=bert-base-uncased             # your own data

Every argument of the method's trainer, such as `PMRTrainingArguments`, and so of `TrainingArguments`, can be given too.
"""

import logging
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # of accelerate
import torch
from datasets import Dataset, DatasetDict
from transformers import (
    HfArgumentParser,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    ResNetConfig,
    ViTImageProcessor,
    set_seed,
)

from pmr_hf import (
    AGMTrainer,
    CGMNISTConfig,
    GradientBlendingTrainer,
    GradientBoostTrainer,
    MMParetoTrainer,
    MultimodalCollator,
    MultimodalModel,
    MultimodalProcessor,
    NumericConfig,
    NumericProcessor,
    OGMTrainer,
    PMRTrainer,
    PrototypeTrainer,
    PrototypeTrainingArguments,
    SpectrogramFeatureExtractor,
    UnimodalHeadsTrainer,
)
from pmr_hf.data.ave import read_ave
from pmr_hf.data.cg_mnist import cg_mnist, read_dataset, read_mnist, read_sklearn_digits
from pmr_hf.data.collator import ROW
from pmr_hf.data.crema_d import read_crema_d
from pmr_hf.data.tables import load_table
from pmr_hf.model.configuration import check_fields
from pmr_hf.model.fusion import FUSIONS
from pmr_hf.model.media import UnreadableError, is_missing
from pmr_hf.model.numeric_processor import as_numbers
from pmr_hf.model.processor import ModalityProcessor


METHODS: dict[str, type[PrototypeTrainer]] = {
    "joint": PrototypeTrainer,  # plain training, watched
    "pmr": PMRTrainer,
    "acc": GradientBoostTrainer,
    "agm": AGMTrainer,
    "ogm": OGMTrainer,  # OGM-GE with --ogm_noise True
    "gblend": GradientBlendingTrainer,
    "mmpareto": MMParetoTrainer,
}
# Encoders with new weights that can stand in place of a pretrained one's name
NEW = ("numbers", "resnet18", "spectrogram", "spectrogram_small", "cg_mnist", "cg_mnist_gray")
# Selection on validation, by accuracy; what is trained can resume
DEFAULTS = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "load_best_model_at_end": True,
    "metric_for_best_model": "accuracy",
    "logging_steps": 20,
    "dataloader_pin_memory": torch.cuda.is_available(),
    "report_to": "none",
}
# The paper's batch, optimiser and alpha; its learning rate of 1e-3 is for 100 epochs
PAPER_DEFAULTS = {
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 256,
    "optim": "sgd",
    "optim_args": "momentum=0.9,weight_decay=1e-4",
}
PAPER_ALPHA = 2.0
RESNET18 = {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]}
PAIRS = {"metavar": "modality=..."}
# Columns, encoders and frames of the paper's sets
PAPER = {
    "digits": ({"gray": "gray", "colored": "colored"}, {"gray": "cg_mnist_gray", "colored": "cg_mnist"}, {}),
    "cg_mnist": ({"gray": "gray", "colored": "colored"}, {"gray": "cg_mnist_gray", "colored": "cg_mnist"}, {}),
    "crema_d": ({"audio": "audio", "visual": "video"}, {"audio": "spectrogram", "visual": "resnet18"}, {"visual": 3}),
    "ave": ({"audio": "audio", "visual": "video"}, {"audio": "spectrogram", "visual": "resnet18"}, {"visual": 4}),
}


@dataclass
class ScriptArguments:
    """Arguments of this script."""

    method: str = field(
        default="pmr",
        metadata={"help": "What to train by; 'joint' is plain training, watched.", "choices": list(METHODS)},
    )
    # The data
    dataset: str = field(
        default="digits",
        metadata={
            "help": "One of the paper's sets, or 'digits' of scikit-learn.",
            "choices": ["digits", "cg_mnist", "crema_d", "ave"],
        },
    )
    data_dir: str | None = field(default=None, metadata={"help": "Folder of the raw download of that set."})
    dataset_name: str | None = field(
        default=None, metadata={"help": "Hub name or folder of your own data (with cg_mnist, of a copy of MNIST)."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration on the Hub."})
    train_file: str | None = field(default=None, metadata={"help": "In place of a name: csv, tsv, jsonl or parquet."})
    validation_file: str | None = field(default=None, metadata={"help": "A tenth of the training rows by default."})
    test_file: str | None = field(default=None, metadata={"help": "Touched once, after training."})
    columns: list[str] | None = field(
        default=None, metadata={"help": "Column of each modality: image=picture text=title vitals=age,weight", **PAIRS}
    )
    label_column: str = field(default="label", metadata={"help": "Column of the classes."})
    on_error: str = field(
        default="raise",
        metadata={"help": "What to make of a file that cannot be read.", "choices": ["raise", "missing"]},
    )
    preprocess: str = field(
        default="on_the_fly",
        metadata={"help": "Extract features once to disk, or batch by batch.", "choices": ["on_the_fly", "cached"]},
    )
    preprocess_workers: int | None = field(default=None, metadata={"help": "Processes that extract to disk."})
    modalities: list[str] | None = field(default=None, metadata={"help": "Train with these alone; all by default."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Keep that many training samples."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Keep that many validation samples."})
    test_correlation: float = field(
        default=0.0,
        metadata={
            "help": "cg_mnist and digits: share of test digits in the colour of their class; the others' is random."
        },
    )
    split: str = field(
        default="public",
        metadata={"help": "crema_d: 'public', or 'speaker' for actors apart.", "choices": ["public", "speaker"]},
    )
    # The model
    backbones: list[str] | None = field(
        default=None,
        metadata={
            "help": f"Encoder of each modality: Hub name, folder, or new weights: {', '.join(NEW)}.",
            **PAIRS,
        },
    )
    fusion: str = field(default="concat", metadata={"help": "Fusion head.", "choices": sorted(FUSIONS)})
    embedding_dim: int | None = field(default=None, metadata={"help": "Project every modality to this width."})
    pooling: list[str] | None = field(
        default=None, metadata={"help": "Pooling of a modality: auto, cls, mean or max.", **PAIRS}
    )
    num_frames: list[str] | None = field(
        default=None, metadata={"help": "Frames to take of each video of a modality.", **PAIRS}
    )
    clip_seconds: float | None = field(
        default=None, metadata={"help": "Length of every spectrogram: 3 by default, 10 for ave."}
    )
    modality_dropout: float = field(default=0.0, metadata={"help": "Probability to drop a modality in training."})
    lora: list[str] | None = field(default=None, metadata={"help": "Rank of a modality's LoRA: text=8", **PAIRS})
    channels_last: bool = field(
        default=False, metadata={"help": "Lay out convolutions of images as mixed precision computes them fastest."}
    )

    def __post_init__(self):
        check_fields({"embedding_dim": self.embedding_dim, "modality_dropout": self.modality_dropout})
        ranges = {"preprocess_workers": (1, 1024), "clip_seconds": (0.1, 3600), "test_correlation": (0, 1)}
        samples = dict.fromkeys(("max_train_samples", "max_eval_samples"), (1, 10**12))
        for name, (least, most) in {**ranges, **samples}.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ValueError(f"Expected --{name} of {least} to {most}, got {value}.")
        for name in ("columns", "backbones", "pooling", "num_frames", "lora"):
            pairs = getattr(self, name) or []
            wrong = [pair for pair in pairs if not all(pair.partition("="))]
            if wrong:
                raise ValueError(f"Expected --{name} as modality=value, got {wrong}.")
            setattr(self, name, dict(pair.split("=", 1) for pair in pairs))
            if len(getattr(self, name)) < len(pairs):
                raise ValueError(f"Expected each modality once in --{name}, got {pairs}.")
        self.columns = {name: column.split(",") if "," in column else column for name, column in self.columns.items()}
        for name, value in [*self.num_frames.items(), *self.lora.items()]:
            if not value.isdecimal() or len(value) > 6 or int(value) < 1:
                raise ValueError(f"Expected a whole number for {name!r} in --num_frames or --lora, got {value!r}.")
        self.num_frames = {name: int(count) for name, count in self.num_frames.items()}
        self.lora = {name: {"r": int(rank)} for name, rank in self.lora.items()}
        if not self.own_data:
            self.label_column = "label"
            columns, backbones, frames = PAPER[self.dataset]
            self.columns, self.backbones = columns, backbones | self.backbones
            self.num_frames = frames | self.num_frames
        if not self.backbones or self.columns.keys() != self.backbones.keys():
            raise ValueError(
                f"Expected --columns and --backbones for the same modalities, got columns for {list(self.columns)} and "
                f"backbones for {list(self.backbones)}."
            )
        unknown = [name for name in self.modalities or [] if name not in self.columns]
        if unknown:
            raise ValueError(f"Expected --modalities among {list(self.columns)}, got {unknown}.")
        for pairs in ("columns", "backbones", "pooling", "num_frames", "lora") if self.modalities else ():
            setattr(self, pairs, {key: value for key, value in getattr(self, pairs).items() if key in self.modalities})

    @property
    def own_data(self) -> bool:
        return self.train_file is not None or (self.dataset_name is not None and self.dataset != "cg_mnist")

    @property
    def data_name(self) -> str:
        """The Hub name, or the bare name of what is on disk: it goes into the model card."""
        name = self.dataset_name or self.train_file or self.dataset
        return Path(name).stem if Path(name).exists() else name


def parse_arguments(arguments: list[str] | None = None) -> tuple[ScriptArguments, PrototypeTrainingArguments]:
    script_parser = HfArgumentParser(ScriptArguments, add_help=False)
    script_args, _ = script_parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
    parser = HfArgumentParser((ScriptArguments, METHODS[script_args.method].args_class))
    parts = [script_args.data_name.replace("/", "-"), script_args.fusion, script_args.method]
    parser.set_defaults(
        output_dir=f"outputs/{'-'.join([*parts, *(script_args.modalities or [])])}",
        do_predict=True,  # the test is touched once, at the end
        **DEFAULTS,
    )
    if script_args.own_data:  # pretrained encoders
        parser.set_defaults(
            per_device_train_batch_size=32,
            per_device_eval_batch_size=64,
            learning_rate=1e-3,  # of head and new encoders; pretrained ones get a tenth
            warmup_steps=0.1,
            num_train_epochs=5,
        )
    else:
        parser.set_defaults(
            **PAPER_DEFAULTS,
            learning_rate=3e-2 if script_args.dataset in ("digits", "cg_mnist") else 1e-3,
            num_train_epochs=60 if script_args.dataset in ("digits", "cg_mnist") else 130,
        )
        if script_args.method == "pmr":
            parser.set_defaults(pmr_alpha=PAPER_ALPHA)
    *parsed, unknown = parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
    if unknown:
        raise ValueError(f"Expected the arguments that --help lists, got {unknown} too; correct or remove them.")
    return tuple(parsed)


def load_data(args: ScriptArguments, processor: MultimodalProcessor, seed: int) -> DatasetDict:
    """The splits, of your own data or of one of the paper's sets."""
    if args.own_data:
        files = {"train": args.train_file, "validation": args.validation_file, "test": args.test_file}
        kinds = {name: processor.processors.get(name) for name in args.columns}
        splits = load_table(
            args.columns,
            label=args.label_column,
            dataset_name=args.dataset_name,
            config_name=args.dataset_config_name,
            files={name: file for name, file in files.items() if file is not None},
            files_in=[
                name
                for name, kind in kinds.items()
                if args.backbones[name] != "numbers" and not isinstance(kind, PreTrainedTokenizerBase)
            ],
            check_files=args.on_error == "raise",
            seed=seed,
        )
    elif args.data_dir is None and args.dataset_name is None and args.dataset != "digits":
        raise ValueError(f"Expected --data_dir with --dataset {args.dataset}; give the folder of its raw download.")
    elif args.dataset in ("digits", "cg_mnist"):
        if args.dataset == "digits":
            digits = read_sklearn_digits()
        else:
            digits = read_mnist(args.data_dir) if args.dataset_name is None else read_dataset(args.dataset_name)
        return cg_mnist(
            digits, test_correlation=args.test_correlation, max_train_samples=args.max_train_samples, seed=seed
        )
    elif args.dataset == "crema_d":
        splits = read_crema_d(args.data_dir, split=args.split, seed=seed)
    else:
        splits = read_ave(args.data_dir)
    if args.max_train_samples is not None:
        splits["train"] = (
            splits["train"].shuffle(seed=seed).select(range(min(args.max_train_samples, len(splits["train"]))))
        )
    return splits


def new_encoder(name: str, args: ScriptArguments, train: Dataset) -> tuple[PreTrainedConfig, ModalityProcessor]:
    """Config and processor of an encoder with new weights."""
    kind, column = args.backbones[name], args.columns[name]
    if kind == "numbers":
        values = train[column] if isinstance(column, str) else zip(*(train[part] for part in column), strict=True)
        known = []
        for place, value in zip(train[ROW], values, strict=True):
            try:
                known += [] if is_missing(value) else [as_numbers(value)]
            except UnreadableError as error:
                if args.on_error == "raise":
                    raise UnreadableError(
                        f"Expected numbers in {place}, column {column!r}, but {error}; correct it (lists need jsonl or "
                        "parquet), or set --on_error missing to train without it."
                    ) from error
        processor = NumericProcessor.fit(known)
        return NumericConfig(num_features=len(processor.mean)), processor
    if kind in ("cg_mnist", "cg_mnist_gray"):
        channels = 1 if kind == "cg_mnist_gray" else 3
        return CGMNISTConfig(num_channels=channels), digit_processor(channels)
    if kind.startswith("spectrogram"):
        seconds = args.clip_seconds or (10 if args.dataset == "ave" else 3)
        config = CGMNISTConfig(num_channels=1) if kind.endswith("small") else ResNetConfig(num_channels=1, **RESNET18)
        return config, SpectrogramFeatureExtractor(seconds=seconds, do_normalize=True)
    return ResNetConfig(**RESNET18), ViTImageProcessor()


def digit_processor(channels: int) -> ViTImageProcessor:
    """Pictures as they are, with the mean and deviation of MNIST."""
    return ViTImageProcessor(do_resize=False, image_mean=[0.1307] * channels, image_std=[0.3081] * channels)


def main() -> None:
    script_args, training_args = parse_arguments()
    logging.basicConfig(level=logging.INFO if training_args.should_log else logging.WARNING)
    set_seed(training_args.seed)

    # Data and processor
    backbones = dict(script_args.backbones)
    pretrained = {name: backbone for name, backbone in backbones.items() if backbone not in NEW}
    if script_args.own_data:
        defaults = dict.fromkeys(pretrained, training_args.learning_rate / 10)
        training_args.modality_learning_rates = defaults | (training_args.modality_learning_rates or {})
    processor = MultimodalProcessor.from_backbones(pretrained)
    dataset = load_data(script_args, processor, training_args.seed)
    if script_args.max_eval_samples is not None:
        rows = range(min(script_args.max_eval_samples, len(dataset["validation"])))
        dataset["validation"] = dataset["validation"].shuffle(seed=training_args.seed).select(rows)
    processors, num_frames = dict(processor.processors), processor.num_frames | script_args.num_frames
    for name in backbones.keys() - pretrained.keys():
        backbones[name], processors[name] = new_encoder(name, script_args, dataset["train"])
    processor = MultimodalProcessor({name: processors[name] for name in backbones}, num_frames=num_frames)
    collator = MultimodalCollator(
        processor, columns=script_args.columns, label=script_args.label_column, on_error=script_args.on_error
    )
    labels = dataset["train"].features[script_args.label_column].names
    if script_args.preprocess == "cached":
        with training_args.main_process_first(desc="extraction of features"):
            dataset = collator.cache(dataset, num_proc=script_args.preprocess_workers)

    # Model
    trainer_class = METHODS[script_args.method]
    model = MultimodalModel.from_backbones(
        backbones,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={name: i for i, name in enumerate(labels)},
        fusion=script_args.fusion,
        embedding_dim=script_args.embedding_dim,
        pooling=script_args.pooling,
        modality_dropout=script_args.modality_dropout,
        lora=script_args.lora,
        unimodal_heads=issubclass(trainer_class, UnimodalHeadsTrainer),
    )
    if script_args.channels_last:
        model.to(memory_format=torch.channels_last)

    # Trainer
    trainer = trainer_class(
        model=model,
        args=training_args,
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"],
        processing_class=processor,
        data_collator=collator,
    )

    # Train
    checkpoint = training_args.resume_from_checkpoint
    start = time.perf_counter()
    train_metrics = trainer.train(resume_from_checkpoint=True if checkpoint == "True" else checkpoint).metrics
    train_metrics["train_seconds"] = time.perf_counter() - start  # with all that a method does before the first step
    train_metrics["train_peak_memory_mib"] = peak_memory()
    train_metrics["train_resumed"] = int(trainer.resumed_from is not None)  # of such a run the time is not the whole
    trainer.save_metrics("train", train_metrics)

    # Evaluate
    split, metrics = "validation", trainer.evaluate()
    trainer.save_metrics("eval", metrics)
    if "test" in dataset and training_args.do_predict:
        split, metrics = "test", trainer.evaluate(dataset["test"], metric_key_prefix="test")
        trainer.save_metrics("test", metrics)

    # Save
    trainer.save_model()
    trainer.save_state()
    trainer.create_model_card(dataset=script_args.data_name)
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset=script_args.data_name)
    if trainer.is_world_process_zero():
        print_results(script_args, training_args, trainer, split, metrics, train_metrics["train_runtime"])


def peak_memory() -> float:
    """Most memory of this process so far in MiB, of the GPU if there is one, else of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 2**20
    import resource  # which Windows lacks

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def print_results(
    script_args: ScriptArguments,
    training_args: PrototypeTrainingArguments,
    trainer: PrototypeTrainer,
    split: str,
    metrics: dict[str, float],
    seconds: float,
) -> None:
    prefix = "test" if split == "test" else "eval"
    names = list(script_args.columns)
    rows = {f"{split} accuracy, fused": f"{metrics[f'{prefix}_accuracy']:.3f}"}
    for name in names:
        accuracy = metrics.get(f"{prefix}_{name}_prototype_accuracy")
        rows[f"{split} accuracy, {name} alone (prototypes)"] = "none seen" if accuracy is None else f"{accuracy:.3f}"
    if len(names) == 2:
        ratios = [f"{entry['rho']:.2f}" for entry in trainer.state.log_history if "rho" in entry]
        rows[f"ratio {names[0]} / {names[1]}, least of the logs"] = min(ratios, default="not logged")
        rows[f"ratio {names[0]} / {names[1]}, last"] = (ratios or ["not logged"])[-1]
    rows |= {"training time": f"{seconds:.0f} s", "saved to": training_args.output_dir}
    print(f"\n{script_args.method} on {script_args.data_name}, {script_args.fusion}")
    for name, value in rows.items():
        print(f"  {name:<42}  {value}")


if __name__ == "__main__":
    main()
