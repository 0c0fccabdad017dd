"""Models that were compiled before they came to the trainer."""

from torch import nn
from torch._dynamo import OptimizedModule


def compiled_in_place(model: nn.Module) -> nn.Module:
    """
    Replace the wrappers of `torch.compile(module)`, around a model and around its parts, by the modules themselves.

    The modules stay compiled, as by `module.compile()`. A wrapper would hide the class of the model, and would add
    `_orig_mod` to the names of its saved weights, so that no loader finds them again.

    Args:
        model (`torch.nn.Module`): the model, which is changed in place.

    Returns:
        `torch.nn.Module`: the model without a wrapper of its own.
    """
    model = _without_wrapper(model)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, OptimizedModule):
                setattr(module, name, _without_wrapper(child))
    return model


def is_compiled(model: nn.Module) -> bool:
    """Whether a model or a part of it is compiled in place."""
    return any(module._compiled_call_impl is not None for module in model.modules())


def _without_wrapper(module: nn.Module) -> nn.Module:
    while isinstance(module, OptimizedModule):
        inner = module._orig_mod
        inner._compiled_call_impl = module.dynamo_ctx(inner._call_impl)  # what `inner.compile()` does
        module = inner
    return module
