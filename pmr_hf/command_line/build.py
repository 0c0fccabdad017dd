"""Build the processor, the collator and the model of a script from its arguments."""

from datasets import Dataset
from transformers import PreTrainedConfig

from ..data.augmentation import AUGMENTATIONS
from ..data.collator import MultimodalCollator
from ..data.default_encoders import VIDEO_FRAMES
from ..data.new_encoders import NEW_ENCODERS, EncoderInput, NewEncoder
from ..data.paper_sets import PAPER_SETS
from ..data.target_columns import names_of, target_names
from ..model.backbones import encoder_config, stated_width
from ..model.modeling import MultimodalModel
from ..model.multimodal_processor import MultimodalProcessor
from ..model.targets import MULTI_LABEL, REGRESSION
from .script_arguments import ScriptArguments


def pretrained_processor(args: ScriptArguments) -> MultimodalProcessor:
    """Load the processors of the pretrained encoders only. There may be none."""
    return MultimodalProcessor.from_backbones(
        {name: backbone for name, backbone in args.backbones.items() if backbone not in NEW_ENCODERS}
    )


def new_encoder(name: str, args: ScriptArguments, train: Dataset) -> NewEncoder:
    """The config and the processor of a modality's encoder with new weights. `train` is the training split."""
    source = EncoderInput(
        train=train,
        column=args.columns[name],
        on_error=args.on_error,
        clip_seconds=args.clip_seconds or PAPER_SETS[args.dataset].clip_seconds,
        kinds=args.cell_kinds,
    )
    return NEW_ENCODERS[args.backbones[name]](source)


def add_new_encoders(
    args: ScriptArguments, pretrained: MultimodalProcessor, train: Dataset
) -> tuple[dict[str, str | PreTrainedConfig], MultimodalProcessor]:
    """
    Add the new encoders to the pretrained ones.

    Args:
        args (`ScriptArguments`): names the encoders.
        pretrained (`MultimodalProcessor`): the result of [`pretrained_processor`].
        train (`Dataset`): the training split, whose statistics standardise numbers.

    Returns:
        `tuple[dict[str, str | PreTrainedConfig], MultimodalProcessor]`: the encoder of each modality, as a name or as
        the config of a new encoder; and the processor of all modalities.
    """
    backbones: dict[str, str | PreTrainedConfig] = dict(args.backbones)
    processors = dict(pretrained.processors)
    for name, backbone in args.backbones.items():
        if backbone in NEW_ENCODERS:
            backbones[name], processors[name] = new_encoder(name, args, train)
    in_order = {name: processors[name] for name in backbones}
    frames = dict.fromkeys(args.inferred_videos, VIDEO_FRAMES) | pretrained.num_frames | args.num_frames
    return backbones, MultimodalProcessor(in_order, num_frames=frames)


def encoder_widths(args: ScriptArguments) -> dict[str, int | None]:
    """
    The width of the embedding of each modality, before any encoder is loaded, from the config of the encoder. `None` if
    the config does not state it, as that of a timm encoder.

    Raises:
        OSError: for an encoder without a config.
        ValueError: for a config that is refused.
    """
    if args.embedding_dim is not None:
        return dict.fromkeys(args.backbones, args.embedding_dim)
    no_data = EncoderInput(Dataset.from_dict({"x": [0.0, 1.0]}), "x", kinds={"x": "number"})  # no width depends on it
    return {
        name: stated_width(
            NEW_ENCODERS[backbone](no_data)[0] if backbone in NEW_ENCODERS else encoder_config(name, backbone)
        )
        for name, backbone in args.backbones.items()
    }


def build_collator(args: ScriptArguments, processor: MultimodalProcessor) -> MultimodalCollator:
    """
    Build the collator for the columns, the label column and the augmentation in the arguments. Raises `ValueError` for
    an augmentation of pictures of another modality, and for random frames without videos, unless `--modalities` left
    out those with videos.
    """
    return MultimodalCollator(
        processor,
        columns=args.columns,
        label=args.label_column,
        on_error=args.on_error,
        augment={name: AUGMENTATIONS[word](processor, name) for name, word in args.augment.items()},
        frames=args.frames if processor.num_frames or not args.modalities else "even",
    )


def class_names(args: ScriptArguments, train: Dataset) -> list[str]:
    """The names of the classes or labels of a training split, or the columns of numbers in a regression."""
    if args.problem_type == REGRESSION:
        return target_names(train, args.target_columns)
    if args.problem_type == MULTI_LABEL:
        return names_of(train, args.label_column)
    return train.features[args.label_column].names


def build_model(
    args: ScriptArguments,
    backbones: dict[str, str | PreTrainedConfig],
    classes: list[str],
    unimodal_heads: bool = False,
) -> MultimodalModel:
    """
    Build the model. Parts without pretrained weights get new ones.

    Args:
        args (`ScriptArguments`): fusion head, width, pooling, modality dropout, LoRA and memory format.
        backbones (`dict`): the encoders that [`add_new_encoders`] returns.
        classes (`list[str]`): names of the classes, labels or targets, in the order of their ids.
        unimodal_heads (`bool`, *optional*, defaults to `False`): whether each modality gets its own linear classifier,
            which some methods train.
    """
    model = MultimodalModel.from_backbones(
        backbones,
        num_labels=len(classes),
        problem_type=args.problem_type,
        id2label=dict(enumerate(classes)),
        label2id={name: i for i, name in enumerate(classes)},
        fusion=args.fusion,
        embedding_dim=args.embedding_dim,
        pooling=args.pooling,
        normalize_embeddings=args.normalize_embeddings,
        modality_dropout=args.modality_dropout,
        lora=args.lora,
        unimodal_heads=unimodal_heads,
        initialization=args.initialization,
    )
    model.channels_last = args.channels_last
    return model
