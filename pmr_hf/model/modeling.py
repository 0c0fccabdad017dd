"""The model: one pretrained encoder per modality, a fusion head, and the class prototypes of every modality."""

import os
from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from huggingface_hub import HfApi
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .backbones import check_own_weights, check_weight_index, embedding_width, load_backbone, new_backbone
from .building_limits import limited_building
from .channels_last import is_convolutional
from .configuration import MultimodalConfig, check_fields
from .fusion import LateFusion, build_fusion
from .hub_card import card_on_hub, push_card
from .initialization import initialize
from .label_prototypes import LabelPrototypes
from .lora import add_lora, train_lora_only
from .missing_modalities import AbsentVectors, all_present, drop_modalities, spread_rows
from .multimodal_processor import MultimodalProcessor
from .pooling import encode
from .prototypes import Prototypes
from .tabular_kind import with_configs
from .tabular_processor import TabularProcessor
from .targets import MULTI_LABEL, REGRESSION, SINGLE_LABEL, TargetScale, check_labels, target_loss
from .unimodal_models import load_unimodal, log_weights


LEAST_NORMALIZED = 8  # normalizing an embedding of fewer numbers would leave too little of it


@dataclass
class MultimodalOutput(ModelOutput):
    """
    Output of [`MultimodalModel`].

    Args:
        loss (`torch.Tensor`, *optional*): scalar loss of the fused logits, if labels were given: the cross entropy, or
            the squared error of standardised targets in a regression.
        logits (`torch.Tensor`): fused logits, (B, K). In a regression, the predictions (B, R) in the user's units.
        embeddings (`dict[str, torch.Tensor]`): each encoder's pooled embedding before the fusion, (B, D_m). The row of
            a sample without that modality is zero.
        present (`dict[str, torch.Tensor]`, *optional*): which samples have each modality, (B,) bool, after modality
            dropout. `None` if all samples have all modalities.
        unimodal_logits (`dict[str, torch.Tensor]`, *optional*): like `logits`, of each embedding alone, from its own
            linear head, if the config has `unimodal_heads`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    embeddings: dict[str, torch.Tensor] | None = None
    present: dict[str, torch.Tensor] | None = None
    unimodal_logits: dict[str, torch.Tensor] | None = None


class MultimodalModel(PreTrainedModel):
    """
    A model with one encoder per modality, a fusion head, and a prototype classifier for each modality.

    Samples may lack modalities. In the fusion, a learned vector replaces an absent embedding, or the head masks it
    (`"attention"`, `"late"`, `"shared"`). `config.problem_type` says what the model predicts. In a regression,
    `prototypes` is `None`, and `target_scale` is a [`TargetScale`].

    ```python
    model = MultimodalModel.from_backbones(
        {"image": "google/vit-base-patch16-224", "text": "bert-base-uncased"}, num_labels=6, fusion="concat"
    )
    output = model(image={"pixel_values": pixels}, text={"input_ids": ids, "attention_mask": mask}, labels=labels)
    ```

    Args:
        config (`MultimodalConfig`): the configuration. A model built from it has new weights;
            [`MultimodalModel.from_backbones`] and `from_pretrained` load weights.
        backbones (`dict[str, PreTrainedModel]`, *optional*): loaded encoders to use in place of new ones, by modality.

    Raises:
        ValueError: for a config without backbones, an unknown fusion head, or an encoder whose config does not state
            the width of its embedding; for `normalize_embeddings` with fewer than 8 numbers in an embedding.
    """

    config_class = MultimodalConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # otherwise `Trainer` assumes that the loss is scaled for gradient accumulation
    _supports_sdpa = True
    _supports_flash_attn = True
    _keep_in_fp32_modules_strict = {"prototypes", "target_scale"}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls._auto_class = None  # a subclass is saved with its code only if its author registers it

    def __init__(self, config: MultimodalConfig, backbones: dict[str, PreTrainedModel] | None = None):
        super().__init__(config)
        #: The weights that `from_pretrained` did not find, by name. It is empty once the model is trained.
        self.missing_weights: list[str] = []
        #: Whether the encoders read pictures in the channels-last memory format. `None`: those for which
        #: [`~pmr_hf.model.channels_last.is_convolutional`] holds, on a CPU. It is not saved.
        self.channels_last: bool | None = None
        if not config.modalities:
            raise ValueError(
                "Expected a config with at least one backbone, got none; use `MultimodalModel.from_backbones`."
            )
        with limited_building("the model"):
            if not backbones:
                configs = {name: config.backbones[name] for name in config.modalities}
                backbones = {name: new_backbone(name, part, config.initialization) for name, part in configs.items()}
            self.backbones = nn.ModuleDict({name: backbones[name] for name in config.modalities})
            check_own_weights(self.backbones)
            self._convolutional = {name for name, backbone in self.backbones.items() if is_convolutional(backbone)}
            for name, settings in config.lora.items():
                add_lora(name, self.backbones[name], settings)
            widths = {name: embedding_width(name, backbone) for name, backbone in self.backbones.items()}
            small = {name: width for name, width in widths.items() if width < LEAST_NORMALIZED}
            if config.normalize_embeddings and small:
                raise ValueError(
                    f"Expected embeddings of at least {LEAST_NORMALIZED} numbers to normalize, got {small}; widen "
                    "these encoders, or set `normalize_embeddings` to False."
                )
            #: The width of each encoder's embedding, in the order of the modalities
            self.widths = dict(widths)
            fused_widths = widths
            self.projections = nn.ModuleDict()
            if config.embedding_dim is not None:
                fused_widths = dict.fromkeys(widths, config.embedding_dim)
                self.projections.update(
                    {name: nn.Linear(width, config.embedding_dim) for name, width in widths.items()}
                )
            self.fusion = build_fusion(config.fusion, fused_widths, config.num_labels, config.problem)
            self.absent = AbsentVectors(fused_widths)
            prototypes = {SINGLE_LABEL: Prototypes, MULTI_LABEL: LabelPrototypes}.get(config.problem)
            self.prototypes = prototypes and prototypes(widths, config.num_labels)
            self.target_scale = TargetScale(config.num_labels) if config.problem == REGRESSION else None
            heads = widths if config.unimodal_heads else {}
            self.unimodal_heads = nn.ModuleDict(
                {name: nn.Linear(width, config.num_labels) for name, width in heads.items()}
            )
        for part in (self.projections, self.fusion, self.unimodal_heads):
            initialize(part, config.initialization)
        if not any(parameter.is_meta for parameter in self.parameters()):
            # All parts already have their weights. `post_init` would initialise a given encoder or a user's head again.
            for module in self.modules():
                module._is_hf_initialized = True
        # `device_map` and FSDP do not split the modules that the encoders name.
        self._no_split_modules = set(
            chain.from_iterable(part._no_split_modules or [] for part in self.backbones.values())
        )
        self.post_init()
        if config._attn_implementation not in (None, "sdpa"):  # not the default, so the user has asked for it
            for backbone in self.backbones.values():
                backbone.set_attn_implementation(config._attn_implementation)
        self.fsdp_plan = {f"backbones.{name}": "free_full_weight" for name in self.backbones}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # What a checkpoint lacks is drawn as torch draws it.
        if isinstance(module, nn.Linear):
            module.reset_parameters()
        elif isinstance(module, (Prototypes, nn.ParameterDict)):
            for tensor in [*module.buffers(), *module.parameters()]:
                init.zeros_(tensor)
        elif isinstance(module, TargetScale):
            init.zeros_(module.mean)
            init.ones_(module.std)
        elif isinstance(module, LateFusion):
            init.zeros_(module.log_weights)
        else:
            super()._init_weights(module)

    @classmethod
    def from_backbones(
        cls,
        backbones: dict[str, str | os.PathLike | PreTrainedConfig | PreTrainedModel | TabularProcessor],
        num_labels: int,
        processor: MultimodalProcessor | None = None,
        **kwargs,
    ) -> "MultimodalModel":
        """
        Build a model around pretrained encoders. Only this method and `from_pretrained` load weights.

        Args:
            backbones (`dict[str, str | os.PathLike | PreTrainedConfig | PreTrainedModel]`): the encoder of each
                modality: a Hub name or local folder to load weights from, a config for new weights, or a loaded model.
                Task heads and decoders are dropped. For a timm model, give its Hub name or a `TimmWrapperConfig`. A
                table has no pretrained encoder: give its fitted [`TabularProcessor`], or the word "tabular" together
                with `processor`.
            num_labels (`int`): number of classes, of labels, or of targets.
            processor (`MultimodalProcessor`, *optional*): the processor of the model, which tells the columns and the
                categories of each modality that is given as "tabular". Nothing else is read from it.
            kwargs: further fields of [`MultimodalConfig`], such as `fusion` or `problem_type`.

        Raises:
            OSError: for a Hub name or folder without an encoder, or without its weights as safetensors.
            TypeError: for a backbone of another type, such as a bare `timm.create_model(...)`.
            ValueError: for a modality name that is already taken, a backbone that `AutoModel` could not build again,
                backbones that share weights, or a backbone whose config does not state the width of its embedding; for
                an `initialization` other than `"default"` if no encoder has new weights; for "tabular" without its
                processor.
        """
        backbones = with_configs(backbones, processor)
        initialization = kwargs.get("initialization", "default")
        check_fields({"initialization": initialization})
        if initialization != "default" and not any(isinstance(part, PreTrainedConfig) for part in backbones.values()):
            raise ValueError(
                f"Expected an encoder with new weights for initialization={initialization!r}, got pretrained encoders "
                f"for {list(backbones)}, which keep their weights; leave it out."
            )
        loaded = {name: load_backbone(name, backbone, initialization) for name, backbone in backbones.items()}
        configs = {name: config for name, (_, config) in loaded.items()}
        config = cls.config_class(backbones=configs, num_labels=num_labels, **kwargs)
        return cls(config, backbones={name: model for name, (model, _) in loaded.items()})

    @classmethod
    @torch.no_grad()
    def from_unimodal(
        cls, models: dict[str, str | os.PathLike | PreTrainedModel], weights: dict[str, float] | None = None
    ) -> "MultimodalModel":
        """
        Fuse finished classifiers of one modality each: the probabilities are the mean of those of the modalities that a
        sample has (`fusion="late"`). Nothing is trained, and the given models stay as they are.

        ```python
        model = MultimodalModel.from_unimodal({"image": "me/pictures", "text": "me/titles"})
        ```

        Args:
            models (`dict[str, str | os.PathLike | PreTrainedModel]`): the classifier of each modality: a Hub name, a
                local folder or a loaded model. It is a `MultimodalModel` of one modality with a linear head
                (`"concat"`, `"sum"` or `"late"`), or one of the classes of transformers in `LINEAR_CLASSIFIERS` of
                `unimodal_models.py`, such as `ViTForImageClassification`. Classes are matched by their names, in the
                order of the first model.
            weights (`dict[str, float]`, *optional*): a positive weight of each modality in the mean, such as its
                accuracy on validation. Equal by default.

        Returns:
            `MultimodalModel`: the model in evaluation mode, in fp32 on the CPU. The modalities of `MultimodalModel`s
            keep their prototypes; those of transformers have none.

        Raises:
            TypeError: for a model of another type.
            ValueError: for no models; for models that differ in their classes or `normalize_embeddings`, that are of
                several labels or a regression, that lack weights, or whose logits are not linear in an embedding; for
                `weights` that are not positive.
        """
        if not models:
            raise ValueError("Expected at least one finished model, got none; give one per modality.")
        parts = {name: load_unimodal(name, model, cls) for name, model in models.items()}
        names = next(iter(parts.values())).names
        normalized = {name: part.normalized for name, part in parts.items()}
        if len(set(normalized.values())) > 1:
            raise ValueError(
                f"Expected models with the same `normalize_embeddings` to fuse, got {normalized}; train them alike."
            )
        config = cls.config_class(
            backbones={name: deepcopy(part.encoder.config) for name, part in parts.items()},
            fusion="late",
            pooling={name: part.pooling for name, part in parts.items()},
            normalize_embeddings=all(normalized.values()),
            lora={name: part.lora for name, part in parts.items() if part.lora},
            num_labels=len(names),
            id2label=dict(enumerate(names)),
            label2id={label: k for k, label in enumerate(names)},
        )
        model = cls(config)
        model.fusion.log_weights.copy_(log_weights(weights, list(parts)))
        for name, part in parts.items():
            part.copy_to(name, model)
        return model.eval()

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """
        Like `PreTrainedModel.from_pretrained`, but weights are read from safetensors alone. In an encoder with LoRA,
        only the LoRA layers are trainable. Weights that the files lack are new, and `missing_weights` names them until
        the model is trained.

        Raises:
            ValueError: also for an index of weights that names files outside the folder.
        """
        if args and isinstance(args[0], (str, os.PathLike)):
            check_weight_index(args[0])
        kwargs.setdefault("use_safetensors", True)
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        # With `ignore_mismatched_sizes`, weights of another shape are new as well.
        model.missing_weights = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
        for name in model.config.lora:
            train_lora_only(model.backbones[name])
        return (model, info) if wants_info else model

    def forward(self, labels: torch.Tensor | None = None, **modalities: dict[str, torch.Tensor]) -> MultimodalOutput:
        """
        Encode the modalities of a batch, and fuse their embeddings.

        Args:
            labels (`torch.Tensor`, *optional*): (B,) int64 classes in 0..K-1; or, by `config.problem_type`, (B, K)
                floats of 0 and 1, or targets (B, R) in the user's units, which may be (B,) for one target.
            modalities: the keyword arguments of each modality's encoder, as a dict of tensors with B rows. If the dict
                has `present` (B,) bool, only the rows that it marks are encoded. A modality that is left out is absent
                from all samples.

        Raises:
            ValueError: see [`check_batch`] and [`~pmr_hf.model.targets.check_labels`]. Also if no sample of the batch
                has a modality and the model is sharded by FSDP.
        """
        size = check_batch(self.backbones, modalities)
        if labels is not None:
            check_labels(self.config.problem, labels, size, self.config.num_labels)
        none_present = torch.zeros(size, dtype=torch.bool, device=next(self.parameters()).device)
        encoded = {name: self._encode(name, modalities.get(name, {"present": none_present})) for name in self.backbones}
        embeddings = {name: embedding for name, (embedding, _) in encoded.items()}
        masks = {name: mask for name, (_, mask) in encoded.items() if mask is not None}
        dropout = self.config.modality_dropout if self.training else 0.0
        present = all_present(self.backbones, like=none_present) | masks if masks or dropout else None
        if dropout:
            present = drop_modalities(present, dropout)
        logits = self.fuse(embeddings, present)
        if present is None:
            # A sharded model needs a gradient for each parameter in each process.
            logits = logits + 0 * torch.stack([vector.sum() for vector in self.absent.values()]).sum()
        loss = None if labels is None else self.loss_of(logits, labels)
        unimodal_logits = {
            name: self._in_units(head(embeddings[name].to(head.weight.dtype)))
            for name, head in self.unimodal_heads.items()
        }
        return MultimodalOutput(loss, logits, embeddings, present, unimodal_logits or None)

    def _encode(self, name: str, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The embeddings (B, D) of a modality, and the mask (B,) of the samples that have it, or `None` for all."""
        channels_last = self.reads_channels_last(name)
        if "present" not in inputs:
            return self.embed(name, inputs, channels_last), None
        present = inputs["present"].bool()
        rows = present.nonzero()[:, 0]
        if len(rows) == 0:
            if isinstance(self, FSDPModule):
                raise ValueError(
                    f"Expected a sample with {name!r} in the batch of each process, since every process must run each "
                    "encoder of a sharded model, got none; use larger batches, or train with DDP."
                )
            empty = torch.zeros(len(present), self.widths[name], device=present.device)
            return empty.to(next(self.parameters()).dtype), present
        inputs = {key: value[rows] for key, value in inputs.items() if key != "present"}
        return spread_rows(self.embed(name, inputs, channels_last), rows, len(present)), present

    def embed(self, name: str, inputs: dict[str, torch.Tensor], channels_last: bool = False) -> torch.Tensor:
        """
        The embeddings (B, D_m) of a modality, from the keyword arguments of its encoder for B samples that have it, see
        [`~pmr_hf.model.pooling.encode`]. Raises `ValueError` if the encoder's output cannot be pooled.
        """
        embeddings = encode(name, self.backbones[name], inputs, self.config.pooling[name], channels_last)
        return F.layer_norm(embeddings, embeddings.shape[1:]) if self.config.normalize_embeddings else embeddings

    def reads_channels_last(self, name: str) -> bool:
        """Whether the encoder of a modality reads pictures in the channels-last format, see `channels_last`."""
        if self.channels_last is not None:
            return self.channels_last
        return name in self._convolutional and next(self.parameters()).device.type == "cpu"

    def loss_of(self, logits: torch.Tensor, labels: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
        """
        The loss of fused or unimodal logits (B, K) for labels as `forward` takes them, see
        [`~pmr_hf.model.targets.target_loss`]. The targets of a regression are standardised first. `reduction` is
        `"mean"` for a scalar, or `"none"` for (B,).
        """
        if self.target_scale is not None:
            logits = self.target_scale.standardise(logits)
            labels = self.target_scale.standardise(labels.reshape(logits.shape))
        return target_loss(self.config.problem, logits, labels, reduction)

    def fit_targets(self, labels: torch.Tensor) -> None:
        """
        Set the scale of a regression's targets by those of the training rows, (N,) or (N, R) in the user's units. The
        trainers do so before training, unless the model already has a scale.

        Raises:
            ValueError: for a model that is no regression, and see [`TargetScale.fit`].
        """
        if self.target_scale is None:
            raise ValueError(
                f"Expected a model with problem_type='regression' to fit targets, got {self.config.problem!r}; leave "
                "this call out."
            )
        self.target_scale.fit(labels)

    def _in_units(self, values: torch.Tensor) -> torch.Tensor:
        """Predictions of a regression in the user's units. Other logits stay unchanged."""
        return values if self.target_scale is None else self.target_scale.restore(values)

    def get_input_embeddings(self) -> None:
        """Return `None`, since each encoder has its own. Accelerate calls this method when it shards the model."""

    def train(self, mode: bool = True) -> "MultimodalModel":
        """Set the training mode. A frozen encoder stays in evaluation mode, with fixed statistics and no dropout."""
        super().train(mode)
        if mode:
            self.missing_weights = []
        for backbone in self.backbones.values():
            if not any(parameter.requires_grad for parameter in backbone.parameters()):
                backbone.eval()
        return self

    def freeze(self, modalities: list[str] | str) -> None:
        """Freeze the encoders of these modalities. Raises `ValueError` for a modality that the model does not have."""
        modalities = [modalities] if isinstance(modalities, str) else modalities
        unknown = [name for name in modalities if name not in self.backbones]
        if unknown:
            raise ValueError(
                f"Expected `freeze` to name modalities among {list(self.backbones)}, got {unknown}; correct it."
            )
        for name in modalities:
            self.backbones[name].requires_grad_(False)
        self.train(self.training)

    def fuse(self, embeddings: dict[str, torch.Tensor], present: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        """
        The fused logits (B, K) of embeddings (B, D_m), or in a regression the predictions (B, R) in the user's units.
        `present` has the masks (B,) bool of the samples that have each modality; for the others, see the class. In
        evaluation mode with `config.answer="prototypes"`, the logits are those of [`Prototypes.answer`].
        """
        if self.config.answer == "prototypes" and not self.training:
            return self.prototypes.answer(embeddings, present)
        return self.fuse_by_head(embeddings, present)

    def fuse_by_head(
        self, embeddings: dict[str, torch.Tensor], present: dict[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Like [`MultimodalModel.fuse`], but always the logits of the fusion head."""
        masks = {"present": present} if self.fusion.takes_masks else {}
        return self._in_units(self.fusion(self._fused(embeddings, present), **masks))

    def modality_logits(
        self, embeddings: dict[str, torch.Tensor], present: dict[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """
        The share (B, K) of each modality in the fused logits. In a regression, they sum to the standardised prediction.
        Raises `TypeError` if the head does not split them.
        """
        return self.fusion.modality_logits(self._fused(embeddings, present))

    def unimodal_answers(
        self, embeddings: dict[str, torch.Tensor], present: dict[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """
        What the layer of each modality in late fusion answers alone: logits (B, K), or predictions (B, R) in the user's
        units. Raises `TypeError` for another fusion head.
        """
        if not isinstance(self.fusion, LateFusion):
            raise TypeError(
                f"Expected fusion='late', whose layers each answer alone, got {self.config.fusion!r}; use "
                "`modality_logits`, or the prototype classifier of a modality."
            )
        logits = self.fusion.unimodal_logits(self._fused(embeddings, present))
        return {name: self._in_units(values) for name, values in logits.items()}

    def _fused(
        self, embeddings: dict[str, torch.Tensor], present: dict[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        # Encoders may have another dtype than the head, and this may run outside autocast.
        head = next(chain(self.projections.parameters(), self.fusion.parameters()), None)
        if head is not None:
            embeddings = {name: embedding.to(head.dtype) for name, embedding in embeddings.items()}
        if self.config.embedding_dim is not None:
            embeddings = {name: self.projections[name](embedding) for name, embedding in embeddings.items()}
        if present is None:
            return embeddings
        return self.absent.replace(embeddings, present)

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> None:
        """Like `PreTrainedModel.save_pretrained`, but with `save_original_format=False` by default."""
        # In the original format, a ViT or AST is saved under legacy names, and `Trainer` loses its weights on resume.
        kwargs.setdefault("save_original_format", False)
        super().save_pretrained(save_directory, *args, **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs) -> str:
        """
        Push the model as `PreTrainedModel.push_to_hub` does, and add a card to a repository that has none. If a trainer
        wrote a card to the local folder that the model was loaded from, that card is pushed, with its plot and the
        processor. Otherwise a short card is pushed.
        """
        token = kwargs.get("token")
        name = HfApi().create_repo(repo_id, private=kwargs.get("private"), token=token, exist_ok=True).repo_id
        if not kwargs.get("create_pr") and card_on_hub(name, token) is None:
            folder = Path(self.name_or_path) if self.name_or_path else None
            push_card(name, self.config, folder, token, kwargs.get("revision"))
        return super().push_to_hub(name, **kwargs)


def check_batch(names: Collection[str], modalities: Mapping[str, Mapping[str, torch.Tensor]]) -> int:
    """
    Check a batch for a model with the modalities `names`, and return its number of samples B.

    Raises:
        ValueError: for an unknown modality, a batch without modalities, inputs that are not a dict of tensors, numbers
            of rows that differ, or a `present` of more than one dimension.
    """
    if not modalities or modalities.keys() - set(names):
        raise ValueError(
            f"Expected a batch with some of the modalities {list(names)}, got {list(modalities)}; make the collator's "
            "columns and the model's backbones the same."
        )
    for name, inputs in modalities.items():
        if not isinstance(inputs, Mapping):
            raise ValueError(
                f"Expected a dict of the inputs of {name!r}, got a {type(inputs).__name__}; name them as its encoder "
                "does, such as {'pixel_values': pixels}."
            )
    shapes = {
        name: {key: tuple(value.shape) if torch.is_tensor(value) else () for key, value in inputs.items()}
        for name, inputs in modalities.items()
    }
    rows = {shape[:1] for inputs in shapes.values() for shape in inputs.values()}
    masks = [inputs["present"] for inputs in shapes.values() if "present" in inputs]
    if len(rows) != 1 or () in rows or not all(shapes.values()) or any(len(mask) != 1 for mask in masks):
        raise ValueError(
            "Expected tensors with one row per sample of each modality, and `present` of one dimension, got the shapes "
            f"{shapes}; stack the samples, or leave out a modality that no sample has."
        )
    ((size,),) = rows
    return size
