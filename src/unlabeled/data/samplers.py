"""Which images an epoch draws, given their pseudo-labels.

Shapes: N images, K clusters. `labels` is int64 [N] with -1 for images that belong to no cluster and are never drawn.
Every function is pure: the same labels and generator state give the same order on every rank.
"""

from __future__ import annotations

import numpy as np
import torch

from unlabeled.errors import DataError


def uniform_over_clusters(labels: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw so that every non-empty cluster is seen equally often: int64 [count] positions in `labels`.

    With K' non-empty clusters, each gives floor(count / K') + 1 members, without repetition where it has more than that
    and with repetition where it has not; the draws are shuffled and cut to `count`. Source: DeepCluster (Caron et al.,
    ECCV 2018), section 3.3 "trivial parametrization", and the thesis, section 3.3. Raises DataError if no label is >=
    0.
    """
    members, starts, sizes = _members_by_cluster(labels, generator)
    if count <= 0:
        return torch.empty(0, dtype=torch.int64)
    clusters, per_cluster = len(sizes), count // len(sizes) + 1
    # Members stand in random order inside their cluster, so the first ones are a draw without repetition.
    position = starts[:, None] + np.arange(per_cluster, dtype=starts.dtype)
    few = np.flatnonzero(sizes <= per_cluster)
    repeated = torch.rand((len(few), per_cluster), generator=generator, dtype=torch.float64).numpy()
    repeated *= sizes[few, None]
    position[few] = starts[few, None] + repeated.astype(starts.dtype)
    drawn = members.take(position.ravel())
    shuffled = drawn.take(_permutation(clusters * per_cluster, generator)[:count])
    return torch.from_numpy(shuffled.astype(np.int64, copy=False))


def cluster_then_member(labels: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Pick a non-empty cluster uniformly, then one of its members, `count` times independently: int64 [count].

    Source: the thesis, section 3.3 (the variant before the balanced epoch of `uniform_over_clusters`).
    Raises DataError if no label is >= 0.
    """
    members, starts, sizes = _members_by_cluster(labels, generator)
    cluster = torch.randint(len(sizes), (count,), generator=generator).numpy()
    inside = torch.rand(count, generator=generator, dtype=torch.float64).numpy()
    drawn = members.take(starts[cluster] + (inside * sizes[cluster]).astype(np.int64))
    return torch.from_numpy(drawn.astype(np.int64, copy=False))


def natural(n: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """Every image equally often: a fresh permutation of `range(n)`, and another one whenever it is used up. int64
    [count]."""
    if n <= 0:
        raise DataError(f"cannot draw {count} images from {n}; there must be at least one image.")
    permutations = [torch.randperm(n, generator=generator) for _ in range(-(-count // n))]
    return torch.cat(permutations)[:count] if permutations else torch.empty(0, dtype=torch.int64)


def subset(n: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """`size` of `range(n)` without repetition, in rising order: int64 [size] (the sample of the thesis, section 4.7)."""
    if not 1 <= size <= n:
        raise DataError(f"a subset of {n} images holds between 1 and {n} of them, got {size}.")
    return torch.randperm(n, generator=generator)[:size].sort().values


def cluster_weights(labels: torch.Tensor, num_clusters: int) -> torch.Tensor:
    """Loss weight of each cluster that makes natural sampling as fair as uniform sampling: float32 [num_clusters].

    Proportional to 1 / |cluster| (DeepCluster, section 3.3), scaled so that the mean over labelled images is one; empty
    clusters get 0. The expected weighted loss of a naturally drawn image equals the expected plain loss of an image
    drawn uniformly over clusters.
    """
    labelled = labels[labels >= 0]
    sizes = torch.bincount(labelled, minlength=num_clusters)
    if len(sizes) > num_clusters:
        raise DataError(f"labels reach {len(sizes) - 1}, which must be below num_clusters ({num_clusters}).")
    filled = int((sizes > 0).sum())
    if filled == 0:
        raise DataError("no image has a cluster (every label is -1), so there is nothing to weigh; cluster first.")
    weights = len(labelled) / (filled * sizes.clamp(min=1).double())
    return torch.where(sizes > 0, weights, 0.0).float()


def _members_by_cluster(labels: torch.Tensor, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions grouped by cluster and shuffled inside it, with start and size of each non-empty cluster."""
    from scipy.sparse import csr_array

    values = labels.cpu().numpy()
    if len(values) == 0 or int(values.max()) < 0:
        raise DataError("no image has a cluster (every label is -1), so there is nothing to draw from; cluster first.")
    if int(values.min()) < 0:
        labelled = np.flatnonzero(values >= 0)
        order = _permutation(len(labelled), generator)
        order = labelled.astype(order.dtype).take(order)
    else:
        order = _permutation(len(values), generator)
    clusters = values.astype(order.dtype).take(order)
    # One image a row and its cluster the column: turning rows into columns is a counting sort, in one pass of C.
    rows = np.arange(len(order) + 1, dtype=order.dtype)
    grouped = csr_array((order, clusters, rows), shape=(len(order), int(values.max()) + 1)).tocsc()
    sizes = np.diff(grouped.indptr)
    filled = np.flatnonzero(sizes)
    return grouped.data, grouped.indptr[filled], sizes[filled]


def _permutation(n: int, generator: torch.Generator) -> np.ndarray:
    """`range(n)` in random order: int32 where it fits, because moving half the bytes takes half the time."""
    dtype = torch.int32 if n < 2**31 else torch.int64
    return torch.randperm(n, generator=generator, dtype=dtype).numpy()
