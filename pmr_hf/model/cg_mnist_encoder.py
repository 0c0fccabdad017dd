"""The small convolutional encoder for the paper's colored-and-gray digits (CG-MNIST)."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling


class CGMNISTConfig(PreTrainedConfig):
    """
    Configuration of a [`CGMNISTModel`].

    Args:
        num_channels (`int`, *optional*, defaults to `3`): 1 for the gray digits, 3 for the colored ones.
        hidden_size (`int`, *optional*, defaults to `512`): width of the embedding.
    """

    model_type = "cg_mnist"

    def __init__(self, num_channels: int = 3, hidden_size: int = 512, **kwargs):
        self.num_channels = num_channels
        self.hidden_size = hidden_size
        super().__init__(**kwargs)


class CGMNISTModel(PreTrainedModel):
    """
    The encoder for CG-MNIST in PMR (CVPR 2023, section 4): batch norm, four convolutions with a max pool after the
    first, an average pool and a linear layer. Images may have any size from 4 x 4 pixels; the paper uses 28 x 28.
    """

    config_class = CGMNISTConfig
    base_model_prefix = "cg_mnist"
    main_input_name = "pixel_values"

    def __init__(self, config: CGMNISTConfig):
        super().__init__(config)
        self.norm = nn.BatchNorm2d(config.num_channels)
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(config.num_channels, 32, kernel_size=5, padding=2),
                nn.Conv2d(32, 32, kernel_size=3, padding=1),
                nn.Conv2d(32, 64, kernel_size=3, stride=2, padding=1),
                nn.Conv2d(64, 64, kernel_size=3, padding=1),
            ]
        )
        self.linear = nn.Linear(64, config.hidden_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    def forward(self, pixel_values: torch.Tensor) -> BaseModelOutputWithPooling:
        """Encode images (B, C, H, W) to `last_hidden_state` (B, 64, h, w) and `pooler_output` (B, hidden_size)."""
        features = pixel_values
        for stage in range(len(self.convolutions)):
            features = self.run_stage(stage, features)
        return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=self.pool(features))

    def run_stage(self, stage: int, features: torch.Tensor) -> torch.Tensor:
        """
        Run one convolution and its activation, in stage 0 between the batch norm and the max pool. The input is the
        feature maps of the previous stage, or the images (B, C, H, W) for stage 0.
        """
        if stage > 0:
            return F.relu(self.convolutions[stage](features))
        normed = self.norm(features)
        if features.stride(1) == 1:  # channels last, which the batch norm of one channel does not keep
            normed = normed.to(memory_format=torch.channels_last)
        return F.max_pool2d(F.relu(self.convolutions[0](normed)), kernel_size=3, stride=2, padding=1)

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        """The embedding (B, hidden_size) from the last feature maps (B, 64, h, w)."""
        return self.linear(features.mean((2, 3)))
