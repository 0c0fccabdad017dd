"""
Limits for building a model from a config, which may be a stranger's.

A few bytes of JSON can ask for a billion layers, or for weights that no memory holds. Both stop here within a second.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import Any

import torch
from torch.nn.modules import module as hooks


MOST_LAYERS = 500  # also of experts and the like
MOST_MODULES = 5_000  # of one encoder; the largest have two thousand
COUNTS = re.compile(r"layer|depth|block|stage|expert|level|repeat")
MEMORY_ON_WINDOWS = 2**37  # in bytes; Python cannot ask there
MEMORY_OF_LINUX = Path("/proc/meminfo")
MEMORY_OF_CONTAINER = Path("/sys/fs/cgroup/memory.max")


def nested_fields(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """
    Every value in nested settings, outer ones first: its field, the value, and the mapping that it stands in. The
    values of a list have its field.
    """
    parts: list[tuple[str, Any, Mapping[str, Any]]] = [
        (str(field), value, settings) for field, value in settings.items()
    ]
    for field, value, beside in parts:  # grows while it is read
        yield field, value, beside
        if isinstance(value, Mapping):
            parts += [(str(inner), each, value) for inner, each in value.items()]
        elif isinstance(value, (list, tuple)):
            parts += [(field, each, beside) for each in value]


def check_counts(name: str, config: dict[str, Any]) -> None:
    """
    Raise `ValueError` for a config of the modality `name` that counts more than 500 layers, experts or the like.
    Some config classes write a list of that length before a model is built.
    """
    for field, value, _ in nested_fields(config):
        if isinstance(value, (int, float)) and value > MOST_LAYERS and COUNTS.search(field):
            raise ValueError(
                f"Expected at most {MOST_LAYERS:,} as `{field}` in the config of {name!r}, got {value:,}; correct the "
                "config, or do not load it."
            )


@contextmanager
def limited_building(what: str, most_modules: int | None = None) -> Iterator[None]:
    """
    Build a model in this context.

    Args:
        what (`str`): the model, for messages.
        most_modules (`int`, *optional*): the limit for the number of its modules. There is none by default.

    Raises:
        ValueError: as soon as there are more modules, or the weights need more bytes than this machine has free.
    """
    thread, memory, modules = get_ident(), _memory(), 0
    bytes_of: dict[tuple[int, str], int] = {}
    total = 0

    def count(module: torch.nn.Module, name: str, part: torch.nn.Module | None) -> None:
        nonlocal modules
        modules += get_ident() == thread
        if most_modules is not None and modules > most_modules:
            raise ValueError(
                f"Expected a config of at most {most_modules:,} modules for {what}, got one of more; correct the "
                "config, or do not load it."
            )

    def weigh(module: torch.nn.Module, name: str, tensor: torch.Tensor | None) -> None:
        nonlocal total
        if tensor is None or get_ident() != thread:
            return
        key, size = (id(module), name), tensor.numel() * tensor.element_size()
        total += size - bytes_of.get(key, 0)  # loading sets the same weight again
        bytes_of[key] = size
        if total > memory:
            raise ValueError(
                f"Expected weights of {what} that fit into the {memory / 2**30:,.0f} GiB that are free, got "
                f"{total / 2**30:,.0f} GiB or more; correct the config, or use a larger machine."
            )

    handles = [
        hooks.register_module_module_registration_hook(count),
        hooks.register_module_parameter_registration_hook(weigh),
        hooks.register_module_buffer_registration_hook(weigh),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _memory() -> int:
    """
    The memory that this process may take, in bytes: what is free on this machine (all of it, if that is not known) and
    allowed to the process and its container, and all memory of the GPUs.
    """
    limits = [MEMORY_ON_WINDOWS]
    if sys.platform != "win32":
        import resource  # not available on Windows

        limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
        limits += [soft for soft, _ in [resource.getrlimit(resource.RLIMIT_AS)] if soft != resource.RLIM_INFINITY]
    if MEMORY_OF_LINUX.is_file():
        available = re.search(r"MemAvailable:\s+(\d+) kB", MEMORY_OF_LINUX.read_text(encoding="utf-8"))
        limits += [int(available[1]) * 1024] if available else []
    if MEMORY_OF_CONTAINER.is_file():
        most = MEMORY_OF_CONTAINER.read_text(encoding="utf-8").strip()
        limits += [int(most)] if most.isdigit() else []
    gpus = range(torch.cuda.device_count())
    return min(limits) + sum(torch.cuda.get_device_properties(i).total_memory for i in gpus)
