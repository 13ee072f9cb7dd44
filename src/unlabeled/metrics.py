"""Numbers that describe labels, rankings and clusterings; all in float64, all fractions.

Shapes: N items, C classes, K clusters, M columns of a ranking.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from unlabeled.errors import DataError

if TYPE_CHECKING:
    import torch

    Array = NDArray[Any] | torch.Tensor

Average = Literal["geometric", "arithmetic"]


def nmi(a: Array, b: Array, average: Average = "geometric") -> float:
    """Normalised mutual information of two labellings [N]: I(A; B) over the mean of H(A) and H(B).

    The geometric mean, I / sqrt(H(A) H(B)), is the definition of the DeepCluster paper (section 4.1); libraries use the
    arithmetic one today. 1 for the same partition under other names (also if both have a single part), 0 if only one
    of the two has a single part. Items labelled -1 in either are left out.
    """
    first, second = _both_labelled(a, b)
    mutual, entropy_a, entropy_b = _information(first, second)
    if entropy_a == 0 or entropy_b == 0:
        return float(entropy_a == entropy_b)
    mean = np.sqrt(entropy_a * entropy_b) if average == "geometric" else (entropy_a + entropy_b) / 2
    return float(min(max(mutual / mean, 0.0), 1.0))


def mutual_information(a: Array, b: Array) -> float:
    """Mutual information of two labellings [N], nats; items labelled -1 in either are left out."""
    return _information(*_both_labelled(a, b))[0]


def _information(a: NDArray[np.int64], b: NDArray[np.int64]) -> tuple[float, float, float]:
    # I(A; B), H(A), H(B) in nats, from the occupied cells only: 10,000 x 10,000 clusters would not fit as a table.
    count_b = int(b.max()) + 1
    cells, joint = np.unique(a * count_b + b, return_counts=True)
    counts_a, counts_b = np.bincount(a), np.bincount(b)
    total = len(a)
    logs = (
        np.log(joint / total) - np.log(counts_a[cells // count_b] / total) - np.log(counts_b[cells % count_b] / total)
    )
    return float((joint / total * logs).sum()), entropy(counts_a), entropy(counts_b)


def entropy(counts: Array) -> float:
    """Entropy of the distribution proportional to `counts`, nats."""
    values = as_array(counts).astype(np.float64).ravel()
    shares = values[values > 0] / values.sum()
    return float(-(shares * np.log(shares)).sum()) + 0.0


def relative_entropy_of_sizes(sizes: Array) -> float:
    """Entropy of cluster sizes [K] over ln K: 1 if all clusters are equally large, 0 if one holds everything."""
    values = as_array(sizes).ravel()
    return entropy(values) / float(np.log(len(values))) if len(values) > 1 else 1.0


def as_array(values: Array) -> NDArray[Any]:
    """A NumPy array of an array or of a tensor on any device."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)  # pyright: ignore


def _both_labelled(a: Array, b: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    first, second = as_array(a).astype(np.int64).ravel(), as_array(b).astype(np.int64).ravel()
    if len(first) != len(second):
        raise DataError(f"two labellings must speak of the same items, got {len(first)} and {len(second)} labels.")
    both = (first >= 0) & (second >= 0)
    if not both.any():
        raise DataError(f"two labellings need an item that both label, got none among {len(first)}.")
    return first[both], second[both]


def purity(a: Array, b: Array) -> float:
    """Sum over the parts of `a` [N] of their largest overlap with a part of `b` [N], over the number of items.

    Items labelled -1 in either are left out.
    """
    first, second = _both_labelled(a, b)
    width = int(second.max()) + 1
    cells, joint = np.unique(first * width + second, return_counts=True)
    largest = np.zeros(int(first.max()) + 1, dtype=np.int64)
    np.maximum.at(largest, cells // width, joint)
    return float(largest.sum() / len(first))
