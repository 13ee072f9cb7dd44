"""Weighted nearest-neighbour vote on frozen features.

Shapes: N training rows, M test rows, D dims, C classes, k neighbors.

Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination" (CVPR 2018), section 3.4: the k
training rows with the largest cosine s to a test row vote for their class with weight exp(s / temperature); the class
with the largest sum wins.

The search multiplies in bfloat16 where the hardware has it, takes every row whose rounded score reaches a threshold,
and scores these candidates again in float32. Rounding moves a score by at most a bound that follows from the rows
themselves, so it is known whether a row below the threshold could have been a neighbor; where it could, the test row is
searched again in float32. Either way the neighbors are those of a float32 search, equal scores in the order of their
index.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from unlabeled.config import Precision
from unlabeled.device import resolve_precision
from unlabeled.errors import DataError
from unlabeled.randomness import numpy_generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCORES = 2**25
"""Scores held at once, 64 MB in bfloat16: larger products are no faster."""
LARGEST_EXPONENT = 60.0
"""exp(60) times ten million voters is far from the largest float32."""
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


@dataclass(frozen=True)
class Votes:
    """Outcome of a weighted vote."""

    votes: torch.Tensor
    """Sum of the weights of each class, float32 [M, C]; of a row whose weights would overflow, all times one factor."""
    prediction: torch.Tensor
    """Class with the most weight, the smaller id where two are equal, int64 [M]."""
    nearest: torch.Tensor
    """The single nearest training row, int64 [M]."""


def nearest_neighbors(train: torch.Tensor, test: torch.Tensor, k: int, *, precision: Precision = "auto") -> Neighbors:
    """The k rows of `train` [N, D] with the largest cosine to each row of `test` [M, D]; k is reduced to N if larger.

    Raises `DataError` if the two differ in D, if either holds no row or a value that is not finite, or if k < 1.
    """
    index, scores = _search(train, test, k, precision)
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


def _search(train: torch.Tensor, test: torch.Tensor, k: int, precision: Precision) -> tuple[torch.Tensor, torch.Tensor]:
    # Index and similarity of the neighbors in the order of their index: a vote has no use for a better one.
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


def weighted_knn(
    train: torch.Tensor,
    train_labels: torch.Tensor,
    test: torch.Tensor,
    *,
    k: int = 200,
    temperature: float = 0.07,
    num_classes: int,
    precision: Precision = "auto",
) -> Votes:
    """Vote of the k nearest rows of `train` [N, D], labels [N] in 0..C-1, for each row of `test` [M, D].

    Rows need not have length one. k larger than N is reduced to N. Raises `DataError` for rows or labels that do not
    fit.
    """
    _check_labels(train, train_labels, num_classes)
    if not temperature > 0:
        raise DataError(f"temperature must be above 0, got {temperature}; the papers use 0.07 or 0.1.")
    index, similarity = _search(train, test, k, precision)
    # At temperatures below 1/60 a weight may be more than a float32 holds; the vote is decided by their ratios.
    shift = (similarity.amax(dim=1, keepdim=True) - LARGEST_EXPONENT * temperature).clamp(min=0)
    weights = ((similarity - shift) / temperature).exp()
    votes = weights.new_zeros((len(test), num_classes))
    votes.scatter_add_(1, train_labels.long().to(index.device)[index], weights)
    # The first of equal votes wins: `argmax` alone does not say which of several maxima it returns.
    prediction = (votes == votes.amax(dim=1, keepdim=True)).to(torch.uint8).argmax(dim=1)
    is_best = similarity == similarity.amax(dim=1, keepdim=True)
    return Votes(votes, prediction, index.masked_fill(~is_best, len(train)).amin(dim=1))


def knn_accuracy(
    train: torch.Tensor,
    train_labels: torch.Tensor,
    test: torch.Tensor,
    test_labels: torch.Tensor,
    *,
    k: int = 200,
    temperature: float = 0.07,
) -> float:
    """Share of test rows whose weighted vote is right; arguments as of `weighted_knn`, labels of -1 left out."""
    protocol = KnnProtocol(train, train_labels, test, test_labels, k=k, temperature=temperature)
    return dict(protocol.run())["knn_top1"]


@dataclass(frozen=True)
class KnnProtocol:
    """Weighted kNN of labelled features: `run()` yields (metric, value) with values as fractions.

    Rows whose label is -1 take no part. Accuracy says something only if no test row is in the training rows.
    """

    train: torch.Tensor
    """Features that vote [N, D]."""
    train_labels: torch.Tensor
    """Their classes, int64 [N]."""
    test: torch.Tensor
    """Features that are classified [M, D]."""
    test_labels: torch.Tensor
    """Their classes, int64 [M]."""
    k: int = 200
    """Voters, at most N."""
    temperature: float = 0.07
    """Divides the cosine in the exponent of a vote's weight."""

    def run(self) -> Iterator[tuple[str, float]]:
        """Yield `knn_top1`, `knn_top5` (if C > 5), `nearest_top1` (a single neighbor) and `knn_chance`."""
        kept, asked = self.train_labels >= 0, self.test_labels >= 0
        if not bool(kept.any()) or not bool(asked.any()):
            raise DataError(
                f"kNN needs labelled rows on both sides, got {int(kept.sum())} to vote and {int(asked.sum())} to "
                "classify; give more labels."
            )
        train_labels, wanted = self.train_labels[kept].cpu(), self.test_labels[asked].cpu()
        num_classes = int(torch.maximum(train_labels.max(), wanted.max())) + 1
        votes = weighted_knn(
            _chosen(self.train, kept),
            train_labels,
            _chosen(self.test, asked),
            k=self.k,
            temperature=self.temperature,
            num_classes=num_classes,
        )
        yield "knn_top1", _share(votes.prediction.cpu() == wanted)
        if num_classes > 5:
            best = votes.votes.cpu().sort(dim=1, descending=True, stable=True).indices[:, :5]
            yield "knn_top5", _share((best == wanted[:, None]).any(dim=1))
        yield "nearest_top1", _share(train_labels[votes.nearest.cpu()] == wanted)
        # What always answering the commonest class would score: the number to beat on an unbalanced set.
        commonest = torch.bincount(train_labels, minlength=num_classes).argmax()
        yield "knn_chance", _share(wanted == commonest)


