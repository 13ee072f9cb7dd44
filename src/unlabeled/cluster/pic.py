"""Power Iteration Clustering of a neighbour graph, the thesis' alternative to k-means (section 4.6); it finds k itself.

Shapes: N rows, k neighbours each. The graph is that of all rows; with several ranks, gather it first: every rank then
computes the same.

    G = W + Wᵀ,   W_ij = exp(-d²_ij / σ²) for j among the neighbours of i       mutual neighbours count twice
    v <- normalise_1(α G v + (1 - α) / N)                                        from v = 1/N
    i points to the neighbour with the largest G_ij (v_j - v_i), if that is above zero, else it is a local maximum

A cluster is what flows into one local maximum. Everything is float64, for v differs from 1/N only by about
α exp(-d²/σ²)/N: in float32 far neighbours vanish and every row becomes its own cluster.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unlabeled.errors import ConfigError, DataError, unknown_name

_SINGLETONS = ("attach", "drop", "keep")


@dataclass(frozen=True)
class PIC:
    """Result of `pic`."""

    labels: Tensor
    """[N] int64 cluster ids without gaps, numbered by the position of their local maximum; -1 = dropped."""
    num_clusters: int
    """Number of clusters."""
    num_singletons: int
    """Clusters of one row before they were treated."""
    v: Tensor
    """[N] float64, the stationary vector."""
    iterations: int
    """Products made until v was settled."""


def pic(
    neighbors: Tensor,
    sq_distances: Tensor,
    *,
    bandwidth: float = 0.2,
    damping: float = 0.001,
    iterations: int = 200,
    singletons: str = "attach",
) -> PIC:
    """Cluster a neighbour graph.

    Args:
        neighbors: [N, k] int64, positions of each row's neighbours, itself not among them (`graph.knn_graph`).
        sq_distances: [N, k] squared distances to them; give float64 where you have it.
        bandwidth: σ of the Gaussian affinity, in units of the distance.
        damping: α, the share of the graph in each step.
        iterations: of the power method at most; it ends when v stops changing in its last bit, or repeats with period
            two, so the outcome is exactly that of all iterations.
        singletons: "attach" moves a row alone in its cluster to that of its nearest neighbour that is not alone,
            "keep" leaves it, "drop" labels it -1 (thesis, figure 4.7).

    Raises:
        ConfigError: a setting is out of range.
        DataError: the graph's parts do not fit each other.
    """
    if singletons not in _SINGLETONS:
        raise ConfigError(unknown_name("treatment of singletons", singletons, _SINGLETONS))
    if bandwidth <= 0 or not 0 < damping < 1 or iterations < 1:
        raise ConfigError(
            f"PIC needs bandwidth > 0, 0 < damping < 1 and iterations >= 1, got {bandwidth}, {damping}, {iterations}."
        )
    index, distances = _checked(neighbors, sq_distances)
    starts, columns, weights = _symmetric(index, np.exp(-distances / bandwidth**2))
    v, done = _power(starts, columns, weights, damping, iterations)
    parents = _uphill(starts, columns, weights, v)
    maxima = parents == np.arange(len(parents))
    labels = (np.cumsum(maxima) - 1)[_follow(parents)]
    sizes = np.bincount(labels)
    alone = int((sizes == 1).sum())
    if singletons != "keep":
        labels = _treat_singletons(labels, sizes, index, drop=singletons == "drop")
    return PIC(
        torch.from_numpy(labels.astype(np.int64)), int(labels.max(initial=-1)) + 1, alone, torch.from_numpy(v), done
    )


def symmetric_affinity(
    neighbors: Tensor, sq_distances: Tensor, bandwidth: float
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    """G of this module for a neighbour graph, as compressed rows: (starts [N + 1], columns, weights)."""
    index, distances = _checked(neighbors, sq_distances)
    return _symmetric(index, np.exp(-distances / bandwidth**2))


def _checked(neighbors: Tensor, sq_distances: Tensor) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    if neighbors.ndim != 2 or neighbors.shape != sq_distances.shape or len(neighbors) == 0:
        raise DataError(
            "neighbours and squared distances must be matrices of one shape with at least one row, "
            f"got {tuple(neighbors.shape)} and {tuple(sq_distances.shape)}."
        )
    index = neighbors.cpu().numpy().astype(np.int64)
    distances = sq_distances.cpu().numpy().astype(np.float64)
    total = len(index)
    if index.size and (index.min() < 0 or index.max() >= total):
        raise DataError(f"neighbours must be positions below {total}, got {index.min()} to {index.max()}.")
    if (index == np.arange(total)[:, None]).any():
        raise DataError("a row may not be its own neighbour; leave the row itself out, as `knn_graph` does.")
    if not (distances >= 0).all():
        raise DataError("squared distances must be zero or more and not NaN.")
    return index, distances


def _symmetric(
    index: NDArray[np.int64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    """G = W + Wᵀ as compressed rows with sorted columns: (starts [N + 1], columns, weights)."""
    from scipy.sparse import csr_array

    total, k = index.shape
    kind = np.int32 if total * k <= np.iinfo(np.int32).max // 2 else np.int64
    starts = np.arange(0, total * k + 1, k, dtype=kind)
    directed = csr_array((weights.ravel(), index.ravel().astype(kind), starts), shape=(total, total))
    # Turning rows into columns sorts by counting; from sorted rows the sum is one merge, and comes out sorted.
    incoming = directed.T.tocsr()
    incoming.has_sorted_indices = True
    incoming.sum_duplicates()
    graph = incoming.T.tocsr() + incoming
    return graph.indptr, graph.indices, graph.data


def _power(
    starts: NDArray[np.int32],
    columns: NDArray[np.int32],
    weights: NDArray[np.float64],
    damping: float,
    iterations: int,
) -> tuple[NDArray[np.float64], int]:
    from scipy.sparse import csr_array

    total = len(starts) - 1
    graph = csr_array((weights * damping, columns, starts), shape=(total, total))
    v = np.full(total, 1 / total)
    older = v
    for done in range(1, iterations + 1):
        new = graph @ v + (1 - damping) / total
        new /= new.sum()
        if np.array_equal(new, v):
            return new, done
        if np.array_equal(new, older):
            # Two vectors in turn for ever: the last iteration would end on this one or on the other.
            return (new if (iterations - done) % 2 == 0 else v), done
        older, v = v, new
    return v, iterations


def _uphill(
    starts: NDArray[np.int32], columns: NDArray[np.int32], weights: NDArray[np.float64], v: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The neighbour each row points to, or itself; among equal ones the first."""
    total = len(starts) - 1
    lengths = np.diff(starts)
    gains = v[columns]
    gains -= np.repeat(v, lengths)
    gains *= weights
    best = np.full(total, np.inf)
    linked = np.flatnonzero(lengths)
    if len(linked):
        best[linked] = np.maximum.reduceat(gains, starts[linked])
    best[best <= 0] = np.inf
    hits = np.flatnonzero(gains == np.repeat(best, lengths))[::-1]
    # Written last to first, so that the first of equal neighbours stays.
    parents = np.arange(total)
    parents[np.repeat(np.arange(total, dtype=np.int32), lengths)[hits]] = columns[hits]
    return parents


def _follow(parents: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each row ends: v rises strictly along pointers, so no circles, and each round doubles the stride."""
    while True:
        further = parents[parents]
        if np.array_equal(further, parents):
            return parents
        parents = further


def _treat_singletons(
    labels: NDArray[np.int64], sizes: NDArray[np.int64], index: NDArray[np.int64], *, drop: bool
) -> NDArray[np.int64]:
    """Drop rows alone in their cluster or attach them, by the sizes before any move; the ids left are made compact."""
    alone = sizes[labels] == 1
    treated = labels.copy()
    if drop:
        treated[alone] = -1
    else:
        rows = np.flatnonzero(alone)
        company = ~alone[index[rows]]
        rows, company = rows[company.any(1)], company[company.any(1)]
        nearest = index[rows, company.argmax(1)]
        treated[rows] = labels[nearest]
    kept = treated >= 0
    treated[kept] = np.unique(treated[kept], return_inverse=True)[1]
    return treated


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
