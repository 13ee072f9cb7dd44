"""The exact k-nearest-neighbour graph of all rows (thesis, section 4.1; 5 neighbours for PIC, 10 for the edge ratio).

Shapes: n rows of this rank, N rows of all ranks, D dimensions, k neighbours. Blocked brute force in three steps:

1. scores x·y - |y|²/2 of a block of rows against all rows in narrow products (8-bit integers, bfloat16, or float32
   where nothing else is faster), of which the best few dozen are candidates. The maxima over equal strides, which are
   plain vector code, leave only a small part of the row to be searched with positions: the best T entries lie in the
   T strides with the best maxima.
2. squared distances to the candidates in float32, by differences, so those of equal images are exactly zero.
3. a proof: no other row can be nearer than the k-th candidate, since its score was at most the worst candidate's plus
   twice the largest error the narrow product can make (by Cauchy-Schwarz, from the rounding actually done to each row).
   Rows whose proof fails are searched again in wider products, with more candidates, and at last in float64.

The row itself is left out by its identity, not by its place: an equal image may come before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unlabeled import distributed
from unlabeled.cluster.nearest_centroid import Width, has_fast_int8, int_product
from unlabeled.device import has_fast_bfloat16
from unlabeled.errors import ConfigError, DataError

_STRIDES = 16
_SPARE: dict[Width, int] = {"int8": 45, "bfloat16": 12, "float32": 12}
"""Candidates beyond the k neighbours and the row itself: enough that the proof seldom fails, few enough to be cheap."""
_SPARE_AGAIN = 116
_SCORES_AT_ONCE = 2**25


def knn_graph(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest other rows of every row of this rank, among the rows of all ranks.

    Args:
        x: [n, D] this rank's contiguous shard, floating point. All N rows are gathered on every rank.
        k: neighbours per row, 1 <= k < N.

    Returns:
        neighbors [n, k] int64, positions among the N rows, nearest first, equal distances by position; and
        sq_distances [n, k] float32, squared Euclidean distances.

    Raises:
        ConfigError: k is out of range.
        DataError: x is no matrix, or holds NaN or infinity.
    """
    if x.ndim != 2 or not x.is_floating_point():
        raise DataError(f"a neighbour graph needs a matrix of floating-point features, got {tuple(x.shape)} {x.dtype}.")
    everyone = distributed.all_gather_rows(x.float())
    lengths = distributed.all_gather_rows(torch.tensor([len(x)], device=x.device))
    total, first = len(everyone), int(lengths[: distributed.rank()].sum())
    if not 1 <= k < total:
        raise ConfigError(f"neighbours must lie between 1 and the number of images less one, {total - 1}, got {k}.")
    broken = int((~torch.isfinite(everyone.sum(1))).sum())
    if broken:
        raise DataError(
            f"{broken} of {total} feature rows hold NaN or infinity, a neighbour graph needs finite ones; "
            "check the images with `unlabeled check`."
        )
    # Distances do not mind a shift, rounding does.
    everyone = everyone - everyone.double().mean(0).float()
    table = _Table(everyone, _widths(x.device.type, total, x.shape[1]))
    neighbors = torch.empty(len(x), k, dtype=torch.int64, device=x.device)
    distances = torch.empty(len(x), k, device=x.device)
    rows = max(128, min(1024, _SCORES_AT_ONCE // table.columns))
    for start in range(0, len(x), rows):
        part = slice(start, min(start + rows, len(x)))
        index = torch.arange(first + part.start, first + part.stop, device=x.device)
        neighbors[part], distances[part] = table.search(index, k)
    return neighbors, distances


def _widths(device_type: str, total: int, dims: int) -> list[Width]:
    widths: list[Width] = []
    if total >= 2048 and dims >= 64 and has_fast_int8(device_type):
        widths.append("int8")
    return [*widths, "bfloat16" if total >= 2048 and has_fast_bfloat16(device_type) else "float32"]


class _Narrow:
    """All rows in one narrow type, the scores they give, and how far those may be off."""

    def __init__(self, x: Tensor, width: Width, columns: int) -> None:
        total, dims = x.shape
        self.step = 1.0
        bias = -0.5 * x.square().sum(1)
        if width == "int8":
            # One entry cut off loosens the proof of every row, so the 8 bits hold all of them unless one is far out.
            largest = min(float(x.abs().max()), 7 * float(x.square().mean().sqrt()))
            self.step = max(largest, 1e-30) / 127
            self.rows = (x / self.step).round_().clamp_(-127, 127).to(torch.int8)
            self.table = torch.zeros(columns, dims, dtype=torch.int8, device=x.device)
            self.bias = torch.full((columns,), -(2**30), dtype=torch.int32, device=x.device)
            self.bias[:total] = (bias / self.step**2).round().to(torch.int32)
            self.unit, sums, back = 0.0, self.step**2, self.step
        else:
            kind = torch.bfloat16 if width == "bfloat16" else torch.float32
            # Two more dimensions carry -|y|²/2 in two parts, so that it is summed in float32 inside the product.
            self.rows = torch.ones(total, dims + 2, dtype=kind, device=x.device)
            self.rows[:, :dims] = x
            self.table = torch.zeros(columns, dims + 2, dtype=kind, device=x.device)
            high = bias.to(kind).float()
            self.table[:total, dims] = high
            self.table[:total, dims + 1] = bias - high
            self.table[total:, dims] = -torch.inf
            self.unit, back = (2.0**-9 if width == "bfloat16" else 2.0**-24), 1.0
            longest = float(x.norm(dim=1).max())
            sums = 1.5 * longest**2 * ((dims + 2) * 2.0**-24 + 2.0**-17)
        self.table[:total, :dims] = self.rows[:, :dims]
        self.lost = torch.empty(total, device=x.device)
        for start in range(0, total, 8192):
            part = slice(start, start + 8192)
            self.lost[part] = (x[part] - self.rows[part, :dims].float() * back).norm(dim=1)
        norms = x.norm(dim=1)
        # |x·y - x'·y'| <= |x'| |y - y'| + |x - x'| |y| for the rounded rows x', y', plus what sums and the bias lose.
        self.error = (norms + self.lost) * self.lost.max() + self.lost * norms.max() + sums
        self.buffer = torch.empty(
            0, columns, dtype=torch.int32 if width == "int8" else self.rows.dtype, device=x.device
        )

    def scores(self, index: Tensor) -> Tensor:
        """[m, columns] narrow scores of the rows `index` against all rows, in a buffer that the next call reuses."""
        if len(self.buffer) < len(index):
            self.buffer = self.buffer.new_empty(len(index), self.buffer.shape[1])
        out = self.buffer[: len(index)]
        if self.rows.dtype == torch.int8:
            return int_product(self.rows[index], self.table, out).add_(self.bias)
        return torch.mm(self.rows[index], self.table.t(), out=out)

    def proves(self, index: Tensor, worst: Tensor, score: Tensor) -> Tensor:
        """Whether a true score beats every row whose narrow score is no better than `worst`, [m] each."""
        least = worst.float() * self.step**2
        return score >= least + self.error[index] + self.unit * least.abs() * 1.01


class _Table:
    """All rows, ready to be searched by blocks of rows."""

    def __init__(self, x: Tensor, widths: list[Width]) -> None:
        self.x = x
        self.total = len(x)
        self.columns = -(-self.total // (32 * _STRIDES)) * 32 * _STRIDES
        self.widths = widths
        self.narrow: dict[Width, _Narrow] = {}
        self.others = x.new_empty(0)

    def search(self, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """k nearest others of the rows `index`, proven."""
        neighbors = torch.empty(len(index), k, dtype=torch.int64, device=index.device)
        distances = torch.empty(len(index), k, device=index.device)
        left = torch.arange(len(index), device=index.device)
        rounds: list[tuple[Width, int]] = [(width, _SPARE[width]) for width in self.widths]
        rounds.append((self.widths[-1], _SPARE_AGAIN))
        for width, spare in rounds:
            neighbors[left], distances[left], proven = self._candidates(index[left], k, width, k + 1 + spare)
            left = left[~proven]
            if not len(left):
                return neighbors, distances
        neighbors[left], distances[left] = self._everything(index[left], k)
        return neighbors, distances

    def _candidates(self, index: Tensor, k: int, width: Width, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Neighbours among the `count` best narrow scores, their distances, and whether they are proven [m]."""
        if width not in self.narrow:
            self.narrow[width] = _Narrow(self.x, width, self.columns)
        count = min(count, self.columns)
        best, candidates = _top(self.narrow[width].scores(index), count)
        neighbors, distances = self._nearest_of(index, candidates, k)
        if count >= self.total:
            return neighbors, distances, torch.ones(len(index), dtype=torch.bool, device=index.device)
        score = 0.5 * (self.x[index].square().sum(1) - distances[:, -1])
        proven = self.narrow[width].proves(index, best.amin(1), score)
        return neighbors, distances, proven | (distances[:, -1] == 0)

    def _nearest_of(self, index: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """k nearest of the candidates [m, T], the row itself left out, by distance and then by position."""
        candidates = candidates.sort(dim=1).values
        valid = (candidates < self.total) & (candidates != index[:, None])
        # Fresh memory for every block would cost more than reading the rows.
        size = candidates.numel() * self.x.shape[1]
        if self.others.numel() < size:
            self.others = self.x.new_empty(size)
        others = self.others[:size].view(candidates.numel(), -1)
        torch.index_select(self.x, 0, candidates.clamp(max=self.total - 1).flatten(), out=others)
        others = others.view(*candidates.shape, -1)
        distances = others.sub_(self.x[index][:, None]).square_().sum(2)
        ranked = distances.masked_fill_(~valid, torch.inf).sort(dim=1, stable=True)
        order = ranked.indices[:, :k]
        return candidates.gather(1, order), ranked.values[:, :k]

    def _everything(self, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The same from float64 scores of all rows: rare, slow and sure."""
        found: list[tuple[Tensor, Tensor]] = []
        for part in index.split(64):
            scores = torch.full((len(part), self.total), 0.0, dtype=torch.float64, device=self.x.device)
            rows = self.x[part].double()
            for start in range(0, self.total, 16384):
                others = self.x[start : start + 16384].double()
                scores[:, start : start + 16384] = rows @ others.t() - 0.5 * others.square().sum(1)
            candidates = scores.topk(min(self.total, k + 1 + _SPARE_AGAIN), dim=1).indices
            found.append(self._nearest_of(part, candidates, k))
        neighbors, distances = (torch.cat(columns) for columns in zip(*found, strict=True))
        return neighbors, distances


def _top(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` best of each row of `scores` [m, columns], in any order, and where they are: a faster `topk`."""
    columns = scores.shape[1]
    strides = _STRIDES if columns > 8192 else 8
    width = columns // strides
    if width < 2 * count or columns % strides:
        best = scores.topk(count, dim=1, sorted=False)
        return best.values, best.indices
    tiles = scores.view(len(scores), strides, width)
    promising = _top(tiles.amax(1), count)[1]
    inside = tiles.gather(2, promising[:, None, :].expand(-1, strides, -1)).flatten(1)
    best = inside.topk(count, dim=1, sorted=False)
    return best.values, best.indices // count * width + promising.gather(1, best.indices % count)


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
