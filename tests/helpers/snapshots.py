"""Copies of a model's tensors, to see what a run changed and whether two runs are equal to the bit."""

import torch


def snapshot(model):
    """Copies of all tensors of the state dict, prototypes included."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def weights_of(model):
    """Copies of all but the prototypes."""
    return {name: value for name, value in snapshot(model).items() if not name.startswith("prototypes.")}


def changed(before, model):
    """The names of the tensors that differ from a snapshot."""
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def assert_equal_tensors(left, right):
    """Two dicts of tensors have the same names and are equal to the bit."""
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different, different
