"""The merge tree against scipy's Ward linkage, by hand, and against the k-means objective it speaks of."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage

from unlabeled.cluster.merge_tree import merge_tree
from unlabeled.errors import ConfigError, DataError


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    return len(set(zip(a.tolist(), b.tolist(), strict=True))) == len(set(a.tolist())) == len(set(b.tolist()))


def objective(points: np.ndarray, sizes: np.ndarray, groups: np.ndarray) -> float:
    total = 0.0
    for group in np.unique(groups):
        inside = groups == group
        mean = np.average(points[inside], axis=0, weights=sizes[inside])
        total += float((sizes[inside] * ((points[inside] - mean) ** 2).sum(1)).sum())
    return total


def test_against_scipy_with_clusters_of_one_image():
    points = np.random.default_rng(0).normal(size=(60, 5))
    tree, wanted = merge_tree(points, np.ones(60)), linkage(points, "ward")
    np.testing.assert_allclose(tree.heights, wanted[:, 2])
    for count in (1, 2, 7, 30, 60):
        assert same_partition(tree.cut(count), fcluster(wanted, count, "maxclust"))


def test_sizes_weigh_as_many_images_in_one_place_do():
    random = np.random.default_rng(1)
    points, sizes = random.normal(size=(12, 3)), random.integers(1, 9, 12)
    tree, wanted = merge_tree(points, sizes), linkage(np.repeat(points, sizes, axis=0), "ward")
    np.testing.assert_allclose(tree.heights, wanted[-11:, 2])
    first = np.cumsum(sizes) - sizes
    for count in (2, 5, 9):
        assert same_partition(tree.cut(count), fcluster(wanted, count, "maxclust")[first])
    # A merge costs what it adds to the k-means objective.
    for count in range(1, 12):
        rise = objective(points, sizes, tree.cut(count)) - objective(points, sizes, tree.cut(count + 1))
        assert tree.heights[11 - count] == pytest.approx(np.sqrt(2 * rise))


def test_cuts_are_nested_and_numbered_by_images():
    random = np.random.default_rng(2)
    tree = merge_tree(random.normal(size=(40, 4)), random.integers(0, 50, 40))
    for count in range(1, 40):
        groups, finer = tree.cut(count), tree.cut(count + 1)
        assert len(np.unique(groups)) == count
        assert len(set(zip(groups.tolist(), finer.tolist(), strict=True))) == count + 1
        images = np.bincount(groups, weights=tree.sizes)
        assert (np.diff(images) <= 0).all()
    assert tree.cut(1).tolist() == [0] * 40
    assert set(tree.to_json()) == {"sizes", "pairs", "heights"}


def test_equal_centroids_empty_clusters_and_one_cluster():
    tree = merge_tree(np.zeros((6, 2)), [3, 0, 1, 1, 0, 2])
    assert tree.heights.tolist() == [0] * 5 and len(set(tree.cut(4).tolist())) == 4
    grid = np.stack(np.meshgrid(range(5), range(5)), -1).reshape(-1, 2)
    assert len(merge_tree(grid, np.ones(25)).heights) == 24
    single = merge_tree([[1.0, 2.0]], [4])
    assert single.cut(1).tolist() == [0] and single.pairs.shape == (0, 2)


def test_what_is_wrong():
    tree = merge_tree(np.eye(3), [1, 2, 3])
    for count in (0, 4):
        with pytest.raises(ConfigError, match=f"3 clusters can be merged into 1 to 3, got {count}"):
            tree.cut(count)
    with pytest.raises(DataError, match=r"got \(3, 3\) and \(2,\)"):
        merge_tree(np.eye(3), [1, 2])
    with pytest.raises(DataError, match="finite"):
        merge_tree([[np.nan], [1.0]], [1, 1])
