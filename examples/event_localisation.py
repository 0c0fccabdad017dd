"""
PMR with a label for each segment: predict which event each second of a video shows, if any.

    accelerate launch examples/event_localisation.py                               # sequences of scikit-learn's digits
    accelerate launch examples/event_localisation.py --data_dir AVE_Dataset        # AVE: 28 events and background

This is Table 4 of the paper. An encoder sees one segment at a time, and an LSTM for each modality sees all segments of
a video, as in Tian et al., "Audio-Visual Event Localization in Unconstrained Videos", ECCV 2018. (They use features of
pretrained networks.) The LSTMs give the embeddings (B, T, D), and PMR treats each labelled segment as a sample. The
script also takes every argument of `PMRTrainingArguments`.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from torch import nn
from torch.nn import functional as F
from transformers import (
    HfArgumentParser,
    PreTrainedConfig,
    PreTrainedModel,
    ResNetConfig,
    ResNetModel,
    ViTImageProcessor,
    set_seed,
)

from pmr_hf import (
    CGMNISTConfig,
    CGMNISTModel,
    MultimodalCollator,
    MultimodalOutput,
    MultimodalProcessor,
    PMRTrainer,
    PMRTrainingArguments,
    PrototypeTrainer,
    SpectrogramFeatureExtractor,
    attach_prototypes,
)
from pmr_hf.command_line.output_folder import folder_of, seed_of, take_folder
from pmr_hf.command_line.parse_arguments import DEFAULTS
from pmr_hf.data.ave import read_ave
from pmr_hf.data.cg_mnist import class_colors, read_sklearn_digits
from pmr_hf.data.new_encoders import RESNET18, digit_processor
from pmr_hf.data.paper_sets import PAPER_ALPHA, PAPER_DEFAULTS


SEGMENTS = 10


class LocalisationConfig(PreTrainedConfig):
    """
    Configuration of a [`LocalisationModel`].

    Args:
        channels (`dict[str, int]`, *optional*): number of channels of each modality's pictures. Defaults to 1 for
            gray and 3 for colored, as for the digits.
        encoder (`str`, *optional*, defaults to `"cg_mnist"`): encoder of every modality, `"cg_mnist"` or `"resnet18"`.
        hidden_size (`int`, *optional*, defaults to `128`): width of the embeddings.
    """

    model_type = "event_localisation"

    def __init__(
        self, channels: dict[str, int] | None = None, encoder: str = "cg_mnist", hidden_size: int = 128, **kwargs
    ):
        self.channels = channels or {"gray": 1, "colored": 3}
        self.encoder = encoder
        self.hidden_size = hidden_size
        super().__init__(**kwargs)


class LocalisationModel(PreTrainedModel):
    """Each modality has an encoder of segments and a bidirectional LSTM. A linear layer classifies both embeddings."""

    config_class = LocalisationConfig

    def __init__(self, config: LocalisationConfig):
        super().__init__(config)
        self.encoders, self.memories = nn.ModuleDict(), nn.ModuleDict()
        for name, channels in config.channels.items():
            if config.encoder == "cg_mnist":
                self.encoders[name] = CGMNISTModel(CGMNISTConfig(num_channels=channels))
            else:
                self.encoders[name] = ResNetModel(ResNetConfig(num_channels=channels, **RESNET18))
            self.memories[name] = nn.LSTM(512, config.hidden_size // 2, batch_first=True, bidirectional=True)
        self.classifier = nn.Linear(len(config.channels) * config.hidden_size, config.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):  # torch's own initialisation, as in `MultimodalModel`
            module.reset_parameters()

    def forward(self, labels: torch.Tensor | None = None, **modalities: dict[str, torch.Tensor]) -> MultimodalOutput:
        """The logits (B, T, K), from the frames (B, T, C, H, W) or the spectrogram (B, 1, F, L) of each modality."""
        embeddings = {}
        for name, encoder in self.encoders.items():
            pixels = modalities[name]["pixel_values"]
            segments = pixels if pixels.dim() == 5 else cut(pixels, SEGMENTS)
            features = encoder(segments.flatten(0, 1)).pooler_output.flatten(1)  # (B * T, 512)
            embeddings[name], _ = self.memories[name](features.unflatten(0, segments.shape[:2]))  # (B, T, D)
        logits = self.classifier(torch.cat(list(embeddings.values()), dim=2))
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return MultimodalOutput(loss=loss, logits=logits, embeddings=embeddings)


def cut(spectrograms: torch.Tensor, segments: int) -> torch.Tensor:
    """Cut spectrograms (B, 1, F, L) along time into T equal segments, (B, T, 1, F, L // T), and drop the remainder."""
    length = spectrograms.shape[3] // segments
    return spectrograms[..., : segments * length].unflatten(3, (segments, length)).movedim(3, 1)


# ---- Data ----


def digit_sequences(seed: int) -> DatasetDict:
    """
    Build sequences of ten pictures in gray and in colour: `train` (600), `validation` (150) and `test` (200).

    In each sequence, three to eight digits of one class are the event. The other pictures are background: digits whose
    pixels are shuffled. The digits of training events have the colour of their class. All other pictures have a random
    colour.
    """
    digits = read_sklearn_digits()
    generator = np.random.default_rng(seed)
    images, labels = digits["train"]
    order = generator.permutation(len(images))
    cut_off = len(images) // 5
    splits = {
        "train": (images[order[cut_off:]], labels[order[cut_off:]], 1.0, 600),
        "validation": (images[order[:cut_off]], labels[order[:cut_off]], 0.0, 150),
        "test": (*digits["test"], 0.0, 200),
    }
    return DatasetDict({name: Dataset.from_list(sequences_of(*split, generator)) for name, split in splits.items()})


def sequences_of(
    images: np.ndarray, labels: np.ndarray, correlation: float, count: int, generator: np.random.Generator
) -> list[dict[str, Any]]:
    """Draw `count` sequences from the images (N, H, W) with labels (N,), see [`digit_sequences`]."""
    rows = []
    for _ in range(count):
        event, length = generator.integers(10), generator.integers(3, 9)
        begin = generator.integers(SEGMENTS - length + 1)
        is_event = np.isin(np.arange(SEGMENTS), np.arange(begin, begin + length))
        pictures = images[generator.choice(np.flatnonzero(labels == event), SEGMENTS)]
        shuffled = generator.permuted(pictures.reshape(SEGMENTS, -1), axis=1).reshape(pictures.shape)
        pictures = np.where(is_event[:, None, None], pictures, shuffled)
        colors = np.where(
            is_event[:, None],
            class_colors(np.full(SEGMENTS, event), correlation, generator),
            class_colors(np.full(SEGMENTS, event), 0.0, generator),
        )
        colored = (pictures[..., None] * colors[:, None, None]).round().astype(np.uint8)
        rows.append({"gray": pictures[..., None], "colored": colored, "label": np.where(is_event, event, 10)})
    return rows


def seconds_of_ave(data_dir: str) -> tuple[DatasetDict, list[str]]:
    """Read AVE with a label for each second, and the names of the classes. The last class is background."""
    splits = read_ave(data_dir)
    names = splits["train"].features["label"].names

    def seconds(row: dict[str, Any]) -> dict[str, Any]:
        inside = [row["start"] <= second < row["end"] for second in range(SEGMENTS)]
        return {"seconds": [row["label"] if is_event else len(names) for is_event in inside]}

    splits = splits.map(seconds).remove_columns("label").rename_columns({"seconds": "label"})
    return splits, [*names, "background"]


@dataclass
class ScriptArguments:
    """Arguments of this script."""

    method: str = field(
        default="pmr",
        metadata={
            "help": "The training method. 'joint' is plain training, monitored with prototypes.",
            "choices": ["pmr", "joint"],
        },
    )
    data_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of the unpacked AVE_Dataset. By default, digits of scikit-learn are used."},
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Remove the model, checkpoints and results of another run from the folder."}
    )


