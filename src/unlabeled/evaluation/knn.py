"""Weighted nearest-neighbour vote on frozen features.

Shapes: N training rows, M test rows, D dims, C classes, k neighbors.

Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination" (CVPR 2018), section 3.4: the k
training rows with the largest cosine s to a test row vote for their class with weight exp(s / temperature); the class
with the largest sum wins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from unlabeled.cluster.neighbors import search
from unlabeled.config import Precision
from unlabeled.errors import DataError
from unlabeled.randomness import numpy_generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST_EXPONENT = 60.0
"""exp(60) times ten million voters is far from the largest float32."""


@dataclass(frozen=True)
class Votes:
    """Outcome of a weighted vote."""

    votes: torch.Tensor
    """Sum of the weights of each class, float32 [M, C]; of a row whose weights would overflow, all times one factor."""
    prediction: torch.Tensor
    """Class with the most weight, the smaller id where two are equal, int64 [M]."""
    nearest: torch.Tensor
    """The single nearest training row, int64 [M]."""


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
    index, similarity = search(train, test, k, precision)
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


def _chosen(rows: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    # Rows that are all kept need no second table.
    return rows if bool(kept.all()) else rows[kept]


def _share(hits: torch.Tensor) -> float:
    return float(hits.double().mean())


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
