"""What becomes of a cluster that no row is nearest to: three rules, one for each source, and a last repair.

Counts are over all ranks and the draws come from a generator that every rank makes alike, so all ranks decide the same.
Shapes: K clusters, D dimensions, n rows of this rank.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unlabeled import distributed
from unlabeled.cluster.nearest import squared_distances

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