def main() -> None:
    script_parser = HfArgumentParser(ScriptArguments, add_help=False)
    script_args, _ = script_parser.parse_args_into_dataclasses(return_remaining_strings=True)
    data_name = "ave" if script_args.data_dir else "digits"
    parser = HfArgumentParser((ScriptArguments, PMRTrainingArguments))
    parser.set_defaults(
        output_dir=folder_of(["event_localisation", data_name, script_args.method], seed_of(None)),
        learning_rate=3e-2,
        num_train_epochs=20,
        pmr_alpha=PAPER_ALPHA,
        **DEFAULTS,
        **PAPER_DEFAULTS | {"per_device_train_batch_size": 16, "per_device_eval_batch_size": 16},
    )
    script_args, training_args = parser.parse_args_into_dataclasses()
    take_folder(training_args, script_args.overwrite_output_dir)
    set_seed(training_args.seed)

    if script_args.data_dir is None:
        dataset, classes = digit_sequences(training_args.seed), [*map(str, range(10)), "background"]
        config = LocalisationConfig(num_labels=len(classes))
        columns = {"gray": "gray", "colored": "colored"}
        processors = {name: digit_processor(channels) for name, channels in config.channels.items()}
    else:
        dataset, classes = seconds_of_ave(script_args.data_dir)
        config = LocalisationConfig({"audio": 1, "visual": 3}, encoder="resnet18", num_labels=len(classes))
        columns = {"audio": "audio", "visual": "video"}
        extractor = SpectrogramFeatureExtractor(seconds=SEGMENTS, do_normalize=True)
        processors = {"audio": extractor, "visual": ViTImageProcessor()}
    config.id2label, config.label2id = dict(enumerate(classes)), {name: i for i, name in enumerate(classes)}
    frames = [name for name in columns if name != "audio"]
    processor = MultimodalProcessor(processors, num_frames=dict.fromkeys(frames, SEGMENTS))
    model = LocalisationModel(config)
    attach_prototypes(model, dict.fromkeys(columns, config.hidden_size), num_labels=len(classes))

    trainer_class = PMRTrainer if script_args.method == "pmr" else PrototypeTrainer
    trainer = trainer_class(
        model=model,
        args=training_args,
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"],
        processing_class=processor,
        data_collator=MultimodalCollator(processor, columns, label="label"),
    )
    checkpoint = training_args.resume_from_checkpoint
    trainer.train(resume_from_checkpoint=True if checkpoint == "True" else checkpoint)
    metrics = trainer.evaluate(dataset["test"], metric_key_prefix="test")
    trainer.save_metrics("test", metrics)
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        print(f"\n{script_args.method}: test accuracy, by segment")
        print(f"  {'fused':<28}  {metrics['test_accuracy']:.3f}")
        for name in columns:
            print(f"  {f'{name} alone (prototypes)':<28}  {metrics[f'test_{name}_prototype_accuracy']:.3f}")


if __name__ == "__main__":
    main()
