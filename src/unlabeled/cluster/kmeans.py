"""k-means as DeepCluster uses it (Caron et al. 2018, equation 2): Lloyd's iterations from random data points, no
sub-sampling.

Shapes: n rows of this rank, N rows of all ranks, D dimensions, K clusters. Every rank gives its contiguous shard of the
rows; only [K, D] sums and [K] counts cross ranks, and all ranks end with the same centroids.

minimise  J = sum_i |x_i - c_(label i)|²   by turns: label = nearest centroid; centroid = mean of its rows.

J is computed exactly for the labels chosen, in float64, from the same sums that make the new centroids:
J = sum |x|² - 2 sum_k c_k·S_k + sum_k n_k |c_k|². So the search may use narrow products (see `nearest`) and still
report, and watch, the true objective: where an iteration fails to lower J, or the rounding could matter at this J,
the same assignment is made again with wider products. The final labels are float32, and agree with the centroids and
distances returned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unlabeled import distributed
from unlabeled.cluster import nearest_centroid
from unlabeled.cluster.nearest_centroid import squared_distances
from unlabeled.errors import ConfigError, DataError, unknown_name
from unlabeled.randomness import generator, numpy_generator

_RULES = ("copy", "halve", "split")
_CHUNK = 2048
_NOISE_SHARE = 0.01
"""Largest rounding error of a score, as a share of the mean squared distance, that narrow products may have."""


@dataclass(frozen=True)
class KMeans:
    """Result of `kmeans`; labels, distances and centroids agree with each other."""

    centroids: Tensor
    """[K, D] float32, the same on every rank."""
    labels: Tensor
    """[n] int64, nearest centroid of each row of this rank."""
    distances: Tensor
    """[n] float32, squared distance of each row to its centroid."""
    inertia: list[float]
    """J over all ranks at the assignment step of each iteration, before its update (spec C02)."""
    empty: list[int]
    """Clusters found empty at each assignment step, before they were refilled."""


class _Totals(NamedTuple):
    sums: Tensor
    counts: Tensor
    objective: float


def kmeans(
    x: Tensor,
    num_clusters: int,
    *,
    seed: int,
    iterations: int = 20,
    init: Tensor | None = None,
    empty: str = "split",
    precision: str = "auto",
) -> KMeans:
    """Cluster the rows of all ranks into `num_clusters`.

    Args:
        x: [n, D] this rank's contiguous shard of the features, floating point.
        num_clusters: K, at most N.
        seed: decides the initial centroids (K data points, distinct where there are as many) and the donors of empty
            clusters; the result does not depend on the number of ranks.
        iterations: Lloyd iterations at most; ends early when no label changes.
        init: [K, D] initial centroids instead of random rows, the same on every rank.
        empty: rule for a cluster without rows. "split" (faiss): a donor drawn by size - 1, times 1 ± 1/1024; "copy"
            (DeepCluster paper): a random other centroid plus a small perturbation; "halve" (thesis): half the images
            of a random other cluster.
        precision: "auto" (narrow products where they are faster and harmless), "int8", "bfloat16" or "float32".

    Raises:
        ConfigError: K, iterations, the rule or the precision make no sense.
        DataError: the rows are not a matrix, hold NaN or infinity, or `init` does not fit them.
    """
    rows, total = _checked(x, num_clusters, iterations, init, empty)
    rows, middle, energy, largest = _centred(rows, total)
    if init is None:
        centroids = _random_rows(rows, num_clusters, total, seed)
    else:
        centroids = (init.to(rows.device, torch.float64) - middle).float()
    widths = nearest_centroid.ladder(precision, rows.device.type, total * num_clusters * rows.shape[1], rows.shape[1])
    search = nearest_centroid.Nearest(rows, widths, largest=largest, energy=energy / total)
    inertia: list[float] = []
    empties: list[int] = []
    before: Tensor | None = None
    bound = float("inf")
    for iteration in range(iterations):
        labels, totals = _assignment_step(search, centroids, energy, total, bound)
        moved = 1 if before is None else int(distributed.all_reduce_sum((labels != before).sum()))
        inertia.append(totals.objective)
        empties.append(int((totals.counts == 0).sum()))
        spread = (totals.objective / total) ** 0.5
        rng = numpy_generator(seed, "kmeans", empty, iteration)
        centroids = _refilled(rows, labels, centroids, totals, empty, spread, middle.float(), rng)
        if moved == 0 and empties[-1] == 0:
            if search.exact:
                break
            search.widen()
        before = labels
        # A refilled cluster starts beside its donor, which may cost a little at first.
        bound = float("inf") if empties[-1] else totals.objective
    centroids, labels, distances = _final(rows, centroids, empty, seed)
    return KMeans((centroids + middle).float(), labels, distances, inertia, empties)


def assign(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest centroid [n] int64 of each row of `x` [n, D] and the squared distance [n] float32 to it.

    Labels are those of float32 scores. Raises DataError where the widths differ.
    """
    if x.ndim != 2 or centroids.ndim != 2 or x.shape[1] != centroids.shape[1]:
        raise DataError(
            f"features {tuple(x.shape)} and centroids {tuple(centroids.shape)} must be matrices of equal width; "
            "embed both with the same run."
        )
    x = x.float()
    centroids = centroids.to(x.device, torch.float32)
    middle = centroids.double().mean(0).float()
    search = nearest_centroid.Nearest(x - middle, ["float32"], largest=1.0, energy=1.0)
    labels = search.labels(centroids - middle)
    return labels, nearest_centroid.squared_distances(x, centroids, labels)


