"""From features to pseudo-labels: preparation and one of four clusterings, the same labels on every rank.

Shapes: m images clustered, n rows of this rank, D feature dimensions, d after PCA, K clusters.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from unlabeled.cluster import whitening
from unlabeled.cluster.graph import cliques, knn_graph
from unlabeled.cluster.kmeans import kmeans
from unlabeled.cluster.pic import pic, power_embedding
from unlabeled.config import Config
from unlabeled.distributed import all_gather_rows, broadcast, shard
from unlabeled.errors import ConfigError, DataError
from unlabeled.features import allocate

FINDS_K = ("pic", "cliques")
"""Clusterings whose number of clusters is not set beforehand."""

_CHUNK = 65536


@dataclass(frozen=True)
class ClusteringResult:
    """Clusters of m images."""

    labels: torch.Tensor
    """[m] int64 on every rank; -1 = in no cluster."""
    num_clusters: int
    """K, clusters that hold no image included."""
    numbers: dict[str, float] = field(default_factory=dict[str, float])
    """Facts for the journal."""


def spectrum_shares(fitted: whitening.Whitening) -> dict[str, float]:
    """Share of the variance in the first, the first ten and all kept dimensions (thesis, figure 4.3; spec A08)."""
    shares = fitted.eigenvalues.double().cumsum(0) / fitted.total_variance
    return {
        "pca_first_share": float(shares[0]),
        "pca_share_10": float(shares[: min(10, len(shares))][-1]),
        "pca_share_kept": float(shares[-1]),
    }


class Clusterer:
    """`config.clustering` with its settings."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self, count: int) -> None:
        """Raise ConfigError if the settings cannot cluster `count` images."""
        config = self.config
        if config.clustering not in FINDS_K and config.num_clusters < 2 <= count:
            raise ConfigError(
                "num_clusters must be at least 2, got 1: one cluster is the same target for every image, from which nothing is "
                "learned; leave it out for the recipe's."
            )
        if config.clustering not in FINDS_K and config.num_clusters > count:
            raise ConfigError(
                f"num_clusters ({config.num_clusters:,}) must be at most the number of images clustered ({count:,}); "
                f"try `--num-clusters {max(2, count // 30)}`."
            )
        if config.clustering != "kmeans" and config.graph_neighbors >= count:
            raise ConfigError(
                f"graph_neighbors ({config.graph_neighbors}) must be below the number of images clustered ({count:,}); "
                "lower it, or cluster with kmeans."
            )

    def cluster(self, features: torch.Tensor, seed: int) -> ClusteringResult:
        """Cluster the features of all ranks, [n, D] of them here.

        Raises:
            DataError: the clustering finds no cluster at all.
        """
        config = self.config
        fitted = fit_space(features, config, seed)
        rows = allocate(len(features), fitted.dims)
        for start in range(0, len(rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            rows[part] = fitted.apply(features[part], normalize_rows=config.normalize_rows)
        # Identical images have no variance to share out.
        varies = config.pca_dims and fitted.total_variance > 0
        numbers = spectrum_shares(fitted) if varies else {}
        if config.clustering == "kmeans":
            return self._kmeans(rows, seed, numbers)
        neighbors, distances = (all_gather_rows(part) for part in knn_graph(rows, config.graph_neighbors))
        if config.clustering == "pic_lin_cohen":
            line = power_embedding(neighbors, distances, bandwidth=config.bandwidth, iterations=config.pic_iterations)
            return self._kmeans(broadcast(line)[shard(len(line))].float()[:, None], seed, numbers)
        if config.clustering == "cliques":
            labels = cliques(neighbors).labels
        else:
            found = pic(
                neighbors,
                distances,
                bandwidth=config.bandwidth,
                damping=config.damping,
                iterations=config.pic_iterations,
                singletons=config.singletons,
            )
            labels, numbers["pic_singletons"] = found.labels, float(found.num_singletons)
        # Every rank computed the same; a difference in the last bit of an exponential would still part them for ever.
        labels = broadcast(labels)
        if int(labels.max()) < 0:
            raise DataError(
                f"{config.clustering} left every one of {len(labels):,} images alone, so there is nothing to learn: raise "
                f"graph_neighbors (now {config.graph_neighbors})"
                + (
                    "."
                    if config.clustering == "cliques"
                    else f", or bandwidth (now {config.bandwidth:g}), or attach singletons."
                )
            )
        return ClusteringResult(labels, int(labels.max()) + 1, numbers)

    def _kmeans(self, rows: torch.Tensor, seed: int, numbers: dict[str, float]) -> ClusteringResult:
        config = self.config
        found = kmeans(
            rows, config.num_clusters, seed=seed, iterations=config.kmeans_iterations, empty=config.empty_clusters
        )
        labels = all_gather_rows(found.labels)
        return ClusteringResult(labels, config.num_clusters, numbers | {"inertia": found.inertia[-1] / len(labels)})


def fit_space(features: torch.Tensor, config: Config, seed: int) -> whitening.Whitening:
    """The map from features, [n, D] of them on this rank, to the space that `config` clusters them in (section 3.4).

    Raises DataError for features that are not finite.
    """
    after = config.feature == "after_relu"
    return whitening.fit(features, config.pca_dims, whiten=config.whiten, rectify=after, seed=seed)
