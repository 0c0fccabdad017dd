"""A module whose buffers stay in fp32, whatever the dtype of the model that it is a part of."""

from torch import nn


class Fp32Buffers(nn.Module):
    """`model.half()` or `model.to(torch.bfloat16)` moves the buffers of this module, but leaves them in fp32."""

    def _apply(self, fn, recurse: bool = True) -> "Fp32Buffers":
        kept = dict(self.named_buffers())
        super()._apply(fn, recurse)
        for name, buffer in kept.items():
            moved = self.get_buffer(name)
            self._buffers[name] = moved.to(buffer.dtype) if buffer.is_meta else buffer.to(moved.device)
        return self
