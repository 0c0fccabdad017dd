"""Which encoders read pictures in the channels-last memory format, in which a CPU computes convolutions faster."""

import torch
from torch import nn
from transformers import PreTrainedModel

from .cg_mnist_encoder import CGMNISTConfig


def is_convolutional(encoder: PreTrainedModel) -> bool:
    """
    Whether an encoder of transformers, timm or this package has several 2-dimensional convolutions with a kernel larger
    than 1 x 1. A ViT has one, which cuts a picture into patches, and gains nothing. Encoders of other packages do not
    count: they may `view` a feature map, which fails in the channels-last format.
    """
    # By its type, since the code beside a saved model is imported twice, with two classes of one name.
    ours = encoder.config.model_type == CGMNISTConfig.model_type
    known = ours or type(encoder).__module__.startswith("transformers.")
    kernels = [max(part.kernel_size) for part in encoder.modules() if isinstance(part, nn.Conv2d)]
    return known and sum(kernel > 1 for kernel in kernels) > 1


def in_channels_last(value: torch.Tensor) -> torch.Tensor:
    """Pictures (B, C, H, W) in the channels-last memory format. Returns a tensor of other dimensions unchanged."""
    # `contiguous` would leave pictures of one channel, which have both formats, in the default one.
    return value.to(memory_format=torch.channels_last) if value.dim() == 4 else value
