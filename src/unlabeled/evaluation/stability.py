"""Would other images of the same kind have given the same clusters? Cluster parts of the images again and compare.

Shapes: N images, D dimensions, K clusters. Hennig, "Cluster-wise assessment of cluster stability" (2007): a cluster is
stable where every part of the images has a cluster that is nearly the same (Jaccard similarity; below 0.5 it dissolves,
from 0.75 it is a pattern). Over all clusters: normalised mutual information and the adjusted Rand index (Hubert and Arabie
1985), also after both clusterings were merged to fewer clusters, which says what number of clusters the images support.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unlabeled import progress
from unlabeled.cluster.kmeans import kmeans
from unlabeled.cluster.merge_tree import merge_tree
from unlabeled.distributed import all_gather_rows, shard
from unlabeled.errors import ConfigError, DataError
from unlabeled.metrics import nmi
from unlabeled.randomness import numpy_generator, seed_from

ROUNDS = 10
SHARE = 0.8
"""Parts of the images that are clustered again, and how large each is."""


@dataclass(frozen=True)
class Agreement:
    """How alike the clustering of a part and that of all images are: means over the parts, and standard deviations."""

    num_clusters: int
    nmi: float
    nmi_spread: float
    adjusted_rand: float
    adjusted_rand_spread: float
    largest_share: float
    """Share of the images in the largest cluster."""
    balance: float
    """Entropy of the cluster sizes over that of equal ones, 0 to 1: near 0 where one cluster holds nearly everything."""

    @property
    def support(self) -> float:
        """How well the images support this number of clusters, `adjusted_rand` × `balance`.

        One cluster with nearly all images comes back in every part: its agreement is high and says nothing.
        """
        return self.adjusted_rand * self.balance


@dataclass(frozen=True)
class Stability:
    """What `stability` found."""

    per_cluster: list[float]
    """Mean Jaccard similarity of each cluster to the nearest of each part, K numbers; nan for an empty cluster."""
    by_count: list[Agreement]
    """Agreement at each number of clusters asked for; the last is that of the clusters as they are."""
    rounds: int

    @property
    def suggested(self) -> int:
        """The number of clusters with the most support."""
        return max(self.by_count, key=lambda one: one.support).num_clusters

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; nan becomes null."""
        plain = [None if np.isnan(value) else value for value in self.per_cluster]
        by_count = [asdict(one) | {"support": one.support} for one in self.by_count]
        return {"per_cluster": plain, "by_count": by_count, "rounds": self.rounds, "suggested": self.suggested}


def suggested_counts(total: int) -> list[int]:
    """Numbers of clusters to compare, below `total`: 2, 3, 4, then about a fifth more each."""
    counts, value = [2, 3, 4], 5.0
    while value < total:
        counts.append(round(value))
        value *= 1.2 if value > 12 else 1.25
    return sorted({count for count in counts if count < total})