def split(
    labels: NDArray[np.int64] | torch.Tensor, test_share: float = 0.2, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut labelled rows [N] into (train, test) positions, each class in the same proportion, each position once.

    A class of two or more rows has at least one on each side; a class of one row is in train. Rows labelled -1 are in
    neither. The cut depends on the labels and the seed only. Raises `DataError` if no class has two rows.
    """
    if not 0 < test_share < 1:
        raise DataError(f"test_share must lie between 0 and 1, got {test_share}; 0.2 sets a fifth aside.")
    values = np.asarray(labels)
    random = numpy_generator(seed, "split")
    train: list[NDArray[np.int64]] = []
    test: list[NDArray[np.int64]] = []
    for label in np.unique(values[values >= 0]):
        members = random.permutation(np.flatnonzero(values == label))
        count = min(max(round(len(members) * test_share), 1), len(members) - 1)
        test.append(members[:count])
        train.append(members[count:])
    if not sum(map(len, test)):
        raise DataError(
            f"a held-out part needs a class with at least 2 labelled images, got {int((values >= 0).sum())} labelled "
            f"images in {len(train)} classes; label more images."
        )
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))


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


def _chosen(rows: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    # Rows that are all kept need no second table.
    return rows if bool(kept.all()) else rows[kept]


def _share(hits: torch.Tensor) -> float:
    return float(hits.double().mean())


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


def _check_labels(train: torch.Tensor, labels: torch.Tensor, num_classes: int) -> None:
    if labels.shape != (len(train),):
        raise DataError(
            f"every training row needs one label, got {len(train)} rows and labels of shape {tuple(labels.shape)}."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise DataError(
            f"labels must lie in 0..{num_classes - 1}, got {low}..{high}; leave rows without a label (-1) out."
        )
