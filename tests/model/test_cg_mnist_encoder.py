"""The encoder of the paper's colored MNIST."""

import torch

from pmr_hf import CGMNISTConfig, CGMNISTModel


def test_the_cg_mnist_encoder_has_the_papers_layers():
    model = CGMNISTModel(CGMNISTConfig(num_channels=3)).eval()
    kernels = [
        (conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.stride[0]) for conv in model.convolutions
    ]
    assert kernels == [(3, 32, 5, 1), (32, 32, 3, 1), (32, 64, 3, 2), (64, 64, 3, 1)]
    output = model(torch.rand(2, 3, 28, 28))
    assert output.last_hidden_state.shape == (2, 64, 7, 7) and output.pooler_output.shape == (2, 512)
