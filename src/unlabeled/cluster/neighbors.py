"""Exact nearest rows by cosine: narrow products with a proof, float32 where the proof fails.

The search multiplies in bfloat16 where the hardware has it, takes every row whose rounded score reaches a threshold, and
scores these candidates again in float32. Rounding moves a score by at most a bound that follows from the rows themselves,
so it is known whether a row below the threshold could have been a neighbor; where it could, the test row is searched again
in float32. Either way the neighbors are those of a float32 search, equal scores in the order of their index.

Shapes: N training rows, M test rows, D dims, k neighbors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from unlabeled.config import Precision
from unlabeled.device import resolve_precision
from unlabeled.errors import DataError

SCORES = 2**25
"""Scores held at once, 64 MB in bfloat16: larger products are no faster."""


QUERIES = 256
"""Test rows scored at once at most: more would not be faster."""


SAMPLED = 16
"""One in so many training rows tells where the threshold of a test row lies."""


FEW = 16
"""Test rows up to which preparing the training rows for a fast search costs more than it saves."""


ROWS_AT_ONCE = 4096
"""Rows of the base that are made unit rows at once: they stay in the cache."""


GROUP = 8
"""Test rows whose candidates are scored again at once: a few thousand features, which stay in the cache."""


@dataclass(frozen=True)
class Neighbors:
    """The k most similar training rows of each test row, best first."""

    index: torch.Tensor
    """Rows of the training set, int64 [M, k]."""
    similarity: torch.Tensor
    """Their cosines, float32 [M, k], falling."""


def nearest_neighbors(train: torch.Tensor, test: torch.Tensor, k: int, *, precision: Precision = "auto") -> Neighbors:
    """The k rows of `train` [N, D] with the largest cosine to each row of `test` [M, D]; k is reduced to N if larger.

    Raises `DataError` if the two differ in D, if either holds no row or a value that is not finite, or if k < 1.
    """
    index, scores = search(train, test, k, precision)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    return Neighbors(index.gather(1, order), scores)


def nearest_others(train: torch.Tensor, test: torch.Tensor, own: torch.Tensor, k: int) -> Neighbors:
    """As `nearest_neighbors`, a row itself left out: `own` [M] int64 is its place in `train`, or -1; k is at most N - 1."""
    k = min(k, len(train) - 1)
    found = nearest_neighbors(train, test, k + 1)
    is_self = found.index == own[:, None]
    # One with many exact copies may not be among those found, one that is no row of `train` never is: the last goes.
    is_self[:, -1] |= ~is_self.any(1)
    shape = (len(test), k)
    return Neighbors(found.index[~is_self].view(shape), found.similarity[~is_self].view(shape))


def search(train: torch.Tensor, test: torch.Tensor, k: int, precision: Precision) -> tuple[torch.Tensor, torch.Tensor]:
    """Index and similarity [M, k] of the neighbors in the order of their index: a vote has no use for a better one.

    Raises `DataError` as `nearest_neighbors` does.
    """
    _check_rows(train, test, k)
    k = min(k, len(train))
    if len(test) <= FEW:
        return _search_few(train.float(), F.normalize(test.float(), dim=1), k)
    search = _Search(train, resolve_precision(precision, train.device), k)
    # Unit rows block by block: all of them at once would be another table as large as the test rows.
    queries = (F.normalize(part.float(), dim=1) for part in test.split(search.queries))
    if search.is_small:
        base = F.normalize(train.float(), dim=1)
        blocks = [_search_float32(base, part, k) for part in queries]
        index, scores = map(torch.cat, zip(*blocks, strict=True))
        return index, scores
    index, scores, is_sure = map(torch.cat, zip(*map(search, queries), strict=True))
    # Scores in float32 take twice the memory of the rounded ones.
    for rows in (~is_sure).nonzero()[:, 0].split(max(search.queries // 2, 1)):
        index[rows], scores[rows] = _best(search.products(F.normalize(test[rows].float(), dim=1)), k)
    return index, scores


class _Search:
    """Candidates among `base` [N, D] for blocks of unit rows [Q, D], with the memory that every block uses again.

    The rows of `base` have any length. Their unit rows are kept rounded only: in float32 they would be another table as large,
    20 GB for a million images of 4,096 numbers.
    """

    def __init__(self, base: torch.Tensor, dtype: torch.dtype, k: int) -> None:
        self.base, self.k = base, k
        self.queries = max(min(QUERIES, SCORES // len(base)), GROUP)
        # How many of the k best are in the sample varies; with three deviations more the threshold is rarely too high.
        expected = k / SAMPLED
        self.rank = math.ceil(expected + 3 * math.sqrt(expected) + 2)
        self.most = 4 * self.rank * SAMPLED
        self.is_small = self.most >= len(base)
        if not self.is_small:
            self.lengths = torch.empty(len(base), device=base.device)
            self.rounded = torch.empty(base.shape, dtype=dtype, device=base.device)
            slack: list[torch.Tensor] = []
            for begin in range(0, len(base), ROWS_AT_ONCE):
                part = slice(begin, begin + ROWS_AT_ONCE)
                rows = base[part].float()
                self.lengths[part] = torch.linalg.vector_norm(rows, dim=1).clamp(min=1e-12)
                unit = rows / self.lengths[part, None]
                self.rounded[part] = unit
                slack.append(_rounding(unit, self.rounded[part]).max())
            self.slack = torch.stack(slack).max()
            self.product = torch.empty(self.queries, len(base), dtype=dtype, device=base.device)
            self.reached = torch.empty(self.queries, len(base), dtype=torch.bool, device=base.device)
            self.rows = torch.empty(GROUP * self.most, base.shape[1], dtype=base.dtype, device=base.device)

    def __call__(self, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Index [Q, k] and similarity [Q, k] of the neighbors by index, and whether they are proven so [Q]."""
        rounded = queries.to(self.rounded.dtype)
        product = torch.mm(rounded, self.rounded.T, out=self.product[: len(queries)])
        threshold = product[:, ::SAMPLED].topk(self.rank, dim=1, sorted=False).values.amin(dim=1)
        candidates, counts = self._candidates(product, threshold)
        scores = self._score(queries, candidates, counts)
        place, scores = _best(scores, self.k)
        # A row that was not taken has a score below the threshold by as much as rounding the two rows can have moved it
        # (Cauchy-Schwarz), and a little for summing in float32.
        bound = _rounding(queries, rounded) + 1.01 * self.slack + 1e-5
        return candidates.gather(1, place), scores, scores.amin(dim=1) > threshold + bound

    def products(self, queries: torch.Tensor) -> torch.Tensor:
        """Cosines [Q, N] in float32."""
        return (queries @ self.base.float().T).div_(self.lengths)

    def _candidates(self, product: torch.Tensor, threshold: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # Columns of the scores that reach the threshold of their row, in order, padded to a matrix; their number [Q].
        # Positive floating-point numbers are in the order of their bits, and comparing integers is much faster. Rows
        # with a threshold below zero, too few columns or too many get none and are left to the float32 search.
        bits = torch.int16 if product.dtype == torch.bfloat16 else torch.int32
        limits = torch.where(threshold > 0, threshold, math.inf).view(bits)[:, None]
        reached, width = self.reached[: len(product)], product.shape[1]
        if product.device.type == "cpu":
            np.greater_equal(product.view(bits).numpy(), limits.numpy(), out=reached.numpy())
            found = torch.from_numpy(np.flatnonzero(reached.numpy()))
        else:
            found = torch.ge(product.view(bits), limits, out=reached).flatten().nonzero()[:, 0]
        begins = torch.arange(len(product) + 1, device=found.device) * width
        counts = torch.searchsorted(found, begins).diff()
        is_usable = (counts >= self.k) & (counts <= self.most)
        if not bool(is_usable.all()):
            found, counts = found[torch.repeat_interleave(is_usable, counts)], counts * is_usable
        candidates = begins[:-1, None].repeat(1, max(int(counts.max()), self.k))
        candidates.masked_scatter_(torch.arange(candidates.shape[1], device=found.device) < counts[:, None], found)
        return candidates.sub_(begins[:-1, None]), counts

    def _score(self, queries: torch.Tensor, candidates: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        # Float32 cosine of each test row and its candidates [Q, W], minus infinity beyond their number. Not a matrix
        # product, so that equal rows of the base get equal bits.
        scores = torch.full(candidates.shape, -math.inf, device=candidates.device)
        for group in torch.arange(len(queries)).split(GROUP):
            part = slice(int(group[0]), int(group[-1]) + 1)
            width = int(counts[part].max())
            index = candidates[part, :width].reshape(-1)
            rows = torch.index_select(self.base, 0, index, out=self.rows[: len(index)]).float()
            products = rows.view(len(group), width, self.base.shape[1]).mul_(queries[part, None])
            scores[part, :width] = products.sum(dim=2).div_(self.lengths[index].view(len(group), width))
        beyond = torch.arange(scores.shape[1], device=scores.device) >= counts[:, None]
        return scores.masked_fill_(beyond, -math.inf)


def _search_few(train: torch.Tensor, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    # Without a second table of unit rows: writing it would cost many times what so few queries do.
    lengths = torch.linalg.vector_norm(train, dim=1).clamp(min=1e-12)
    blocks = [_best(part @ train.T / lengths, k) for part in queries.split(max(SCORES // len(train), 1))]
    index, scores = map(torch.cat, zip(*blocks, strict=True))
    return index, scores


def _search_float32(base: torch.Tensor, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    return _best(queries @ base.T, k)


def _best(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    # Columns of the k largest scores of each row, rising, and the scores; of equal ones those of smallest column.
    last = scores.topk(k, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    reached = scores >= last
    if int(reached.sum()) == k * len(scores):
        column = reached.nonzero()[:, 1].view(-1, k)
        return column, scores.gather(1, column)
    above, equal = scores > last, scores == last
    room = k - above.sum(dim=1, keepdim=True)
    column = (above | (equal & (equal.cumsum(dim=1) <= room))).nonzero()[:, 1].view(-1, k)
    return column, scores.gather(1, column)


def _rounding(rows: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    # Length of what rounding took from each row.
    return torch.linalg.vector_norm(rows - rounded.float(), dim=1)


def _check_rows(train: torch.Tensor, test: torch.Tensor, k: int) -> None:
    if train.ndim != 2 or test.ndim != 2 or train.shape[1] != test.shape[1]:
        raise DataError(
            f"training and test features must be two matrices of equally long rows, got {tuple(train.shape)} and "
            f"{tuple(test.shape)}; embed both with the same network."
        )
    if not len(train) or not len(test):
        raise DataError(
            f"kNN needs at least one row on each side, got {len(train)} to vote and {len(test)} to classify."
        )
    if k < 1:
        raise DataError(f"k must be at least 1, got {k}; the paper uses 200.")
    for name, rows in (("training", train), ("test", test)):
        # A sum is cheap and not finite if any value is not; only then is every value looked at.
        if not math.isfinite(float(rows.sum())) and not bool(rows.isfinite().all()):
            raise DataError(
                f"{name} features hold a value that is not finite; the network that made them has diverged."
            )
