"""
PMR with fusion inside the encoders: MMTM and CentralNet on colored-and-gray digits.

    accelerate launch examples/intermediate_fusion.py --fusion mmtm               # digits of scikit-learn
    accelerate launch examples/intermediate_fusion.py --fusion centralnet --method joint --data_dir mnist

This is Table 3 of the paper. The models are not `MultimodalModel`s. `PMRTrainer` only needs an embedding of each
modality in their output, and prototypes, which `attach_prototypes` adds. The script also takes every argument of
`PMRTrainingArguments`.
"""

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F
from transformers import HfArgumentParser, PreTrainedConfig, PreTrainedModel, set_seed

from pmr_hf import (
    CGMNISTConfig,
    CGMNISTModel,
    MultimodalCollator,
    MultimodalOutput,
    MultimodalProcessor,
    PMRTrainer,
    PMRTrainingArguments,
    attach_prototypes,
)
from pmr_hf.command_line.output_folder import folder_of, seed_of, take_folder
from pmr_hf.command_line.parse_arguments import DEFAULTS
from pmr_hf.data.cg_mnist import cg_mnist, read_mnist, read_sklearn_digits
from pmr_hf.data.new_encoders import digit_processor
from pmr_hf.data.paper_sets import PAPER_ALPHA, PAPER_DEFAULTS


CHANNELS = [32, 32, 64, 64]  # number of channels of the encoder's feature maps, by stage


class IntermediateFusionConfig(PreTrainedConfig):
    """Configuration of both models. `hidden_size` is the width of the embeddings."""

    model_type = "intermediate_fusion"

    def __init__(self, hidden_size: int = 512, **kwargs):
        self.hidden_size = hidden_size
        super().__init__(**kwargs)


class IntermediateFusionModel(PreTrainedModel):
    """Base class of both models: two encoders that run stage by stage."""

    config_class = IntermediateFusionConfig

    def __init__(self, config: IntermediateFusionConfig):
        super().__init__(config)
        self.encoders = nn.ModuleDict(
            {
                name: CGMNISTModel(CGMNISTConfig(num_channels=channels, hidden_size=config.hidden_size))
                for name, channels in (("gray", 1), ("colored", 3))
            }
        )

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):  # torch's own initialisation, as in `MultimodalModel`
            module.reset_parameters()

    def output(
        self, logits: torch.Tensor, embeddings: dict[str, torch.Tensor], labels: torch.Tensor | None
    ) -> MultimodalOutput:
        """The output of the model, with the cross entropy of the logits (B, K) if there are labels (B,)."""
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return MultimodalOutput(loss=loss, logits=logits, embeddings=embeddings)


