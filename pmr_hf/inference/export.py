"""
A model for `torch.export` and ONNX, which maps flat tensors of a fixed set of modalities to logits.

The export itself, with its opset, is a call of torch, see docs/how_to/export.md.
"""

import torch
from torch import nn

from ..model.modeling import MultimodalModel
from ..model.pooling import ignores_padding
from .model_checks import check_weights


class ExportableModel(nn.Module):
    """
    A [`MultimodalModel`] whose arguments are single tensors, with a dynamic batch dimension.

    ```python
    inputs = processor(image=[picture, picture], text=["a cat", "a dog"])
    flat = ExportableModel(model, inputs)
    program = torch.export.export(flat, flat.arguments(inputs), dynamic_shapes=flat.dynamic_shapes)
    torch.onnx.export(program, input_names=flat.input_names, output_names=["logits"]).save("model.onnx")
    program.module()(*flat.arguments(processor(image=[other], text=["a bird"])))  # (1, K)
    ```

    Every sample must have each modality of `inputs`. The model's learned vectors replace all other modalities, or the
    head masks them. All sizes except the batch size are fixed to the sizes in `inputs`, so pad texts to that length.

    Args:
        model (`MultimodalModel`): the model. It is set to evaluation mode.
        inputs (`dict[str, dict[str, torch.Tensor]]`): a batch of at least two samples, as the processor returns it.

    Raises:
        ValueError: for a batch of one sample, whose size exporters would fix, and for samples that lack a modality. For
            videos whose frames are encoded one by one, and for the mask of a speech encoder that reads padded clips one
            by one, since these computations depend on the values. For weights that are missing or not finite.
    """

    def __init__(self, model: MultimodalModel, inputs: dict[str, dict[str, torch.Tensor]]):
        super().__init__()
        if any("present" in values or any(len(v) < 2 for v in values.values()) for values in inputs.values()):
            shapes = {
                name: {key: tuple(value.shape) for key, value in values.items()} for name, values in inputs.items()
            }
            raise ValueError(
                f"Expected two samples or more that have all of the modalities to export, got {shapes}; leave out a "
                "modality that the exported model should not take."
            )
        for name, values in inputs.items():
            config = model.config.backbones[name]
            if "frame_mask" in values:
                raise ValueError(
                    f"Expected {name!r} without a `frame_mask`, got one: the number of encoded frames depends on "
                    "the values, which exporters do not support; use a video encoder."
                )
            if "conv_stride" in config and "attention_mask" in values and not ignores_padding(config):
                raise ValueError(
                    f"Expected {name!r} without an `attention_mask`, got one: a {config.model_type!r} of this kind "
                    "reads padded clips one by one, which exporters do not support; leave it out, and give clips of "
                    "one length."
                )
        check_weights(model)
        self.model = model.eval()
        self.names = [(name, key) for name in inputs for key in inputs[name]]

    @property
    def input_names(self) -> list[str]:
        """The names of the arguments, such as `image_pixel_values`, in order."""
        return [f"{name}_{key}" for name, key in self.names]

    @property
    def dynamic_shapes(self) -> tuple[tuple[dict[int, torch.export.Dim], ...]]:
        """The dynamic shapes for `torch.export.export`: the first dimension of each argument is the batch."""
        batch = torch.export.Dim("batch")
        return (tuple({0: batch} for _ in self.names),)

    def arguments(self, inputs: dict[str, dict[str, torch.Tensor]]) -> tuple[torch.Tensor, ...]:
        """The tensors of a batch in the order of the arguments."""
        return tuple(inputs[name][key] for name, key in self.names)

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """
        The fused logits (B, K), divided by `config.calibration_temperature`, from the tensors of a batch in the order
        of `input_names`.
        """
        inputs: dict[str, dict[str, torch.Tensor]] = {}
        for (name, key), tensor in zip(self.names, tensors, strict=True):
            inputs.setdefault(name, {})[key] = tensor
        model, like = self.model, tensors[0]
        embeddings, present = {}, {}
        for name in model.backbones:
            if name in inputs:
                embeddings[name] = model.embed(name, inputs[name])
            else:
                embeddings[name] = torch.zeros(like.shape[0], model.widths[name], device=like.device)
            present[name] = torch.full((like.shape[0],), name in inputs, device=like.device)
        logits = model.fuse(embeddings, present)
        temperature = model.config.calibration_temperature
        return logits if temperature == 1 else logits / temperature
