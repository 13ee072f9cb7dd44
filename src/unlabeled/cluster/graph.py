"""The exact k-nearest-neighbour graph of all rows (thesis, section 4.1; 5 neighbours for PIC, 10 for the edge ratio).

Shapes: n rows of this rank, N rows of all ranks, D dimensions, k neighbours. Blocked brute force in three steps:

1. scores x·y - |y|²/2 of a block of rows against all rows in narrow products (bfloat16, or float32 where that is no
   slower), of which the best few dozen are candidates. The maxima over equal strides, which are plain vector code,
   leave only a small part of the row to be searched with positions: the best T entries lie in the T strides with the
   best maxima.
2. squared distances to the candidates in float32, by differences, so those of equal images are exactly zero.
3. a proof: no other row can be nearer than the k-th candidate, since its score was at most the worst candidate's plus
   twice the largest error the narrow product can make (by Cauchy-Schwarz, from the rounding actually done to each row).
   Rows whose proof fails are searched again with more candidates, and at last in float64.

The row itself is left out by its identity, not by its place: an equal image may come before it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unlabeled import distributed
from unlabeled.cluster.nearest import has_fast_bfloat16
from unlabeled.errors import ConfigError, DataError

_STRIDES = 16
_SPARE = 12
_SPARE_AGAIN = 116
_SCORES_IN_CACHE = 2**23


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
    table = _Table(everyone, narrow=has_fast_bfloat16(x.device.type) and total >= 2048)
    neighbors = torch.empty(len(x), k, dtype=torch.int64, device=x.device)
    distances = torch.empty(len(x), k, device=x.device)
    rows = max(32, min(1024, _SCORES_IN_CACHE // table.columns))
    for start in range(0, len(x), rows):
        part = slice(start, min(start + rows, len(x)))
        index = torch.arange(first + part.start, first + part.stop, device=x.device)
        neighbors[part], distances[part] = table.search(index, k)
    return neighbors, distances


class _Table:
    """All rows, ready to be searched by blocks of rows."""

    def __init__(self, x: Tensor, *, narrow: bool) -> None:
        total, dims = x.shape
        self.x = x
        self.total = total
        width = -(-total // (32 * _STRIDES)) * 32
        self.columns = width * _STRIDES
        kind = torch.bfloat16 if narrow else torch.float32
        # Two more dimensions carry -|y|²/2 in two parts, so that it is summed in float32 inside the product.
        self.rows = torch.ones(total, dims + 2, dtype=kind, device=x.device)
        self.rows[:, :dims] = x
        self.table = torch.zeros(self.columns, dims + 2, dtype=kind, device=x.device)
        self.table[:total, :dims] = x
        bias = -0.5 * x.square().sum(1)
        high = bias.to(kind).float()
        self.table[:total, dims] = high
        self.table[:total, dims + 1] = bias - high
        self.table[total:, dims] = -torch.inf
        self.bias = bias
        self.norms = x.norm(dim=1)
        lost = torch.empty_like(self.norms)
        for start in range(0, total, 8192):
            part = slice(start, start + 8192)
            lost[part] = (x[part] - self.rows[part, :dims].float()).norm(dim=1)
        self.lost, self.most_lost, self.longest = lost, float(lost.max()), float(self.norms.max())
        # Unit of rounding of the stored score, and of the bias in two parts; sums in float32 add D roundings of 2^-24.
        self.unit = (2.0**-8 if narrow else 2.0**-23) * 0.5
        self.sum_unit = (dims + 2) * 2.0**-24
        self.scores: Tensor | None = None

    def search(self, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """k nearest others of the rows `index`, proven."""
        neighbors, distances, proven = self._candidates(index, k, k + 1 + _SPARE)
        for spare in (_SPARE_AGAIN, 0):
            again = (~proven).nonzero().squeeze(1)
            if not len(again):
                break
            found = self._candidates(index[again], k, k + 1 + spare) if spare else self._everything(index[again], k)
            neighbors[again], distances[again], proven[again] = found
        return neighbors, distances

    def _candidates(self, index: Tensor, k: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Neighbours among the `count` best narrow scores, their distances, and whether they are proven [m]."""
        count = min(count, self.columns)
        if self.scores is None or len(self.scores) < len(index):
            self.scores = torch.empty(len(index), self.columns, dtype=self.rows.dtype, device=self.x.device)
        scores = torch.mm(self.rows[index], self.table.t(), out=self.scores[: len(index)])
        width = self.columns // _STRIDES
        tiles = scores.view(len(index), _STRIDES, width)
        strides = tiles.amax(1).topk(min(count, width), dim=1).indices
        inside = tiles.gather(2, strides[:, None, :].expand(-1, _STRIDES, -1)).flatten(1)
        best, where = inside.topk(count, dim=1)
        stride = where // strides.shape[1]
        candidates = stride * width + strides.gather(1, where % strides.shape[1])
        neighbors, distances = self._nearest_of(index, candidates, k)
        if count >= self.total:
            return neighbors, distances, torch.ones(len(index), dtype=torch.bool, device=index.device)
        # A row left out scored at most `worst` when rounded. Its true score is higher by no more than `error`.
        worst = best[:, -1].float()
        norms, lost = self.norms[index], self.lost[index]
        error = (norms + lost) * self.most_lost + lost * self.longest + self.unit * worst.abs() * 1.01
        error += (self.sum_unit + 2.0**-17) * (norms * self.longest + 0.5 * self.longest**2)
        score = 0.5 * (norms.square() - distances[:, -1])
        return neighbors, distances, (score >= worst + error) | (distances[:, -1] == 0)

    def _nearest_of(self, index: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """k nearest of the candidates [m, T], the row itself left out, by distance and then by position."""
        candidates = candidates.sort(dim=1).values
        valid = (candidates < self.total) & (candidates != index[:, None])
        others = self.x[candidates.clamp(max=self.total - 1)]
        distances = others.sub_(self.x[index][:, None]).square_().sum(2)
        distances = distances.masked_fill_(~valid, torch.inf).sort(dim=1, stable=True)
        order = distances.indices[:, :k]
        return candidates.gather(1, order), distances.values[:, :k]

    def _everything(self, index: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """The same from float64 scores of all rows: rare, slow and sure."""
        found: list[tuple[Tensor, Tensor]] = []
        for part in index.split(64):
            scores = torch.full((len(part), self.total), 0.0, dtype=torch.float64, device=self.x.device)
            rows = self.x[part].double()
            for start in range(0, self.total, 16384):
                others = self.x[start : start + 16384].double()
                scores[:, start : start + 16384] = rows @ others.t() - 0.5 * others.square().sum(1)
            candidates = scores.topk(min(self.total, k + 1 + _SPARE), dim=1).indices
            found.append(self._nearest_of(part, candidates, k))
        neighbors, distances = (torch.cat(columns) for columns in zip(*found, strict=True))
        return neighbors, distances, torch.ones(len(index), dtype=torch.bool, device=index.device)
