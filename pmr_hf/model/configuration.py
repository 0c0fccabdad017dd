"""The configuration of a [`MultimodalModel`]: one sub-config per modality, their order, and the fusion head."""

import keyword
import math
from collections.abc import Callable
from types import NoneType
from typing import Any

import numpy as np
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from .building_limits import check_counts
from .cg_mnist_encoder import CGMNISTConfig, CGMNISTModel
from .initialization import INITIALIZATIONS
from .lora import check_lora
from .numeric_encoder import NumericConfig, NumericModel
from .tabular_encoder import TabularConfig, TabularModel
from .targets import PROBLEM_TYPES, REGRESSION, SINGLE_LABEL


# Registered here, because a saved model must load without pmr_hf, and `__init__.py` is not saved with it.
AutoConfig.register(CGMNISTConfig.model_type, CGMNISTConfig, exist_ok=True)
AutoModel.register(CGMNISTConfig, CGMNISTModel, exist_ok=True)
AutoConfig.register(NumericConfig.model_type, NumericConfig, exist_ok=True)
AutoModel.register(NumericConfig, NumericModel, exist_ok=True)
AutoConfig.register(TabularConfig.model_type, TabularConfig, exist_ok=True)
AutoModel.register(TabularConfig, TabularModel, exist_ok=True)

# Names in use by the batch, the model's outputs, `Trainer`, or the log keys that are built from modality names
RESERVED_NAMES = {
    "best_answer",
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
    "prototypes",
    "return_loss",
    "test",
    "train",
}

# How an encoder's tokens become one embedding
POOLINGS = ("auto", "cls", "mean", "max")

# What answers in evaluation: the fusion head, or the prototypes of all modalities
ANSWERS = ("head", "prototypes")

# Fusion heads that need one label per sample, and what they do
ONE_LABEL_FUSIONS = {"shared": "a mean weighted by the entropy of the classes"}

MOST_MODALITIES = 100
LARGEST = 10**6  # the limit for the number of classes and for a width, which still fits in memory


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