def _checked(x: Tensor, num_clusters: int, iterations: int, init: Tensor | None, empty: str) -> tuple[Tensor, int]:
    if x.ndim != 2 or x.shape[1] == 0 or not x.is_floating_point():
        raise DataError(f"k-means needs a matrix of floating-point features, got {tuple(x.shape)} {x.dtype}.")
    if empty not in _RULES:
        raise ConfigError(unknown_name("rule for empty clusters", empty, _RULES))
    if iterations < 1:
        raise ConfigError(f"k-means iterations must be at least 1, got {iterations}.")
    x = x.float()
    # A sum over a row is finite only if its entries are, and needs no mask as large as the features.
    facts = torch.tensor([len(x), int((~torch.isfinite(x.sum(1))).sum())], device=x.device)
    total, broken = distributed.all_reduce_sum(facts).tolist()
    if broken:
        raise DataError(
            f"{broken} of {total} feature rows hold NaN or infinity, k-means needs finite ones; "
            "check the images with `unlabeled check`, or lower lr if training diverged."
        )
    if not 1 <= num_clusters <= total:
        raise ConfigError(f"num_clusters must lie between 1 and the number of images, {total}, got {num_clusters}.")
    if init is not None and tuple(init.shape) != (num_clusters, x.shape[1]):
        raise DataError(
            f"initial centroids must have shape {(num_clusters, x.shape[1])} (clusters, dimensions), "
            f"got {tuple(init.shape)}."
        )
    return x, int(total)


def _centred(x: Tensor, total: int) -> tuple[Tensor, Tensor, float, float]:
    """Rows about their common mean, that mean [D], the sum of squared norms and the largest entry, over all ranks.

    k-means does not mind a shift, its arithmetic does. A mean that is small against the spread is left alone, which
    saves a copy of the features; for whitened rows that is always so.
    """

    def moments(rows: Tensor) -> Tensor:
        sums = torch.zeros(rows.shape[1] + 1, dtype=torch.float64, device=rows.device)
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK].double()
            sums[:-1] += part.sum(0)
            sums[-1] += part.square().sum()
        return distributed.all_reduce_sum(sums)

    sums = moments(x)
    mean = sums[:-1] / total
    if float(mean.square().sum()) > 0.1 * float(sums[-1]) / total:
        x = x - mean.float()
        middle, energy = mean.float().double(), float(moments(x)[-1])
    else:
        middle, energy = torch.zeros_like(mean), float(sums[-1])
    largest = x.abs().amax() if len(x) else torch.zeros((), device=x.device)
    return x, middle, energy, float(distributed.all_reduce_max(largest.reshape(1)))


def _random_rows(x: Tensor, num_clusters: int, total: int, seed: int) -> Tensor:
    """[K, D] rows drawn without replacement from all ranks; equal rows are drawn again, within reason."""
    order = torch.randperm(total, generator=generator(seed, "kmeans", "init")).to(x.device)
    lengths = distributed.all_gather_rows(torch.tensor([len(x)], device=x.device))
    offset = int(lengths[: distributed.rank()].sum())

    def rows_at(index: Tensor) -> Tensor:
        mine = (index >= offset) & (index < offset + len(x))
        rows = x.new_zeros(len(index), x.shape[1])
        rows[mine] = x[index[mine] - offset]
        return distributed.all_reduce_sum(rows)

    centroids, used = rows_at(order[:num_clusters]), num_clusters
    for _ in range(16):
        _, group = torch.unique(centroids, dim=0, return_inverse=True)
        ordered = group.sort(stable=True)
        again = torch.zeros_like(group, dtype=torch.bool)
        again[ordered.indices[1:]] = ordered.values[1:] == ordered.values[:-1]
        doubles = again.nonzero().squeeze(1)[: total - used]
        if not len(doubles):
            break
        centroids[doubles] = rows_at(order[used : used + len(doubles)])
        used += len(doubles)
    return centroids


