"""The model: one pretrained encoder per modality, a fusion head, and the class prototypes of every modality."""

import os
from dataclasses import dataclass
from itertools import chain

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, TimmWrapperModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration import MultimodalConfig
from .fusion import build_fusion
from .prototypes import Prototypes


@dataclass
class MultimodalOutput(ModelOutput):
    """
    Output of [`MultimodalModel`].

    Args:
        loss (`torch.Tensor`, *optional*): scalar cross entropy of the fused logits, if labels were given.
        logits (`torch.Tensor`): fused logits, (B, K).
        embeddings (`dict[str, torch.Tensor]`): each encoder's pooled embedding before the fusion, (B, D_m).
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    embeddings: dict[str, torch.Tensor] | None = None


class MultimodalModel(PreTrainedModel):
    """
    Any encoders, one per modality, fused by any head, with a prototype classifier per modality.

    ```python
    model = MultimodalModel.from_backbones(
        {"image": "google/vit-base-patch16-224", "text": "bert-base-uncased"}, num_labels=6, fusion="concat"
    )
    output = model(image={"pixel_values": pixels}, text={"input_ids": ids, "attention_mask": mask}, labels=labels)
    ```

    Args:
        config (`MultimodalConfig`): the configuration. Building from it loads no weights:
            [`MultimodalModel.from_backbones`] and `from_pretrained` do.
        backbones (`dict[str, PreTrainedModel]`, *optional*): encoders to take as they are, in place of new ones.
    """

    config_class = MultimodalConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # else `Trainer` takes the loss for one that is scaled for gradient accumulation
    _supports_sdpa = True
    _supports_flash_attn = True
    _keep_in_fp32_modules_strict = {"prototypes"}

    def __init__(self, config: MultimodalConfig, backbones: dict[str, PreTrainedModel] | None = None):
        super().__init__(config)
        if not config.modalities:
            raise ValueError(
                "Expected a config with at least one backbone, got none; use `MultimodalModel.from_backbones`."
            )
        backbones = backbones or {name: AutoModel.from_config(config.backbones[name]) for name in config.modalities}
        self.backbones = nn.ModuleDict({name: backbones[name] for name in config.modalities})
        widths = {name: embedding_width(name, backbone) for name, backbone in self.backbones.items()}
        fused_widths = widths
        self.projections = nn.ModuleDict()
        if config.embedding_dim is not None:
            fused_widths = dict.fromkeys(widths, config.embedding_dim)
            self.projections.update({name: nn.Linear(width, config.embedding_dim) for name, width in widths.items()})
        self.fusion = build_fusion(config.fusion, fused_widths, config.num_labels)
        self.prototypes = Prototypes(widths, config.num_labels)
        if not any(parameter.is_meta for parameter in self.parameters()):
            # Every part has its weights already: `post_init` would draw those of a given encoder or a user's head anew.
            for module in self.modules():
                module._is_hf_initialized = True
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Linear layers keep torch's own initialisation, which the paper's learning rates were tuned for.
        if isinstance(module, nn.Linear):
            module.reset_parameters()
        elif isinstance(module, Prototypes):
            for buffer in module.buffers():
                init.zeros_(buffer)
        else:
            super()._init_weights(module)

    @classmethod
    def from_backbones(
        cls, backbones: dict[str, str | os.PathLike | PreTrainedConfig | PreTrainedModel], num_labels: int, **kwargs
    ) -> "MultimodalModel":
        """
        Build a model around pretrained encoders. This is the only place, beside `from_pretrained`, that loads weights.

        Args:
            backbones (`dict[str, str | os.PathLike | PreTrainedConfig | PreTrainedModel]`): by modality, a Hub name or
                local folder (weights are loaded), a config (weights are new), or a loaded model (taken as it is).
                timm models go by their Hub names or a `TimmWrapperConfig`.
            num_labels (`int`): number of classes.
            kwargs: further fields of [`MultimodalConfig`], such as `fusion`.

        Raises:
            TypeError: for a backbone of another type, such as a bare `timm.create_model(...)`.
            ValueError: for a modality name that is taken, or a backbone whose width cannot be told.
        """
        loaded = {name: _load_backbone(name, backbone) for name, backbone in backbones.items()}
        configs = {name: model.config for name, model in loaded.items()}
        config = cls.config_class(backbones=configs, num_labels=num_labels, **kwargs)
        return cls(config, backbones=loaded)

    def forward(self, labels: torch.Tensor | None = None, **modalities: dict[str, torch.Tensor]) -> MultimodalOutput:
        """
        Args:
            labels (`torch.Tensor`, *optional*): (B,) int64 classes in 0..K-1.
            modalities: for each modality of the config, its encoder's keyword arguments, each with B rows.

        Raises:
            ValueError: if a modality is missing or unknown.
        """
        if modalities.keys() != self.backbones.keys():
            raise ValueError(
                f"Expected a batch with the modalities {list(self.backbones)}, got {list(modalities)}; make the "
                "collator's columns and the model's backbones the same."
            )
        embeddings = {}
        for name, backbone in self.backbones.items():
            inputs = modalities[name]
            embeddings[name] = pool(name, backbone(**inputs), inputs.get("attention_mask"))
        logits = self.fusion(self._fused(embeddings))
        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        return MultimodalOutput(loss=loss, logits=logits, embeddings=embeddings)

    def modality_logits(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Each modality's share of the fused logits, (B, K); `TypeError` if the head does not split, see [`Fusion`]."""
        return self.fusion.modality_logits(self._fused(embeddings))

    def _fused(self, embeddings: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        # Encoders may be stored in another dtype than the head, and autocast may be over.
        head = next(chain(self.projections.parameters(), self.fusion.parameters()), None)
        if head is not None:
            embeddings = {name: embedding.to(head.dtype) for name, embedding in embeddings.items()}
        if self.config.embedding_dim is None:
            return embeddings
        return {name: self.projections[name](embedding) for name, embedding in embeddings.items()}

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> None:
        # Under their legacy names, the weights of a ViT or AST inside this model are lost when `Trainer` resumes.
        kwargs.setdefault("save_original_format", False)
        super().save_pretrained(save_directory, *args, **kwargs)


def _load_backbone(name: str, backbone: str | os.PathLike | PreTrainedConfig | PreTrainedModel) -> PreTrainedModel:
    if isinstance(backbone, PreTrainedModel):
        return backbone
    if isinstance(backbone, PreTrainedConfig):
        return AutoModel.from_config(backbone)
    if isinstance(backbone, (str, os.PathLike)):
        return AutoModel.from_pretrained(backbone)
    raise TypeError(
        f"Expected the backbone of {name!r} to be a Hub name, a local folder, a config or a PreTrainedModel, got "
        f"{type(backbone).__name__}; wrap a timm model as TimmWrapperConfig(architecture=...)."
    )


def embedding_width(name: str, backbone: PreTrainedModel) -> int:
    """Width of a backbone's pooled embedding; raises `ValueError` if its config does not tell."""
    if isinstance(backbone, TimmWrapperModel):
        return backbone.timm_model.num_features
    for field in ("hidden_size", "hidden_sizes", "hidden_dim"):
        width = getattr(backbone.config, field, None)
        if width:
            return width[-1] if isinstance(width, (list, tuple)) else width
    raise ValueError(
        f"Expected the config of backbone {name!r} ({type(backbone).__name__}) to tell the width of its embedding, "
        "found no `hidden_size`; set `config.hidden_size` to the width of its pooled output."
    )


def pool(name: str, output: ModelOutput, mask: torch.Tensor | None = None) -> torch.Tensor:
    """
    One embedding per sample, (B, D), of an encoder's output: its own pooled output if it has one, else the mean of
    `last_hidden_state` over the tokens in `mask` (B, T), or over the positions of a feature map (B, D, H, W).

    Raises:
        ValueError: if the output has neither.
    """
    pooled = output.get("pooler_output")
    if pooled is not None:
        return pooled.flatten(1)  # some convolutional encoders give (B, D, 1, 1)
    hidden = output.get("last_hidden_state")
    shape = None if hidden is None else tuple(hidden.shape)
    if hidden is not None and hidden.dim() == 2:
        return hidden
    if hidden is not None and hidden.dim() == 4:
        return hidden.mean((2, 3))
    if hidden is not None and hidden.dim() == 3 and mask is None:
        return hidden.mean(1)
    if hidden is not None and hidden.dim() == 3 and mask.shape == hidden.shape[:2]:
        mask = mask[:, :, None].to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
    raise ValueError(
        f"Expected backbone {name!r} to give `pooler_output` or a `last_hidden_state` of shape (batch, tokens, width) "
        f"that matches its attention mask, got {list(output)} with `last_hidden_state` {shape} and a mask "
        f"{None if mask is None else tuple(mask.shape)}; use an encoder without its task head."
    )
