"""Stability: clear clusters are stable at their true number, arbitrary ones are not; Rand against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unlabeled.cluster.kmeans import kmeans
from unlabeled.cluster.merge_tree import MergeTree, merge_tree
from unlabeled.errors import ConfigError, DataError
from unlabeled.evaluation.stability import adjusted_rand, stability


def test_adjusted_rand_against_scikit_learn():
    from sklearn.metrics import adjusted_rand_score

    random = np.random.default_rng(0)
    for classes in (1, 3, 40):
        a, b = random.integers(0, classes, (2, 200))
        assert adjusted_rand(a, b) == pytest.approx(adjusted_rand_score(a, b), abs=1e-12)
    assert adjusted_rand(a, a) == 1


def test_clear_clusters_are_stable_and_a_cut_blob_is_not():
    random = torch.Generator().manual_seed(0)
    blobs = torch.randn(300, 4, generator=random) * 0.05 + torch.eye(4)[torch.arange(300) % 3]
    # Three blobs cut into nine: the parts of a blob are chance, the blobs are not.
    labels = kmeans(blobs, 9, seed=1).labels
    found = stability(blobs, labels, counts=(2, 3), rounds=4, seed=3)
    assert [one.num_clusters for one in found.by_count] == [2, 3, 9]
    three, nine = found.by_count[1], found.by_count[2]
    assert three.adjusted_rand == pytest.approx(1) and three.nmi == pytest.approx(1) and three.nmi_spread < 1e-9
    assert nine.adjusted_rand < 0.9
    true = stability(blobs, torch.arange(300) % 3, rounds=6, seed=3)
    assert max(true.per_cluster) > 0.9 and len(found.per_cluster) == 9
    assert np.mean(found.per_cluster) < np.mean(true.per_cluster)
    assert found.to_json()["by_count"][0]["num_clusters"] == 2
    assert stability(blobs, labels, rounds=2, seed=5) == stability(blobs, labels, rounds=2, seed=5)


def test_trees_are_only_made_to_be_cut(monkeypatch: pytest.MonkeyPatch):
    made: list[int] = []

    def counted(centroids: np.ndarray, sizes: np.ndarray) -> MergeTree:
        made.append(len(sizes))
        return merge_tree(centroids, sizes)

    monkeypatch.setattr("unlabeled.evaluation.stability.merge_tree", counted)
    rows = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(60) % 3
    assert len(stability(rows, labels, rounds=2).by_count) == 1 and not made
    # That of all images is kept, and each part has its own.
    assert len(stability(rows, labels, counts=(1, 2), rounds=2).by_count) == 3 and made == [3, 3, 3]


def test_an_empty_cluster_has_no_stability_and_wrong_input_a_sentence():
    rows, labels = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2] * 10)
    found = stability(rows, labels, rounds=1)
    assert np.isnan(found.per_cluster[1]) and found.to_json()["per_cluster"][1] is None
    with pytest.raises(DataError, match="20 rows and 3 labels"):
        stability(rows, labels[:3])
    with pytest.raises(ConfigError, match="share 1"):
        stability(rows, labels, share=1)