def _is_size(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 1 <= int(value) <= LARGEST


def _is_temperature(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


# What each field of a `config.json` must hold. transformers checks the other fields.
FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "backbones": ("a dict of configs, or None", lambda value: isinstance(value, dict | NoneType)),
    "modalities": ("a list of names, or None", lambda value: isinstance(value, list | tuple | NoneType)),
    "fusion": ("a name", lambda value: isinstance(value, str)),
    "embedding_dim": (f"a positive width up to {LARGEST}, or None", lambda value: value is None or _is_size(value)),
    "normalize_embeddings": ("True or False", lambda value: isinstance(value, bool)),
    "pooling": ("a name, or a dict of names", lambda value: isinstance(value, str | dict)),
    "modality_dropout": ("a number in [0, 1)", lambda value: isinstance(value, (int, float)) and 0 <= value < 1),
    "lora": ("a dict such as {'text': {'r': 8}}, or None", lambda value: isinstance(value, dict | NoneType)),
    "unimodal_heads": ("True or False", lambda value: isinstance(value, bool)),
    "answer": (f"one of {ANSWERS}", lambda value: value in ANSWERS),
    "calibration_temperature": ("a finite number above 0", _is_temperature),
    "initialization": (f"one of {INITIALIZATIONS}", lambda value: value in INITIALIZATIONS),
    "problem_type": (f"one of {PROBLEM_TYPES}, or None", lambda value: value is None or value in PROBLEM_TYPES),
    "num_labels": (f"a number of classes up to {LARGEST}", _is_size),
    "id2label": ("a dict of names by class", lambda value: isinstance(value, dict | NoneType)),
}


def check_fields(fields: dict[str, Any]) -> None:
    """Raise `ValueError` for a field of the wrong type or out of range, such as a width that would fill the memory."""
    for field, (expected, holds) in FIELDS.items():
        value = fields.get(field)
        if field in fields and not holds(value):
            raise ValueError(
                f"Expected `{field}` to be {expected}, got {value!r:.80} of type {type(value).__name__}; correct it, "
                "or leave it out."
            )


class MultimodalConfig(PreTrainedConfig):
    """
    Configuration of a [`MultimodalModel`]. A saved configuration loads with the same sub-configs in the same order.

    Args:
        backbones (`dict[str, PreTrainedConfig | dict]`, *optional*): one encoder config per modality name. A dict needs
            the key `model_type`.
        modalities (`list[str]`, *optional*, defaults to the keys of `backbones`): the order of fusion. It is a separate
            field because the keys of `backbones` are sorted in JSON.
        fusion (`str`, *optional*, defaults to `"concat"`): name of a registered fusion head, see [`Fusion`].
        embedding_dim (`int`, *optional*): project every modality to this width before the fusion. By default, the
            embeddings are fused in the encoders' own widths.
        pooling (`str | dict[str, str]`, *optional*, defaults to `"auto"`): how an encoder's tokens become one
            embedding, for all modalities or by name: `"auto"`, `"cls"`, `"mean"` or `"max"`, see
            [`~pmr_hf.model.pooling.pool`].
        normalize_embeddings (`bool`, *optional*, defaults to `False`): shift and scale each embedding to mean 0 and
            variance 1 over its dimensions, before prototypes and fusion (layer normalization without weights).
            Embeddings of pretrained encoders differ in size, and a new head learns most from the largest ones.
        modality_dropout (`float`, *optional*, defaults to 0.0): probability, in [0, 1), that a modality of a training
            sample is dropped, drawn for each modality and sample. A sample that would lose all its modalities keeps all
            of them. Dropout prepares the model for samples that lack modalities.
        lora (`dict[str, dict]`, *optional*): arguments of `peft.LoraConfig` by modality, such as `{"text": {"r": 8}}`,
            see `FIELDS` in `lora.py`. Only the LoRA layers of these encoders are trained.
        unimodal_heads (`bool`, *optional*, defaults to `False`): also classify each embedding alone, by a linear layer
            beside the fusion head. Some methods train these heads. They do not change the fused logits.
        initialization (`str`, *optional*, defaults to `"default"`): how the weights of new encoders and heads are
            drawn: `"default"` as each class does it, `"kaiming"` as the authors of PMR do, see
            [`~pmr_hf.model.initialization.initialize`]. Pretrained encoders keep their weights.
        answer (`str`, *optional*, defaults to `"head"`): what gives the fused logits in evaluation mode: `"head"` for
            the fusion head, `"prototypes"` for the `answer` of [`~pmr_hf.model.prototypes.Prototypes`]. In training
            mode it is always the head.
        problem_type (`str`, *optional*, defaults to `"single_label_classification"`): what the model predicts, as in
            transformers: one of K classes, any of K labels (`"multi_label_classification"`), or R numbers
            (`"regression"`). `num_labels` is K or R.
        calibration_temperature (`float`, *optional*, defaults to 1.0): what [`MultimodalPipeline`] and
            [`ExportableModel`] divide the fused logits by, so that probabilities are calibrated;
            `MultimodalPipeline.calibrate` fits it. The model's own `logits` stay as they are.
        kwargs: other fields of [`~transformers.PreTrainedConfig`], such as `num_labels` or `id2label`.

    Raises:
        ValueError: for a name that is not an identifier or is taken, for more than 100 modalities, if `modalities` and
            `backbones` differ, if `pooling` or `lora` names another modality, for `answer="prototypes"` or a
            `calibration_temperature` in a regression, for `fusion="shared"` without one label per sample, or for a
            value of the wrong type or outside its range.
    """

    model_type = "pmr_multimodal"
    keys_to_ignore_at_inference = ["embeddings", "present", "unimodal_logits"]

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls._auto_class = None  # a subclass is saved with its code only if its author registers it

    def __init__(
        self,
        backbones: dict[str, PreTrainedConfig | dict[str, Any]] | None = None,
        modalities: list[str] | None = None,
        fusion: str = "concat",
        embedding_dim: int | None = None,
        pooling: str | dict[str, str] = "auto",
        normalize_embeddings: bool = False,
        modality_dropout: float = 0.0,
        lora: dict[str, dict[str, Any]] | None = None,
        unimodal_heads: bool = False,
        initialization: str = "default",
        answer: str = "head",
        problem_type: str | None = None,
        calibration_temperature: float = 1.0,
        **kwargs,
    ):
        check_fields(
            {
                "backbones": backbones,
                "modalities": modalities,
                "fusion": fusion,
                "embedding_dim": embedding_dim,
                "pooling": pooling,
                "normalize_embeddings": normalize_embeddings,
                "modality_dropout": modality_dropout,
                "lora": lora,
                "unimodal_heads": unimodal_heads,
                "initialization": initialization,
                "answer": answer,
                "problem_type": problem_type,
                "calibration_temperature": calibration_temperature,
                **kwargs,
            }
        )
        if problem_type == REGRESSION and answer == "prototypes":
            raise ValueError(
                "Expected `answer='head'` with `problem_type='regression'`, got 'prototypes', which are of classes; "
                "leave it out."
            )
        if problem_type == REGRESSION and calibration_temperature != 1:
            raise ValueError(
                "Expected `calibration_temperature=1.0` with `problem_type='regression'`, which has no probabilities, "
                f"got {calibration_temperature}; leave it out."
            )
        if fusion in ONE_LABEL_FUSIONS and problem_type not in (None, SINGLE_LABEL):
            raise ValueError(
                f"Expected one label per sample for fusion={fusion!r}, {ONE_LABEL_FUSIONS[fusion]}, got "
                f"{problem_type!r}; use 'sum'."
            )
        backbones = backbones or {}
        self.modalities = list(backbones if modalities is None else modalities)
        if len(self.modalities) > MOST_MODALITIES:
            raise ValueError(
                f"Expected at most {MOST_MODALITIES} modalities, got {len(self.modalities):,}; put columns of numbers "
                "into one modality."
            )
        for name in self.modalities:
            check_modality_name(name)
        if len(set(self.modalities)) < len(self.modalities) or set(self.modalities) != set(backbones):
            raise ValueError(
                f"Expected `modalities` to name each backbone once, got modalities {self.modalities} and backbones "
                f"{list(backbones)}; make them the same names."
            )
        self.backbones = {name: _sub_config(name, backbones[name]) for name in self.modalities}
        self.fusion = fusion
        self.embedding_dim = embedding_dim
        given = dict.fromkeys(self.modalities, pooling) if isinstance(pooling, str) else pooling
        self.pooling = dict.fromkeys(self.modalities, "auto") | given
        self.normalize_embeddings = normalize_embeddings
        self.modality_dropout = modality_dropout
        self.lora = lora or {}
        self.unimodal_heads = unimodal_heads
        self.initialization = initialization
        self.answer = answer
        self.calibration_temperature = calibration_temperature
        for field in ("pooling", "lora"):
            unknown = [name for name in getattr(self, field) if name not in self.modalities]
            if unknown:
                raise ValueError(
                    f"Expected `{field}` to name modalities among {self.modalities}, got {unknown} too; remove them."
                )
        for name, settings in self.lora.items():
            check_lora(name, settings)
        wrong = {name: value for name, value in self.pooling.items() if value not in POOLINGS}
        if wrong:
            raise ValueError(f"Expected `pooling` to be one of {POOLINGS}, got {wrong}; 'auto' suits most encoders.")
        try:
            super().__init__(problem_type=problem_type, **kwargs)
            self.to_dict()  # some wrong values only fail here
        except Exception as error:  # transformers raises many types for a wrong value
            raise ValueError(
                f"Expected fields of a PreTrainedConfig, got {kwargs!r:.80}, which transformers refuses ({error!r}); "
                "correct them, or leave them out."
            ) from error

    @property
    def problem(self) -> str:
        """The `problem_type`, which is `"single_label_classification"` if the config has none."""
        return self.problem_type or SINGLE_LABEL

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dict. Each sub-config has only the fields that differ from their defaults."""
        output = super().to_dict()
        output["backbones"] = {name: self.backbones[name].to_diff_dict() for name in self.modalities}
        return output


def _sub_config(name: str, config: Any) -> PreTrainedConfig:
    if isinstance(config, PreTrainedConfig):
        return config
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        found = list(config) if isinstance(config, dict) else config
        raise ValueError(
            f"Expected the config of backbone {name!r} to have a `model_type`, got {found!r:.80}; give a config object "
            "or add it."
        )
    check_counts(name, config)
    try:
        return AutoConfig.for_model(**config)
    except Exception as error:  # transformers raises many types for a wrong value
        raise ValueError(
            f"Expected a config of type {config['model_type']!r} for backbone {name!r}, but transformers refuses it "
            f"({error!r}); correct it, or register its class."
        ) from error
