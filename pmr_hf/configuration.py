"""The configuration of a [`MultimodalModel`]: one sub-config per modality, their order, and the fusion head."""

import keyword
from typing import Any

from torch import nn
from transformers import AutoConfig, PreTrainedConfig


# Taken by the batch, by the model's outputs, by `Trainer` or by the log keys built from modality names.
RESERVED_NAMES = {
    "embeddings",
    "eval",
    "input_ids",
    "label",
    "label_ids",
    "labels",
    "logits",
    "loss",
    "num_items_in_batch",
    "predict",
    "return_loss",
    "test",
    "train",
}

# How an encoder's tokens become one embedding
POOLINGS = ("auto", "cls", "mean", "max")


def check_modality_name(name: str) -> None:
    """Raise `ValueError` unless `name` can be a module name, a keyword argument and a prefix of log keys."""
    if not isinstance(name, str):
        raise ValueError(f"Expected modality names such as 'image' or 'text', got {name!r}; make it a string.")
    taken = name in RESERVED_NAMES or keyword.iskeyword(name) or hasattr(nn.ModuleDict(), name)
    taken = taken or name.endswith("_prototype")  # `image_prototype` would claim the metrics of `image`
    if not name.isidentifier() or name.startswith("_") or taken:
        reason = "is already taken" if taken else "is not a plain Python identifier"
        raise ValueError(
            f"Expected modality names such as 'image' or 'text', but {name!r} {reason}; rename this modality."
        )


class MultimodalConfig(PreTrainedConfig):
    """
    Configuration of a [`MultimodalModel`]. It round-trips through JSON to real sub-configs in the same order.

    Args:
        backbones (`dict[str, PreTrainedConfig | dict]`, *optional*): one encoder config per modality name. A dict needs
            the key `model_type`.
        modalities (`list[str]`, *optional*, defaults to the keys of `backbones`): the order of fusion. JSON sorts the
            keys of `backbones`, so the order is a field of its own.
        fusion (`str`, *optional*, defaults to `"concat"`): name of a registered fusion head, see [`Fusion`].
        embedding_dim (`int`, *optional*): project every modality to this width before the fusion. `None`, the default,
            fuses the encoders' own widths.
        pooling (`str | dict[str, str]`, *optional*, defaults to `"auto"`): how an encoder's tokens become one
            embedding, for all modalities or by name: `"auto"`, `"cls"`, `"mean"` or `"max"`, see
            [`~pmr_hf.backbones.pool`].
        modality_dropout (`float`, *optional*, defaults to 0.0): probability, in [0, 1), that a training sample goes
            without a modality, drawn for each; never all of them. It trains for samples that lack some.
        lora (`dict[str, dict]`, *optional*): by modality, arguments of `peft.LoraConfig`, such as `{"r": 8}`. These
            encoders are frozen but for their LoRA layers.
        kwargs: fields of every config, such as `num_labels` or `id2label`.

    Raises:
        ValueError: for a name that is no identifier or is taken, if `modalities` and `backbones` differ, or for a value
            outside its range.
    """

    model_type = "pmr_multimodal"
    keys_to_ignore_at_inference = ["embeddings", "present"]

    def __init__(
        self,
        backbones: dict[str, PreTrainedConfig | dict[str, Any]] | None = None,
        modalities: list[str] | None = None,
        fusion: str = "concat",
        embedding_dim: int | None = None,
        pooling: str | dict[str, str] = "auto",
        modality_dropout: float = 0.0,
        lora: dict[str, dict[str, Any]] | None = None,
        **kwargs,
    ):
        backbones = backbones or {}
        self.modalities = list(backbones if modalities is None else modalities)
        if len(set(self.modalities)) < len(self.modalities) or set(self.modalities) != set(backbones):
            raise ValueError(
                f"Expected `modalities` to name each backbone once, got modalities {self.modalities} and backbones "
                f"{list(backbones)}; make them the same names."
            )
        for name in self.modalities:
            check_modality_name(name)
            if isinstance(backbones[name], dict) and "model_type" not in backbones[name]:
                raise ValueError(
                    f"Expected the config of backbone {name!r} to have a `model_type`, got {list(backbones[name])}; "
                    "give a config object or add it."
                )
        if embedding_dim is not None and embedding_dim < 1:
            raise ValueError(f"Expected `embedding_dim` to be a positive width or None, got {embedding_dim}.")
        ordered = {name: backbones[name] for name in self.modalities}
        self.backbones: dict[str, PreTrainedConfig] = {
            name: AutoConfig.for_model(**config) if isinstance(config, dict) else config
            for name, config in ordered.items()
        }
        self.fusion = fusion
        self.embedding_dim = embedding_dim
        given = dict.fromkeys(self.modalities, pooling) if isinstance(pooling, str) else pooling
        self.pooling = dict.fromkeys(self.modalities, "auto") | given
        self.modality_dropout = modality_dropout
        self.lora = lora or {}
        for field in ("pooling", "lora"):
            unknown = [name for name in getattr(self, field) if name not in self.modalities]
            if unknown:
                raise ValueError(f"Expected `{field}` to name modalities among {self.modalities}, got {unknown} too.")
        wrong = {name: value for name, value in self.pooling.items() if value not in POOLINGS}
        if wrong:
            raise ValueError(f"Expected `pooling` to be one of {POOLINGS}, got {wrong}; 'auto' suits most encoders.")
        if not 0 <= modality_dropout < 1:
            raise ValueError(f"Expected `modality_dropout` in [0, 1), got {modality_dropout}; 0 switches it off.")
        super().__init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        output = super().to_dict()
        output["backbones"] = {name: self.backbones[name].to_diff_dict() for name in self.modalities}
        return output