def _assignment_step(
    search: nearest_centroid.Nearest, centroids: Tensor, energy: float, total: int, bound: float
) -> tuple[Tensor, _Totals]:
    """Labels and what follows from them; again with wider products while narrow ones do harm."""
    while True:
        labels = search.labels(centroids)
        totals = _totals(search.x, labels, centroids, energy)
        harmless = search.noise <= _NOISE_SHARE * totals.objective / total and totals.objective <= bound
        if search.exact or harmless:
            return labels, totals
        search.widen()


def _totals(x: Tensor, labels: Tensor, centroids: Tensor, energy: float) -> _Totals:
    num_clusters, dims = centroids.shape
    packed = torch.zeros(num_clusters, dims + 1, dtype=torch.float64, device=x.device)
    sums = torch.zeros(num_clusters, dims, dtype=torch.float64, device=x.device)
    for start in range(0, len(x), _CHUNK):
        sums.index_add_(0, labels[start : start + _CHUNK], x[start : start + _CHUNK].double())
    packed[:, :dims] = sums
    packed[:, dims] = torch.bincount(labels, minlength=num_clusters)
    distributed.all_reduce_sum(packed)
    sums, counts = packed[:, :dims], packed[:, dims]
    wide = centroids.double()
    objective = energy - 2 * (wide * sums).sum() + (counts * wide.square().sum(1)).sum()
    return _Totals(sums, counts, max(0.0, float(objective)))


def _refilled(
    x: Tensor,
    labels: Tensor,
    centroids: Tensor,
    totals: _Totals,
    rule: str,
    spread: float,
    middle: Tensor,
    rng: np.random.Generator,
) -> Tensor:
    """New centroids: means of their rows, empty ones filled by the rule."""
    hollow = bool((totals.counts == 0).any())
    if hollow and rule == "halve":
        labels, _ = halve(labels, totals.counts, rng)
        totals = _totals(x, labels, centroids, 0.0)
    means = (totals.sums / totals.counts.clamp(min=1)[:, None]).float()
    means = torch.where((totals.counts > 0)[:, None], means, centroids)
    if hollow and rule == "split":
        # This rule multiplies coordinates, so it needs them as the caller gave them.
        means = split(means + middle, totals.counts, rng) - middle
    elif hollow and rule == "copy":
        means = copy(means, totals.counts, spread, rng)
    return means


