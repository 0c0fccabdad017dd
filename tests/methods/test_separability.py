"""Purity by hand and by loops, and clusters of embeddings."""

import numpy as np
import pytest
from helpers.purity import purity_by_loops

from pmr_hf.methods.separability import cluster_purity, purity


def test_purity_by_hand_and_by_loops():
    # cluster 0 has 1, 1, 0; cluster 1 has 2; cluster 2 has 0, 0, 3, 3
    assert purity(np.array([1, 1, 0, 2, 0, 0, 3, 3]), np.array([0, 0, 0, 1, 2, 2, 2, 2])) == (2 + 1 + 2) / 8
    generator = np.random.default_rng(0)
    for _ in range(20):
        labels, clusters = generator.integers(0, 5, (2, 30))
        assert purity(labels, clusters) == pytest.approx(purity_by_loops(labels.tolist(), clusters.tolist()))


def test_clusters_are_those_of_scaled_dimensions():
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    embeddings = np.eye(3)[labels] + generator.normal(0, 0.02, (60, 3))
    embeddings = np.column_stack([embeddings, generator.normal(0, 0.02, 60)]) * [1e-3, 1, 1e3, 1e-3] + 5
    assert cluster_purity(embeddings, labels, 3, seed=0) == 1
    assert cluster_purity(embeddings[::-1], labels[::-1], 3, seed=7) == 1
    assert cluster_purity(np.ones((6, 2)), np.array([0, 0, 1, 1, 2, 2]), 1, seed=0) == 1 / 3  # and equal embeddings
