"""A tree over finished clusters, so that their number can be chosen after training.

Shapes: K clusters, D dimensions. Ward's criterion on weighted centroids (Ward 1963; Murtagh, "A survey of recent advances
in hierarchical clustering algorithms", 1983, nearest-neighbor chains): merging clusters a and b of n_a and n_b images
raises the k-means objective by n_a n_b / (n_a + n_b) |c_a - c_b|², and the pair that raises it least is merged first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unlabeled.errors import ConfigError, DataError


@dataclass(frozen=True)
class MergeTree:
    """K - 1 merges, cheapest first. Nodes 0 … K - 1 are the clusters, node K + i is what merge i makes."""

    sizes: NDArray[np.int64]
    """Images of each cluster, [K]."""
    pairs: NDArray[np.int64]
    """The two nodes of each merge, [K - 1, 2], the smaller number first."""
    heights: NDArray[np.float64]
    """√(2 × what the merge adds to the k-means objective), never falling, [K - 1]; as scipy's `linkage(…, "ward")`."""

    @property
    def num_clusters(self) -> int:
        """Clusters at the bottom of the tree."""
        return len(self.sizes)

    def cut(self, num_clusters: int) -> NDArray[np.int64]:
        """The group of each cluster, int64 [K], when `num_clusters` are left; group 0 holds most images.

        Raises:
            ConfigError: there are not so many clusters.
        """
        if not 1 <= num_clusters <= self.num_clusters:
            raise ConfigError(
                f"the run's {self.num_clusters} clusters can be merged into 1 to {self.num_clusters}, got {num_clusters}; for "
                "more, train with a larger --num-clusters."
            )
        group = np.arange(2 * self.num_clusters - 1)
        for merge in range(self.num_clusters - num_clusters - 1, -1, -1):
            # From the top down: what a node belongs to, its two parts belong to.
            group[self.pairs[merge]] = group[self.num_clusters + merge]
        roots, member = np.unique(group[: self.num_clusters], return_inverse=True)
        images = np.bincount(member, weights=self.sizes, minlength=len(roots))
        rank = np.empty(len(roots), np.int64)
        rank[np.argsort(-images, kind="stable")] = np.arange(len(roots))
        return rank[member]

    def to_json(self) -> dict[str, Any]:
        """Plain lists: `sizes`, `pairs`, `heights`."""
        return {"sizes": self.sizes.tolist(), "pairs": self.pairs.tolist(), "heights": self.heights.tolist()}


def merge_tree(centroids: ArrayLike, sizes: ArrayLike) -> MergeTree:
    """The tree over clusters with these `centroids` [K, D] and `sizes` [K] (images; an empty cluster has 0).

    Time grows with K² D and memory with K D, so 10,000 clusters take about a minute.

    Raises:
        DataError: shapes do not fit, or a centroid is not finite.
    """
    points, counts = np.array(centroids, np.float64), np.array(sizes, np.int64)
    if points.ndim != 2 or counts.shape != points.shape[:1] or not len(points):
        raise DataError(f"a merge tree needs centroids [K, D] and sizes [K], got {points.shape} and {counts.shape}.")
    if not np.isfinite(points).all() or (counts < 0).any():
        raise DataError("a merge tree needs finite centroids and sizes of at least 0; the clustering has failed.")
    pairs, costs = _chained_merges(points, counts.astype(np.float64))
    # A chain finds merges out of order; a merge never costs less than those it stands on.
    order = np.argsort(costs, kind="stable")
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order))
    named = np.where(
        pairs < len(points), pairs, len(points) + number[np.maximum(pairs - len(points), 0)] if len(order) else pairs
    )
    return MergeTree(counts, np.sort(named[order], axis=1), np.sqrt(2 * costs[order]))


def _chained_merges(
    points: NDArray[np.float64], counts: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    # Pairs [K - 1, 2] and costs in the order they are found: walk to nearest neighbors until two are each other's.
    total = len(points)
    node = np.arange(total)  # which node stands in each place; a merge goes to the place of its first part
    squares, alive = np.einsum("kd,kd->k", points, points), np.ones(total, bool)
    pairs, costs = np.zeros((total - 1, 2), np.int64), np.zeros(total - 1)
    below = np.zeros(total)  # cost of the merge that made what stands in each place
    chain: list[int] = []
    for merge in range(total - 1):
        if not chain:
            chain.append(int(np.flatnonzero(alive)[0]))
        while True:
            here = chain[-1]
            weight = counts * counts[here] / np.maximum(counts + counts[here], 1)
            cost = weight * np.maximum(squares - 2 * (points @ points[here]) + squares[here], 0)
            cost[~alive] = np.inf
            cost[here] = np.inf
            there = int(np.argmin(cost))
            # Of equal costs the one we came from: otherwise a chain of equal steps might never end.
            if len(chain) > 1 and cost[chain[-2]] <= cost[there] * (1 + 1e-12):
                there = chain.pop(-2)
                chain.pop()
                break
            chain.append(there)
        gap = points[here] - points[there]
        exact = counts[here] * counts[there] / max(counts[here] + counts[there], 1) * float(gap @ gap)
        pairs[merge] = node[here], node[there]
        costs[merge] = below[here] = max(exact, below[here], below[there])
        both = max(counts[here] + counts[there], 1)
        # Without images the weights say nothing, and either place will do.
        share = counts[there] / both
        points[here] += share * (points[there] - points[here])
        counts[here] += counts[there]
        squares[here], node[here], alive[there] = points[here] @ points[here], total + merge, False
    return pairs, costs
