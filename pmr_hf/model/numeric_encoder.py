"""A small multi-layer perceptron, the encoder for modalities of numbers."""

from itertools import pairwise

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


class NumericConfig(PreTrainedConfig):
    """
    Configuration of a [`NumericModel`].

    Args:
        num_features (`int`, *optional*, defaults to 1): number D of features in a vector.
        hidden_size (`int`, *optional*, defaults to 128): width of every layer and of the embedding.
        num_hidden_layers (`int`, *optional*, defaults to 2): number of linear layers, at least 1.
        dropout (`float`, *optional*, defaults to 0.1): probability of dropout after each layer except the last.
    """

    model_type = "pmr_numeric"

    def __init__(
        self,
        num_features: int = 1,
        hidden_size: int = 128,
        num_hidden_layers: int = 2,
        dropout: float = 0.1,
        **kwargs,
    ):
        self.num_features = num_features
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.dropout = dropout
        super().__init__(**kwargs)


class NumericModel(PreTrainedModel):
    """A multi-layer perceptron over vectors (B, D), or over each vector of sequences (B, T, D)."""

    config_class = NumericConfig
    base_model_prefix = "numeric"
    main_input_name = "values"

    def __init__(self, config: NumericConfig):
        super().__init__(config)
        self.layers = perceptron(config.num_features, config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    def forward(self, values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> BaseModelOutput:
        """
        Encode `values` (B, D) or (B, T, D) to `last_hidden_state` (B, hidden_size) or (B, T, hidden_size). The encoder
        ignores the mask (B, T), which the pooling uses.

        Raises:
            ValueError: for values of another shape.
        """
        width = self.config.num_features
        if values.dim() not in (2, 3) or values.shape[-1] != width:
            raise ValueError(
                f"Expected `values` (B, {width}) or (B, T, {width}), got {tuple(values.shape)}; give each vector the "
                "`num_features` of the NumericConfig."
            )
        return BaseModelOutput(last_hidden_state=self.layers(values.to(self.dtype)))


def perceptron(width: int, config: PreTrainedConfig) -> nn.Sequential:
    """
    The layers of a multi-layer perceptron from `width` features to `config.hidden_size`: `config.num_hidden_layers`
    linear layers, with a ReLU and `config.dropout` between two of them.
    """
    layers: list[nn.Module] = []
    for before, after in pairwise([width] + [config.hidden_size] * config.num_hidden_layers):
        layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(config.dropout)]
    return nn.Sequential(*layers[:-2])
