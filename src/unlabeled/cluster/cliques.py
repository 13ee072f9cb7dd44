"""Maximal cliques of a neighbour graph as pseudo-labels: the thesis' look at "high density regions" (section 4.1).

Shapes: N rows, k neighbours each. A clique is a set of rows that are all neighbours of each other. It is a cluster
nobody can doubt, and the thesis found it "very poor" as supervision: few images are in one. `coverage` says how few.

The thesis does not say how the directed graph is made symmetric nor which cliques are kept. Here two rows
have an edge if either names the other; cliques are taken largest first, and one is kept if enough of its rows are not
in a larger one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unlabeled.errors import ConfigError, DataError


@dataclass(frozen=True)
class Cliques:
    """Result of `cliques`."""

    labels: Tensor
    """[N] int64, the clique of each row, numbered from the largest; -1 = in none."""
    sizes: Tensor
    """[M] int64, rows of each maximal clique of two or more before any was left out, largest first."""
    largest_of: Tensor
    """[N] int64, size of the largest maximal clique that each row is in; 1 = alone."""

    @property
    def num_clusters(self) -> int:
        """Cliques that became clusters."""
        return int(self.labels.max()) + 1

    def coverage(self, size: int) -> float:
        """Share of all rows that are in a maximal clique of at least `size` rows (spec A27)."""
        return float((self.largest_of >= size).double().mean())


def cliques(neighbors: Tensor, *, min_size: int = 3) -> Cliques:
    """Disjoint clusters from the maximal cliques of a neighbour graph.

    Args:
        neighbors: [N, k] int64, positions of each row's neighbours, itself not among them (`graph.knn_graph`).
        min_size: rows that a clique must bring, not counting those that a larger one already has.

    Among equal sizes the clique with the smaller first row comes first, so the result does not depend on the order in
    which they are found.

    Raises:
        ConfigError: `min_size` is below 2.
        DataError: `neighbors` is no matrix of positions, or a row is its own neighbour.
    """
    if min_size < 2:
        raise ConfigError(f"a clique needs min_size of at least 2, got {min_size}.")
    found = sorted(_maximal(_edges(neighbors), len(neighbors)), key=lambda clique: (-len(clique), clique))
    labels = np.full(len(neighbors), -1, dtype=np.int64)
    largest = np.ones(len(neighbors), dtype=np.int64)
    number = 0
    for clique in found:
        rows = np.array(clique)
        largest[rows] = np.maximum(largest[rows], len(rows))
        free = rows[labels[rows] < 0]
        if len(free) >= min_size:
            labels[free] = number
            number += 1
    sizes = torch.tensor([len(clique) for clique in found], dtype=torch.int64)
    return Cliques(torch.from_numpy(labels), sizes, torch.from_numpy(largest))


def _edges(neighbors: Tensor) -> list[tuple[int, int]]:
    if neighbors.ndim != 2 or len(neighbors) == 0:
        raise DataError(f"neighbours must be a matrix with at least one row, got {tuple(neighbors.shape)}.")
    total, k = neighbors.shape
    rows, columns = torch.arange(total).repeat_interleave(k).numpy(), neighbors.cpu().flatten().numpy()
    if len(columns) and (columns.min() < 0 or columns.max() >= total or (rows == columns).any()):
        raise DataError(
            f"neighbours must be positions of other rows below {total}, got {columns.min()} to {columns.max()}; "
            "leave the row itself out, as `knn_graph` does."
        )
    # An unordered pair is one number.
    pairs = np.unique(np.minimum(rows, columns) * total + np.maximum(rows, columns))
    return list(zip((pairs // total).tolist(), (pairs % total).tolist(), strict=True))


def _maximal(edges: Sequence[tuple[int, int]], total: int) -> list[list[int]]:
    """All maximal cliques of two rows or more, each sorted."""
    # Bron and Kerbosch's search; torch itself depends on networkx, so it is always there.
    import networkx

    graph: networkx.Graph[int] = networkx.Graph()
    graph.add_nodes_from(range(total))
    graph.add_edges_from(edges)
    return [sorted(clique) for clique in networkx.find_cliques(graph) if len(clique) > 1]