def _final(x: Tensor, centroids: Tensor, rule: str, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Centroids, float32 labels and distances; clusters left empty by the last assignment are filled."""
    labels, distances = assign(x, centroids)
    centroids, labels, distances = occupy(x, centroids, labels, distances)
    if rule == "halve":
        counts = distributed.all_reduce_sum(torch.bincount(labels, minlength=len(centroids)))
        # Rows that are all alike have no nearest one of several centroids: the thesis' rule shares them out all the
        # same.
        if bool((counts == 0).any()):
            labels, pairs = halve(labels, counts, numpy_generator(seed, "kmeans", rule, "final"))
            for empty, donor in pairs:
                centroids[empty] = centroids[donor]
    return centroids, labels, distances


EPSILON = 1 / 1024
"""Relative difference between the two halves of a split cluster."""


def split(centroids: Tensor, counts: Tensor, rng: np.random.Generator) -> Tensor:
    """Give every empty cluster half of a donor drawn with probability proportional to its size - 1 (spec C03, the
    library).

    The empty centroid becomes a copy of the donor's; then one is multiplied by (1 + eps, 1 - eps, ...) along the
    dimensions, the other by (1 - eps, 1 + eps, ...).
    """
    centroids = centroids.clone()
    sizes = counts.cpu().numpy().astype(np.int64)
    sign = torch.ones(centroids.shape[1], device=centroids.device)
    sign[1::2] = -1
    for empty in np.flatnonzero(sizes == 0):
        chances = np.maximum(sizes - 1, 0).cumsum()
        if chances[-1] == 0:
            break
        donor = int(np.searchsorted(chances, rng.integers(chances[-1]), side="right"))
        centroids[empty] = centroids[donor] * (1 + EPSILON * sign)
        centroids[donor] *= 1 - EPSILON * sign
        sizes[empty] = sizes[donor] // 2
        sizes[donor] -= sizes[empty]
    return centroids


def copy(centroids: Tensor, counts: Tensor, spread: float, rng: np.random.Generator) -> Tensor:
    """Put every empty centroid beside that of a random cluster of two rows or more (DeepCluster paper, section 3.2).

    The paper says "a small perturbation": here Gaussian, eps times `spread` (root mean square distance of a row to its
    centroid) long, so it means the same whatever the scale of the features. The next assignment shares the rows out.
    """
    centroids = centroids.clone()
    donors = np.flatnonzero(counts.cpu().numpy() >= 2)
    empties = np.flatnonzero(counts.cpu().numpy() == 0)
    if len(donors):
        chosen = torch.from_numpy(rng.choice(donors, len(empties)))
        noise = torch.from_numpy(rng.standard_normal((len(empties), centroids.shape[1]))).float()
        noise *= EPSILON * spread / centroids.shape[1] ** 0.5
        centroids[torch.from_numpy(empties)] = centroids[chosen] + noise.to(centroids.device)
    return centroids


def halve(labels: Tensor, counts: Tensor, rng: np.random.Generator) -> tuple[Tensor, list[tuple[int, int]]]:
    """Give every empty cluster half of the images of a random cluster of two or more (thesis, section 4.2).

    Returns the new labels [n] and the (empty, donor) pairs. A donor drawn by several is shared evenly. Its images go in
    turn, by their position in the whole dataset, so the outcome does not depend on the number of ranks.
    """
    sizes = counts.cpu().numpy().astype(np.int64)
    empties = np.flatnonzero(sizes == 0)
    spare = np.maximum(sizes - 1, 0)
    takers: dict[int, list[int]] = {}
    for empty in empties:
        donors = np.flatnonzero(spare > 0)
        if not len(donors):
            break
        donor = int(rng.choice(donors))
        spare[donor] -= 1
        takers.setdefault(donor, []).append(int(empty))
    labels = labels.clone()
    for donor, receivers in takers.items():
        members = (labels == donor).nonzero().squeeze(1)
        before = distributed.all_gather_rows(torch.tensor([len(members)], device=labels.device))[: distributed.rank()]
        turn = (torch.arange(len(members), device=labels.device) + before.sum()) % (len(receivers) + 1)
        heirs = torch.tensor([donor, *receivers], device=labels.device)
        labels[members] = heirs[turn]
    return labels, [(empty, donor) for donor, receivers in takers.items() for empty in receivers]


def occupy(x: Tensor, centroids: Tensor, labels: Tensor, distances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """After the last assignment, move each centroid that is still empty onto one of the rows worst served (over all
    ranks).

    Returns (centroids, labels, distances), which agree with each other; the sum of the distances falls. Clusters stay
    empty only where the rows hold fewer distinct points than there are centroids.
    """
    centroids, labels, distances = centroids.clone(), labels.clone(), distances.clone()
    for _ in range(8):  # a move may drain a small cluster; two or three rounds settle it
        counts = distributed.all_reduce_sum(torch.bincount(labels, minlength=len(centroids)))
        empties = (counts == 0).nonzero().squeeze(1)
        if not len(empties):
            break
        movable = torch.where(counts[labels] >= 2, distances, 0)
        worst = movable.topk(min(len(empties), len(x)))
        rows = distributed.all_gather_rows(x[worst.indices])
        order = distributed.all_gather_rows(worst.values).sort(descending=True, stable=True)
        chosen = order.indices[order.values > 0][: len(empties)]
        if not len(chosen):
            break
        empties = empties[: len(chosen)]
        centroids[empties] = rows[chosen]
        for start in range(0, len(x), 4096):
            part = slice(start, start + 4096)
            near = torch.cdist(x[part], centroids[empties]).argmin(1)
            other = squared_distances(x[part], centroids[empties], near)
            better = other < distances[part]
            labels[part] = torch.where(better, empties[near], labels[part])
            distances[part] = torch.where(better, other, distances[part])
    return centroids, labels, distances
