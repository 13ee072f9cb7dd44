"""The power iteration clustering of Lin and Cohen (2010), background of the thesis (section 2.4), as an alternative.

Shapes: N rows, k neighbours each. The graph is that of all rows; with several ranks, gather it first.

    G = W + Wᵀ,   W_ij = exp(-d²_ij / σ²) for j among the neighbours of i
    v <- normalise_1(D⁻¹ G v)   from v_i proportional to the degree D_ii      until it no longer accelerates
    clusters = k-means on the numbers v_i

Run to the end, v is the same for all rows of a connected part and says nothing; stopped when its speed no longer
changes, rows of one cluster have come near each other and clusters have not yet. The number of clusters is given, unlike
in `pic`. float64 for the same reason as there.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unlabeled.cluster.pic import symmetric_affinity
from unlabeled.errors import ConfigError

TOLERANCE = 1e-5
"""The iteration ends when no entry's speed changes by more than this over N (the published choice)."""


def power_embedding(
    neighbors: Tensor, sq_distances: Tensor, *, bandwidth: float = 0.2, iterations: int = 200
) -> Tensor:
    """One number a row, to be clustered by k-means.

    Args:
        neighbors: [N, k] int64, positions of each row's neighbours, itself not among them (`graph.knn_graph`).
        sq_distances: [N, k] squared distances to them.
        bandwidth: σ of the Gaussian affinity, in units of the distance.
        iterations: at most.

    Returns:
        [N] float64 with mean 0 and standard deviation 1 (all 0 where every row got the same).

    Raises:
        ConfigError: bandwidth or iterations are out of range.
        DataError: the graph's parts do not fit each other.
    """
    from scipy.sparse import csr_array

    if bandwidth <= 0 or iterations < 1:
        raise ConfigError(f"power iteration needs bandwidth > 0 and iterations >= 1, got {bandwidth} and {iterations}.")
    starts, columns, weights = symmetric_affinity(neighbors, sq_distances, bandwidth)
    total = len(starts) - 1
    graph = csr_array((weights, columns, starts), shape=(total, total))
    degree = np.asarray(graph.sum(axis=1)).ravel()
    # A row so far from its neighbours that the affinity underflows keeps its own value.
    linked = degree > 0
    inverse = np.divide(1.0, degree, out=np.zeros(total), where=linked)
    v = degree / degree.sum() if degree.sum() > 0 else np.full(total, 1 / total)
    speed = np.full(total, np.inf)
    for _ in range(iterations):
        new = np.where(linked, inverse * (graph @ v), v)
        new /= np.abs(new).sum()
        new_speed = np.abs(new - v)
        settled = np.abs(new_speed - speed).max() <= TOLERANCE / total
        v, speed = new, new_speed
        if settled:
            break
    centred = v - v.mean()
    spread = centred.std()
    # k-means works in float32, in which numbers near 1/N would all be one.
    return torch.from_numpy(centred / spread if spread > 0 else np.zeros(total))
