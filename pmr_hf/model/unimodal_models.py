"""Finished classifiers of one modality each, as the parts of a model that fuses their probabilities."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from .backbones import check_weight_index, encoder_config, require_folder
from .building_limits import MOST_MODULES, limited_building
from .configuration import MultimodalConfig
from .fusion import ConcatFusion, LateFusion, SumFusion
from .targets import SINGLE_LABEL


# The classes of transformers whose logits are linear in an embedding that `pool` gives, with its pooling. In those for
# speech, a second linear layer, the projector, comes before the mean.
LINEAR_CLASSIFIERS = {
    "BertForSequenceClassification": "auto",
    "ConvNextForImageClassification": "auto",
    "DeiTForImageClassification": "cls",
    "HubertForSequenceClassification": "mean",
    "ResNetForImageClassification": "auto",
    "SwinForImageClassification": "auto",
    "ViTForImageClassification": "cls",
    "Wav2Vec2ForSequenceClassification": "mean",
    "WavLMForSequenceClassification": "mean",
}


@dataclass
class UnimodalModel:
    """
    A finished classifier of one modality.

    Args:
        encoder (`PreTrainedModel`): the encoder.
        pooling (`str`): how its tokens become one embedding.
        normalized (`bool`): whether the embedding is normalized before the linear layer.
        lora (`dict[str, Any]`): the arguments of its LoRA layers; empty without any.
        weight (`torch.Tensor`): (K, D), of the linear layer over the embedding.
        bias (`torch.Tensor`): (K,).
        names (`list[str]`): the names of the K classes.
        prototypes (`dict[str, torch.Tensor]`): the buffers `mean`, `count` and `seen` of its prototypes, with K rows;
            empty without any.
    """

    encoder: PreTrainedModel
    pooling: str
    normalized: bool
    lora: dict[str, Any]
    weight: torch.Tensor
    bias: torch.Tensor
    names: list[str]
    prototypes: dict[str, torch.Tensor]

    @torch.no_grad()
    def copy_to(self, name: str, model: PreTrainedModel) -> None:
        """
        Copy the weights to the modality `name` of a [`MultimodalModel`] with late fusion.

        Raises:
            ValueError: for classes of other names, or an encoder that its config does not build again.
        """
        target = [model.config.id2label[k] for k in range(model.config.num_labels)]
        if sorted(self.names) != sorted(target) or len(set(target)) < len(target):
            raise ValueError(
                f"Expected the classes of the model of {name!r} to have the names of the first model, each once, "
                f"{target!r:.200}, got {self.names!r:.200}; set `id2label` of the loaded model."
            )
        keys = model.backbones[name].load_state_dict(self.encoder.state_dict(), strict=False)
        # Pooling by the first token or the mean does not use the pooler, which a task model may lack.
        unused = () if self.pooling == "auto" else ("pooler.",)
        wrong = [key for key in keys.missing_keys if not key.startswith(unused)] + keys.unexpected_keys
        if wrong:
            raise ValueError(
                f"Expected the encoder of {name!r} to have the weights of the {type(model.backbones[name]).__name__} "
                f"that its config describes, but {wrong[:5]} differ; save it and give the folder."
            )
        order = [self.names.index(label) for label in target]
        head = model.fusion.classifiers[name]
        head.weight.copy_(self.weight[order])
        head.bias.copy_(self.bias[order])
        for part, value in self.prototypes.items():
            model.prototypes.get_buffer(f"{name}_{part}").copy_(value[order])


def load_unimodal(
    name: str, source: str | os.PathLike | PreTrainedModel, multimodal_class: type[PreTrainedModel]
) -> UnimodalModel:
    """
    Load the finished classifier of a modality.

    Args:
        name (`str`): the modality, for messages.
        source (`str | os.PathLike | PreTrainedModel`): a Hub name, a local folder or a loaded model: a
            [`MultimodalModel`] of one modality, or one of `LINEAR_CLASSIFIERS`.
        multimodal_class (`type`): the class that loads the former.

    Raises:
        TypeError: for a source of another type.
        ValueError: for another model, one that is not of one label per sample, lacks weights, or is not linear.
    """
    model = source if isinstance(source, PreTrainedModel) else _load(name, source, multimodal_class)
    if (model.config.problem_type or SINGLE_LABEL) != SINGLE_LABEL:
        raise ValueError(
            f"Expected a model of {name!r} for one label per sample, got problem_type={model.config.problem_type!r}; "
            "train the modalities with `LateFusionTrainer` instead, which fuses labels and numbers too."
        )
    names = [model.config.id2label[k] for k in range(model.config.num_labels)]
    if isinstance(model.config, MultimodalConfig):
        return _of_multimodal(name, model, names)
    return _of_transformers(name, model, names)


def _load(name: str, source: str | os.PathLike, multimodal_class: type[PreTrainedModel]) -> PreTrainedModel:
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            f"Expected the model of {name!r} as a Hub name, a local folder or a loaded model, got "
            f"{type(source).__name__}; load it first."
        )
    require_folder(name, source)
    check_weight_index(source)
    config = encoder_config(name, source)
    if isinstance(config, MultimodalConfig):
        return multimodal_class.from_pretrained(source)
    architecture = str((config.architectures or [type(config).__name__])[0])
    _check_class(name, architecture)
    settings: dict[str, Any] = {"output_loading_info": True, "trust_remote_code": False, "use_safetensors": True}
    with limited_building(f"the model of {name!r}", MOST_MODULES):
        model, info = getattr(transformers, architecture).from_pretrained(source, dtype=torch.float32, **settings)
    _check_weights(name, sorted(info["missing_keys"]))
    return model


def _check_class(name: str, architecture: str) -> None:
    if architecture not in LINEAR_CLASSIFIERS:
        raise ValueError(
            f"Expected the model of {name!r} to be a MultimodalModel of one modality, or one of "
            f"{list(LINEAR_CLASSIFIERS)}, whose logits are linear in an embedding, got {architecture}; give its "
            "encoder to `MultimodalModel.from_backbones`, and train the linear layer."
        )


def _check_weights(name: str, missing: list[str]) -> None:
    if missing:
        raise ValueError(
            f"Expected a finished model of {name!r}, but it lacks the weights {missing[:5]}; train it, and give the "
            "folder that was saved."
        )


def _of_multimodal(name: str, model: PreTrainedModel, names: list[str]) -> UnimodalModel:
    config: PreTrainedConfig = model.config
    _check_weights(name, model.missing_weights)
    if len(config.modalities) != 1 or config.answer != "head":
        raise ValueError(
            f"Expected a model of one modality for {name!r} that answers by its head, got modalities "
            f"{config.modalities} and answer={config.answer!r}; train one modality alone, or set `config.answer` of "
            "the loaded model to 'head'."
        )
    (own,) = config.modalities
    head: nn.Linear
    if isinstance(model.fusion, ConcatFusion):
        head = model.fusion.classifier
    elif isinstance(model.fusion, (SumFusion, LateFusion)):
        head = model.fusion.classifiers[own]
    else:
        raise ValueError(
            f"Expected the model of {name!r} to have the linear head of fusion 'concat', 'sum' or 'late', got "
            f"{config.fusion!r}; train it with one of them."
        )
    weight, bias = head.weight, head.bias
    if config.embedding_dim is not None:
        projection = model.projections[own]
        weight, bias = weight @ projection.weight, weight @ projection.bias + bias
    # The probabilities are those of logits over the temperature.
    weight, bias = (part / config.calibration_temperature for part in (weight, bias))
    prototypes = {part: getattr(model.prototypes, part)(own) for part in ("mean", "count", "seen")}
    settings = config.pooling[own], config.normalize_embeddings, config.lora.get(own, {})
    return UnimodalModel(model.backbones[own], *settings, weight, bias, names, prototypes)


def _of_transformers(name: str, model: PreTrainedModel, names: list[str]) -> UnimodalModel:
    _check_class(name, type(model).__name__)
    if getattr(model.config, "use_weighted_layer_sum", False):
        raise ValueError(
            f"Expected the model of {name!r} to classify its last layer, got use_weighted_layer_sum=True; train one "
            "without it."
        )
    head = model.classifier[-1] if isinstance(model.classifier, nn.Sequential) else model.classifier
    weight, bias = head.weight, head.bias
    pooling = LINEAR_CLASSIFIERS[type(model).__name__]
    if pooling == "mean":  # the mean of projected tokens is the projected mean
        weight, bias = weight @ model.projector.weight, weight @ model.projector.bias + bias
    return UnimodalModel(model.base_model, pooling, False, {}, weight, bias, names, {})


def log_weights(weights: Mapping[str, float] | None, names: list[str]) -> torch.Tensor:
    """
    The logarithms (M,) of the weights of the modalities `names`, which are equal by default. Raises `ValueError` unless
    there is a positive, finite weight for each.
    """
    weights = dict.fromkeys(names, 1.0) if weights is None else weights
    if weights.keys() != set(names) or not all(0 < weight < math.inf for weight in weights.values()):
        raise ValueError(
            f"Expected `weights` to be a positive number for each of {names}, got {dict(weights)}; to leave a modality "
            "out, leave out its model."
        )
    return torch.tensor([math.log(weights[name]) for name in names])