class MMTM(nn.Module):
    """
    Multimodal transfer module: the features of all modalities excite or inhibit each channel of each modality.

    Joze et al., "MMTM: Multimodal Transfer Module for CNN Fusion", CVPR 2020. The means of all channels (Eq. 2) are
    squeezed to a quarter of their number (Eq. 3, with a ReLU as in the authors' code). From these, a linear layer for
    each modality computes excitations E, and the feature maps are multiplied by 2 sigmoid(E) (Eqs. 4, 5).
    """

    def __init__(self, channels: dict[str, int]):
        super().__init__()
        total = sum(channels.values())
        self.squeeze = nn.Linear(total, total // 4)
        self.excite = nn.ModuleDict({name: nn.Linear(total // 4, count) for name, count in channels.items()})

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Rescale the channels of the feature maps (B, C_m, h, w) of each modality."""
        joint = F.relu(self.squeeze(torch.cat([maps.mean((2, 3)) for maps in features.values()], dim=1)))
        return {
            name: 2 * self.excite[name](joint).sigmoid()[:, :, None, None] * maps for name, maps in features.items()
        }


class MMTMModel(IntermediateFusionModel):
    """An MMTM follows each of the last three stages, and one linear layer classifies both embeddings."""

    def __init__(self, config: IntermediateFusionConfig):
        super().__init__(config)
        self.exchange = nn.ModuleList(MMTM(dict.fromkeys(self.encoders, channels)) for channels in CHANNELS[1:])
        self.classifier = nn.Linear(2 * config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, gray: dict, colored: dict, labels: torch.Tensor | None = None) -> MultimodalOutput:
        features = {"gray": gray["pixel_values"], "colored": colored["pixel_values"]}
        for stage in range(len(CHANNELS)):
            features = {name: self.encoders[name].run_stage(stage, maps) for name, maps in features.items()}
            if stage > 0:
                features = self.exchange[stage - 1](features)
        embeddings = {name: self.encoders[name].pool(maps) for name, maps in features.items()}
        return self.output(self.classifier(torch.cat(list(embeddings.values()), dim=1)), embeddings, labels)


class CentralNetModel(IntermediateFusionModel):
    """
    A central network runs beside the encoders and classifies the sample. Each of its layers reads a learned weighted
    sum of its previous layer and of the encoders' feature maps at that stage (Vielzeuf et al., "CentralNet: a
    Multilayer Approach for Multimodal Fusion", ECCV workshops 2018, Eq. 1).

    Deviation: the paper also trains the encoders with their own losses. These losses are left out here, so that the
    joint baseline has one loss.
    """

    def __init__(self, config: IntermediateFusionConfig):
        super().__init__(config)
        self.central = CGMNISTModel(CGMNISTConfig(hidden_size=config.hidden_size))
        # (stages + 1, 3): weights of the central network and both encoders, after each stage and at the embeddings
        self.weights = nn.Parameter(torch.full((len(CHANNELS) + 1, 3), 1 / 3))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        # The central network starts from the encoders' first feature maps, so it needs no layers that read pictures.
        self.central.norm = nn.Identity()
        self.central.convolutions[0] = nn.Identity()
        self.post_init()

    def forward(self, gray: dict, colored: dict, labels: torch.Tensor | None = None) -> MultimodalOutput:
        features = {"gray": gray["pixel_values"], "colored": colored["pixel_values"]}
        center = None
        for stage in range(len(CHANNELS)):
            features = {name: self.encoders[name].run_stage(stage, maps) for name, maps in features.items()}
            center = None if center is None else self.central.run_stage(stage, center)
            center = self.blend(stage, center, features)
        embeddings = {name: self.encoders[name].pool(maps) for name, maps in features.items()}
        center = self.blend(len(CHANNELS), self.central.pool(center), embeddings)
        return self.output(self.classifier(center), embeddings, labels)

    def blend(self, layer: int, center: torch.Tensor | None, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """The weighted sum of the central features and the encoders' features, all of one shape, at a layer."""
        own, gray, colored = self.weights[layer]
        blended = gray * features["gray"] + colored * features["colored"]
        return blended if center is None else own * center + blended


MODELS = {"mmtm": MMTMModel, "centralnet": CentralNetModel}


@dataclass
class ScriptArguments:
    """Arguments of this script."""

    fusion: str = field(default="mmtm", metadata={"help": "Fusion model.", "choices": list(MODELS)})
    method: str = field(
        default="pmr",
        metadata={"help": "The training method. 'joint' sets alpha = mu = 0.", "choices": ["pmr", "joint"]},
    )
    data_dir: str | None = field(
        default=None, metadata={"help": "Folder of the raw MNIST files. By default, digits of scikit-learn are used."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on at most this many samples."})
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Remove the model, checkpoints and results of another run from the folder."}
    )


def main() -> None:
    script_parser = HfArgumentParser(ScriptArguments, add_help=False)
    script_args, _ = script_parser.parse_args_into_dataclasses(return_remaining_strings=True)
    data_name = "cg_mnist" if script_args.data_dir else "digits"
    parser = HfArgumentParser((ScriptArguments, PMRTrainingArguments))
    parser.set_defaults(
        output_dir=folder_of(["intermediate_fusion", data_name, script_args.fusion, script_args.method], seed_of(None)),
        learning_rate=3e-2,
        num_train_epochs=60,
        pmr_alpha=PAPER_ALPHA,
        **DEFAULTS,
        **PAPER_DEFAULTS,
    )
    script_args, training_args = parser.parse_args_into_dataclasses()
    take_folder(training_args, script_args.overwrite_output_dir)
    if script_args.method == "joint":
        training_args.pmr_alpha = training_args.pmr_mu = 0.0
    set_seed(training_args.seed)

    digits = read_sklearn_digits() if script_args.data_dir is None else read_mnist(script_args.data_dir)
    dataset = cg_mnist(digits, max_train_samples=script_args.max_train_samples, seed=training_args.seed)
    processor = MultimodalProcessor({"gray": digit_processor(1), "colored": digit_processor(3)})
    config = IntermediateFusionConfig(num_labels=10)
    model = MODELS[script_args.fusion](config)
    attach_prototypes(model, dict.fromkeys(model.encoders, config.hidden_size), num_labels=10)
    trainer = PMRTrainer(
        model=model,
        args=training_args,
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"],
        processing_class=processor,
        data_collator=MultimodalCollator(processor, {"gray": "gray", "colored": "colored"}, label="label"),
    )
    checkpoint = training_args.resume_from_checkpoint
    trainer.train(resume_from_checkpoint=True if checkpoint == "True" else checkpoint)
    metrics = trainer.evaluate(dataset["test"], metric_key_prefix="test")
    trainer.save_metrics("test", metrics)
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        print(f"\n{script_args.method}, {script_args.fusion}: test accuracy")
        for key, name in (("accuracy", "fused"), ("gray_prototype_accuracy", "gray alone (prototypes)")):
            print(f"  {name:<28}  {metrics[f'test_{key}']:.3f}")


if __name__ == "__main__":
    main()
