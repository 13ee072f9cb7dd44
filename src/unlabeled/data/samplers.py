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
        return members[:0]
    per_cluster = count // len(sizes) + 1
    column = torch.arange(per_cluster).expand(len(sizes), -1)
    repeated = torch.rand((len(sizes), per_cluster), generator=generator, dtype=torch.float64)
    repeated = repeated.mul_(sizes[:, None]).long()
    # Members stand in random order inside their cluster, so the first ones are a draw without repetition.
    position = torch.where(sizes[:, None] > per_cluster, column, repeated) + starts[:, None]
    drawn = _take(members, position.flatten())
    return _take(drawn, torch.randperm(len(drawn), generator=generator)[:count])


def cluster_then_member(labels: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Pick a non-empty cluster uniformly, then one of its members, `count` times independently: int64 [count].

    Source: the thesis, section 3.3 (the variant before the balanced epoch of `uniform_over_clusters`).
    Raises DataError if no label is >= 0.
    """
    members, starts, sizes = _members_by_cluster(labels, generator)
    cluster = torch.randint(len(sizes), (count,), generator=generator)
    inside = torch.rand(count, generator=generator, dtype=torch.float64)
    return _take(members, starts[cluster] + (inside * sizes[cluster]).long())


def natural(n: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """Every image equally often: a fresh permutation of `range(n)`, and another one whenever it is used up. int64
    [count]."""
    if n <= 0:
        raise DataError(f"cannot draw {count} images from {n}; there must be at least one image.")
    permutations = [torch.randperm(n, generator=generator) for _ in range(-(-count // n))]
    return torch.cat(permutations)[:count] if permutations else torch.empty(0, dtype=torch.int64)


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


def _members_by_cluster(
    labels: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positions sorted by cluster and shuffled inside it, with start and size of each non-empty cluster."""
    labels = labels.cpu()
    labelled = (labels >= 0).nonzero()[:, 0]
    if len(labelled) == 0:
        raise DataError("no image has a cluster (every label is -1), so there is nothing to draw from; cluster first.")
    sizes = torch.bincount(labels[labelled] if len(labelled) < len(labels) else labels)
    # NumPy sorts 16-bit numbers by counting, which is several times faster than comparing.
    narrow = labels.numpy().astype(np.uint16 if len(sizes) <= 1 << 16 else np.int64)
    shuffled = _take(labelled, torch.randperm(len(labelled), generator=generator))
    by_cluster = np.argsort(narrow.take(shuffled.numpy()), kind="stable")
    sizes = sizes[sizes > 0]
    return _take(shuffled, torch.from_numpy(by_cluster)), sizes.cumsum(0) - sizes, sizes


def _take(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """`values[rows]` of one dimension; NumPy's `take` is five times faster than torch's indexing in random order."""
    return torch.from_numpy(values.numpy().take(rows.numpy()))
