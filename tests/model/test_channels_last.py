"""Convolutional encoders read pictures in the channels-last format: which, that results agree, and weights as ever."""

import pytest
import torch
from helpers.tiny_encoders import IMAGES
from torch import nn
from transformers import ResNetConfig, ResNetModel, set_seed

from pmr_hf import CGMNISTConfig, MultimodalModel
from pmr_hf.model.channels_last import is_convolutional


RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}


def build(**configs):
    set_seed(0)
    return MultimodalModel.from_backbones(configs, num_labels=3)


def read_by(encoder):
    """The list of the strides of what an encoder reads from now on."""
    strides = []
    encoder.register_forward_pre_hook(
        lambda _, args, kwargs: strides.append((*args, *kwargs.values())[0].stride()), with_kwargs=True
    )
    return strides


@pytest.mark.parametrize(
    ("config", "channels", "chosen"),
    [
        (ResNetConfig(**RESNET), 3, True),
        (ResNetConfig(num_channels=1, **RESNET), 1, True),
        (IMAGES["timm_mobilenet"], 3, True),
        (CGMNISTConfig(num_channels=1), 1, True),
        (CGMNISTConfig(num_channels=3), 3, True),
        (IMAGES["timm_vit"], 3, False),
    ],
)
def test_which_encoders_read_channels_last(config, channels, chosen):
    model = build(one=config)
    strides = read_by(model.backbones["one"])
    pixels = torch.rand(2, channels, 32, 32)
    last, default = (32 * 32 * channels, 1, 32 * channels, channels), pixels.stride()
    for setting, expected in ((None, chosen), (True, True), (False, False)):
        model.channels_last = setting
        model(one={"pixel_values": pixels})
        assert strides.pop() == (last if expected else default), setting
        assert model.reads_channels_last("one") == expected
    assert pixels.stride() == default


def test_convolutions_inside_read_channels_last():
    """A batch norm of one channel would lose the format, and is the first layer of the CG-MNIST encoder."""
    model = build(gray=CGMNISTConfig(num_channels=1), resnet=ResNetConfig(num_channels=1, **RESNET))
    encoders = model.backbones.values()
    layers = [part for encoder in encoders for part in encoder.modules() if isinstance(part, nn.Conv2d)]
    read = [read_by(layer) for layer in layers]
    model(**{name: {"pixel_values": torch.rand(2, 1, 16, 16)} for name in model.backbones})
    assert len(layers) > 8 and all(strides[0][1] == 1 for strides in read)


def test_frames_are_read_channels_last():
    model = build(clip=ResNetConfig(**RESNET))
    strides = read_by(model.backbones["clip"])
    mask = torch.tensor([[True, False], [True, True]])
    model(clip={"pixel_values": torch.rand(2, 2, 3, 16, 16), "frame_mask": mask})
    assert strides == [(768, 1, 48, 3)]


def test_another_device_is_left_alone():
    model = build(one=ResNetConfig(**RESNET)).to("meta")
    strides = read_by(model.backbones["one"])
    model(one={"pixel_values": torch.rand(2, 3, 16, 16, device="meta")})
    assert strides == [(768, 256, 16, 1)]


def test_encoders_of_others_do_not_count():
    """They may `view` a feature map (B, C, H, W) as (B, C * H * W), which fails if it is channels last."""

    class Own(ResNetModel):
        pass

    config = ResNetConfig(**RESNET)
    assert is_convolutional(ResNetModel(config)) and not is_convolutional(Own(config))


@pytest.mark.parametrize("family", ["resnet", "timm_mobilenet", "cg_mnist"])
def test_the_format_changes_only_the_rounding_and_the_weights_stay_as_they_are(family):
    config = {"resnet": ResNetConfig(**RESNET), "cg_mnist": CGMNISTConfig(), **IMAGES}[family]
    pixels = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    results = {}
    for setting in (None, False):
        model = build(one=config).double().train()
        model.channels_last = setting
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(2):
            optimizer.zero_grad()
            output = model(one={"pixel_values": pixels}, labels=torch.arange(8) % 3)
            output.loss.backward()
            optimizer.step()
        assert all(tensor.is_contiguous() for tensor in model.state_dict().values())
        results[setting] = {"loss": output.loss, **output.embeddings, **model.state_dict()}
    torch.testing.assert_close(results[None], results[False], rtol=1e-7, atol=1e-9)


def test_the_same_file_is_saved(tmp_path):
    for setting in (None, False):
        model = build(one=ResNetConfig(**RESNET)).eval()
        model.channels_last = setting
        model(one={"pixel_values": torch.rand(2, 3, 16, 16)}).logits.sum().backward()
        model.save_pretrained(tmp_path / str(setting))
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("None", "False"))
    assert first == second
