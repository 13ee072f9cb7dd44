"""The uniform draw over pseudo-labels against numbers of the released DeepCluster sampler."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from unlabeled.data.samplers import uniform_over_clusters
from unlabeled.randomness import generator


def reference(members: list[np.ndarray], count: int, seed: int) -> np.ndarray:
    """T07 as a loop with NumPy's legacy generator: a share from each non-empty cluster, shuffled, cut."""
    random = np.random.RandomState(seed)
    filled = [rows for rows in members if len(rows)]
    share = int(count / len(filled)) + 1
    draws = [random.choice(rows, share, replace=len(rows) <= share) for rows in filled]
    order = np.concatenate(draws)
    random.shuffle(order)
    return order[:count].astype(int)


@pytest.fixture
def data(golden: Path) -> dict[str, np.ndarray]:
    return dict(np.load(golden / "unif_sampler.npz"))


def clusters(sizes: np.ndarray) -> list[np.ndarray]:
    ends = np.cumsum(sizes)
    return [np.arange(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def test_the_loop_is_the_released_sampler(data: dict[str, np.ndarray]) -> None:
    members, total = clusters(data["sizes"]), int(data["sizes"].sum())
    for key, count in (("seq_N", total), ("seq_2N", 2 * total), ("seq_Ndiv3", total // 3)):
        np.testing.assert_array_equal(reference(members, count, int(data["numpy_seed"])), data[key])


@pytest.mark.parametrize("key", ["seq_N", "seq_2N", "seq_Ndiv3"])
def test_ours_has_its_properties(data: dict[str, np.ndarray], key: str) -> None:
    sizes, count = data["sizes"], len(data[key])
    labels = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes))
    share = count // int((sizes > 0).sum()) + 1
    for seed in range(20):
        order = uniform_over_clusters(labels, count, generator(seed))
        drawn = torch.bincount(labels[order], minlength=len(sizes)).numpy()
        assert len(order) == count
        assert drawn.max() <= share
        assert (drawn[sizes == 0] == 0).all()
        for k in np.flatnonzero(sizes > share):
            rows = order[labels[order] == k]
            assert len(rows.unique()) == len(rows)


def test_mean_count_per_cluster(data: dict[str, np.ndarray]) -> None:
    sizes = data["sizes"]
    labels = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes))
    draws = torch.cat([uniform_over_clusters(labels, len(labels), generator(seed)) for seed in range(200)])
    mean = torch.bincount(labels[draws], minlength=len(sizes)).numpy() / 200
    np.testing.assert_allclose(mean, data["mean_count_per_cluster_200_draws"], atol=1.0)