def stability(
    rows: torch.Tensor,
    labels: torch.Tensor,
    *,
    counts: Sequence[int] = (),
    seed: int = 0,
    rounds: int = ROUNDS,
    share: float = SHARE,
    iterations: int = 20,
) -> Stability:
    """Cluster `rounds` random parts of the rows again and compare with `labels`.

    Args:
        rows: [N, D] features in the space they were clustered in, all of them on every rank.
        labels: int64 [N], cluster of each row, 0 … K - 1.
        counts: smaller numbers of clusters, to which both clusterings are merged and compared too.
        seed: decides the parts and their initial centroids.
        rounds: parts.
        share: of the rows that are in a part, drawn without replacement.
        iterations: of k-means.

    Raises:
        ConfigError: rounds below 1, a share outside (0, 1), or a count of clusters there is not.
        DataError: the labels do not fit the rows.
    """
    if rounds < 1 or not 0 < share < 1:
        raise ConfigError(f"stability needs at least one part, smaller than all: got rounds {rounds}, share {share}.")
    if len(labels) != len(rows) or not len(rows) or int(labels.min()) < 0:
        raise DataError(f"every row needs a cluster, got {len(rows)} rows and {len(labels)} labels.")
    total = int(labels.max()) + 1
    smaller = sorted(set(counts) - {total})
    groups = _cuts(rows, labels, total, smaller)
    known = labels.cpu().numpy()
    jaccard = np.zeros((rounds, total))
    scores = np.zeros((rounds, len(smaller) + 1, 2))
    with progress.bar("stability", rounds) as update:
        for number in range(rounds):
            chosen = np.sort(
                numpy_generator(seed, "stability", number).permutation(len(rows))[: max(round(share * len(rows)), 1)]
            )
            part = rows[torch.from_numpy(chosen)]
            clusters = min(total, len(part))
            own = seed_from(seed, "stability", number)
            found = kmeans(part[shard(len(part))], clusters, seed=own, iterations=iterations)
            again = all_gather_rows(found.labels)
            jaccard[number] = _best_jaccard(known[chosen], again.numpy(), total)
            groups_again = _cuts(part, again, clusters, [min(count, clusters) for count in smaller])
            for place, (ours, theirs) in enumerate(zip(groups, groups_again, strict=True)):
                scores[number, place] = _agreement(ours[known[chosen]], theirs[again.numpy()])
            scores[number, -1] = _agreement(known[chosen], again.numpy())
            update(number + 1, "")
    means, spreads = scores.mean(0), scores.std(0)
    sizes = [np.bincount(group[known]) for group in groups] + [np.bincount(known)]
    agreements = [
        Agreement(count, float(mean[0]), float(spread[0]), float(mean[1]), float(spread[1]), *_shape(size))
        for count, mean, spread, size in zip([*smaller, total], means, spreads, sizes, strict=True)
    ]
    present = np.bincount(known, minlength=total) > 0
    return Stability(np.where(present, jaccard.mean(0), np.nan).tolist(), agreements, rounds)


def adjusted_rand(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """Adjusted Rand index of two labellings [N] (Hubert and Arabie 1985): 1 for the same partition, 0 on average for
    random ones."""

    def pairs(counts: NDArray[np.int64]) -> float:
        return float((counts.astype(np.float64) * (counts - 1) / 2).sum())

    both = np.unique(a * (int(b.max()) + 1) + b, return_counts=True)[1]
    together, first, second = pairs(both), pairs(np.bincount(a)), pairs(np.bincount(b))
    expected = first * second / max(len(a) * (len(a) - 1) / 2, 1)
    most = (first + second) / 2
    return 1.0 if most == expected else (together - expected) / (most - expected)


def _shape(sizes: NDArray[np.int64]) -> tuple[float, float]:
    # Share of the largest cluster, and entropy of the sizes relative to equal ones.
    shares = sizes[sizes > 0] / sizes.sum()
    entropy = float(-(shares * np.log(shares)).sum())
    return float(shares.max()), entropy / float(np.log(len(sizes))) if len(sizes) > 1 else 0.0


def _agreement(a: NDArray[np.int64], b: NDArray[np.int64]) -> tuple[float, float]:
    return nmi(a, b), adjusted_rand(a, b)


def _best_jaccard(known: NDArray[np.int64], again: NDArray[np.int64], total: int) -> NDArray[np.float64]:
    # Of each known cluster the largest |A and B| / |A or B| over the new ones; 0 where the part has nothing of it.
    width = int(again.max()) + 1
    cells, joint = np.unique(known * width + again, return_counts=True)
    sizes, others = np.bincount(known, minlength=total), np.bincount(again, minlength=width)
    ratio = joint / (sizes[cells // width] + others[cells % width] - joint)
    best = np.zeros(total)
    np.maximum.at(best, cells // width, ratio)
    return best


def _cuts(rows: torch.Tensor, labels: torch.Tensor, total: int, counts: Sequence[int]) -> list[NDArray[np.int64]]:
    # The group of each cluster, [total], when clusters are merged to each of `counts`. No tree where none is asked for:
    # of 10,000 clusters it takes a minute.
    if not counts:
        return []
    sizes = torch.bincount(labels, minlength=total)
    sums = torch.zeros(total, rows.shape[1], dtype=torch.float64).index_add_(0, labels.cpu(), rows.double().cpu())
    tree = merge_tree((sums / sizes.clamp(min=1)[:, None]).numpy(), sizes.numpy())
    return [tree.cut(count) for count in counts]
