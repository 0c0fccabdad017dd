"""Fixtures of the tests of methods."""

from functools import partial

import pytest

from pmr_hf import NumericConfig


@pytest.fixture
def make_model_of_three(make_model):
    backbones = {name: NumericConfig(num_features=3, hidden_size=6, dropout=0.0) for name in ("a", "b", "c")}
    return partial(make_model, backbones=backbones)
