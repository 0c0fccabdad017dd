"""Embeddings of categories and a small multi-layer perceptron, the encoder for tables."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from .building_limits import MOST_LAYERS
from .numeric_encoder import perceptron


MISSING, UNKNOWN = 0, 1  # ids that every column of categories has
MOST_COLUMNS = 10_000
MOST_CATEGORIES = 100_000  # of one column, without the two ids above
MOST_WIDTH = 10**6


def _is_int(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "num_features": (f"a number of columns up to {MOST_COLUMNS:,}", lambda value: _is_int(value, 0, MOST_COLUMNS)),
    "cardinalities": (
        f"at most {MOST_COLUMNS:,} numbers of ids in 2..{MOST_CATEGORIES + 2:,}",
        lambda value: (
            isinstance(value, (list, tuple))
            and len(value) <= MOST_COLUMNS
            and all(_is_int(size, 2, MOST_CATEGORIES + 2) for size in value)
        ),
    ),
    "embedding_size": (f"a width in 1..{MOST_WIDTH:,}", lambda value: _is_int(value, 1, MOST_WIDTH)),
    "hidden_size": (f"a width in 1..{MOST_WIDTH:,}", lambda value: _is_int(value, 1, MOST_WIDTH)),
    "num_hidden_layers": (f"a number of layers in 1..{MOST_LAYERS}", lambda value: _is_int(value, 1, MOST_LAYERS)),
    "dropout": ("a number in [0, 1)", lambda value: isinstance(value, (int, float)) and 0 <= value < 1),
}


class TabularConfig(PreTrainedConfig):
    """
    Configuration of a [`TabularModel`]. [`TabularProcessor.encoder_config`] makes the one that fits a processor.

    Args:
        num_features (`int`, *optional*, defaults to 1): number N of columns of numbers.
        cardinalities (`list[int]`, *optional*, defaults to none): number of ids of each of the C columns of categories,
            with the ids 0 for missing and 1 for unknown.
        embedding_size (`int`, *optional*, defaults to 16): width of the embedding of each category.
        hidden_size (`int`, *optional*, defaults to 128): width of every layer and of the embedding of a row.
        num_hidden_layers (`int`, *optional*, defaults to 2): number of linear layers, at least 1.
        dropout (`float`, *optional*, defaults to 0.1): probability of dropout after each layer except the last.

    Raises:
        ValueError: for a value of another type or outside its range, or if there are no columns.
    """

    model_type = "pmr_tabular"

    def __init__(
        self,
        num_features: int = 1,
        cardinalities: Sequence[int] = (),
        embedding_size: int = 16,
        hidden_size: int = 128,
        num_hidden_layers: int = 2,
        dropout: float = 0.1,
        **kwargs,
    ):
        fields = {
            "num_features": num_features,
            "cardinalities": cardinalities,
            "embedding_size": embedding_size,
            "hidden_size": hidden_size,
            "num_hidden_layers": num_hidden_layers,
            "dropout": dropout,
        }
        for field, value in fields.items():
            expected, holds = FIELDS[field]
            if not holds(value):
                raise ValueError(
                    f"Expected `{field}` of a TabularConfig to be {expected}, got {value!r:.80}; take the config from "
                    "`TabularProcessor.encoder_config`."
                )
        if not num_features and not cardinalities:
            raise ValueError(
                "Expected a TabularConfig with columns of numbers or categories, got none; take the config from "
                "`TabularProcessor.encoder_config`."
            )
        self.num_features = num_features
        self.cardinalities = list(cardinalities)
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.dropout = dropout
        super().__init__(**kwargs)


class TabularModel(PreTrainedModel):
    """
    Embeds the category of each column, and passes the embeddings and the numbers through a multi-layer perceptron. The
    embeddings of missing and unknown are 0 at first, so that they add nothing where training never sees them.
    """

    config_class = TabularConfig
    base_model_prefix = "tabular"
    main_input_name = "categories"

    def __init__(self, config: TabularConfig):
        super().__init__(config)
        # One table holds the ids of all columns, one after the other: a row costs one lookup.
        self.embeddings = (
            nn.Embedding(sum(config.cardinalities), config.embedding_size) if config.cardinalities else None
        )
        width = config.num_features + len(config.cardinalities) * config.embedding_size
        self.layers = perceptron(width, config)
        self.post_init()

    def first_ids(self, device: torch.device | None = None) -> torch.Tensor:
        """Where the ids of each column begin in the table of embeddings, (C,) int64."""
        return torch.tensor([0, *accumulate(self.config.cardinalities)][:-1], dtype=torch.long, device=device)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            module.reset_parameters()
        elif isinstance(module, nn.Embedding):
            module.reset_parameters()
            first = self.first_ids(module.weight.device)
            module.weight[torch.cat([first + MISSING, first + UNKNOWN])] = 0
        else:
            super()._init_weights(module)

    def forward(self, categories: torch.Tensor, values: torch.Tensor) -> BaseModelOutput:
        """
        Encode the ids `categories` (B, C) int64 and the numbers `values` (B, N) to `last_hidden_state`
        (B, hidden_size). N or C may be 0.

        Raises:
            ValueError: for inputs of other shapes, and for an id that its column does not have. An exported model
                stops with an `IndexError` or an error of its runtime for such an id.
        """
        width, columns = self.config.num_features, len(self.config.cardinalities)
        size = categories.shape[:1]
        if categories.shape != (*size, columns) or values.shape != (*size, width):
            raise ValueError(
                f"Expected `categories` (B, {columns}) and `values` (B, {width}), got {tuple(categories.shape)} and "
                f"{tuple(values.shape)}; use the processor with which the TabularConfig was made."
            )
        inputs = [values.to(self.dtype)]
        if self.embeddings is not None:
            sizes = torch.tensor(self.config.cardinalities, dtype=torch.long, device=categories.device)
            known = (categories >= 0) & (categories < sizes)
            if not torch.compiler.is_compiling() and not known.all():
                row, column = (~known).nonzero()[0].tolist()
                raise ValueError(
                    f"Expected ids in 0..{sizes[column] - 1} in column {column} of `categories`, got "
                    f"{categories[row, column]} in row {row}; use the processor with which the TabularConfig was made."
                )
            ids = categories + self.first_ids(categories.device)
            ids = torch.where(known, ids, self.embeddings.num_embeddings)  # not an id of another column
            inputs.append(self.embeddings(ids).flatten(1))
        return BaseModelOutput(last_hidden_state=self.layers(torch.cat(inputs, dim=1)))
