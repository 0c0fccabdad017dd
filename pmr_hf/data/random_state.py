"""Random draws that leave the random state of the training untouched."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def isolated_random_state(seed: int, device: torch.device) -> Iterator[None]:
    """
    Seed Python, NumPy and torch's CPU generator inside the block, and restore these and the state of `device` after it.
    The state of Apple's MPS is not restored.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = [] if device.type in ("cpu", "mps") else [device]
    try:
        with torch.random.fork_rng(devices=devices, device_type=device.type):
            random.seed(seed)
            np.random.seed(seed)
            torch.default_generator.manual_seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
