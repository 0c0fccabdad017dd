"""Fixtures of the tests of methods."""

from functools import partial

import pytest
from helpers.all_methods import collate_three, rows_of_three

from pmr_hf import NumericConfig


@pytest.fixture
def make_model_of_three(make_model):
    backbones = {name: NumericConfig(num_features=3, hidden_size=6, dropout=0.0) for name in ("a", "b", "c")}
    return partial(make_model, backbones=backbones)


@pytest.fixture
def make_trainer_of_three(make_args, make_model_of_three):
    """A function that makes a trainer of 24 rows of three modalities, with 12 others to evaluate."""
    rows = rows_of_three(36)

    def make(cls, model=None, train_dataset=rows[:24], eval_dataset=rows[24:], trainer_kwargs=None, **kwargs):
        return cls(
            model=make_model_of_three() if model is None else model,
            args=make_args(cls.args_class, **kwargs),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=collate_three,
            **(trainer_kwargs or {}),
        )

    return make
