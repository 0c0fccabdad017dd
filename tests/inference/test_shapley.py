"""Shapley values against the mean over all orders of joining."""

import itertools
import statistics

import numpy as np
import pytest
import torch

from pmr_hf.inference.shapley import shapley_values


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_shapley_values_are_the_mean_over_all_orders(count):
    random = np.random.default_rng(count)
    game = {subset: random.normal() for subset in itertools.product([False, True], repeat=count)}
    found = shapley_values(lambda subset: torch.tensor([game[subset]]), count)[:, 0]
    added = {m: [] for m in range(count)}
    for order in itertools.permutations(range(count)):
        joined = [False] * count
        for m in order:
            before = game[tuple(joined)]
            joined[m] = True
            added[m].append(game[tuple(joined)] - before)
    assert found.tolist() == pytest.approx([statistics.mean(added[m]) for m in range(count)])
