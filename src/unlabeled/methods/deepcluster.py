"""DeepCluster (Caron et al., ECCV 2018): cluster the features, learn to predict the clusters, repeat.

The row of image i is the id of its cluster. All rows are rewritten before an epoch: features of every image from the
central view, PCA-whitening and L2 normalisation (section 3.4), k-means (equation 2). The head is then made anew, because
cluster 7 of this epoch has nothing to do with cluster 7 of the last. Two trivial solutions are avoided as in section 3.3:
empty clusters are refilled, and images are drawn uniformly over clusters.

Shapes: N images, n rows of this rank, B batch, D feature dimensions, K clusters.
"""

from __future__ import annotations

import math

import torch

from unlabeled import health, losses
from unlabeled.cluster import whitening
from unlabeled.cluster.kmeans import kmeans
from unlabeled.config import Config
from unlabeled.data import samplers
from unlabeled.distributed import all_gather_rows
from unlabeled.errors import ConfigError
from unlabeled.methods.base import Embed, Method
from unlabeled.models import Backbone
from unlabeled.models.heads import linear_head
from unlabeled.randomness import generator, seed_from

STATISTICS = (
    *("num_clusters", "empty_clusters", "singletons", "largest_share", "size_entropy", "chance_loss", "nmi_previous"),
    *("moved_share", "feature_std", "mean_cosine", "effective_rank", "inertia"),
)
"""Numbers about the last clustering, in the order of the buffer that carries them through a checkpoint."""

STATISTICS_ROWS = 4096
"""Rows of this rank whose spread is measured: enough for two digits, cheap at any size."""


class DeepCluster(Method):
    """Targets are cluster ids: `labels`, int64 [N], -1 before the first clustering."""

    labels: torch.Tensor
    statistics: torch.Tensor

    def __init__(self, backbone: Backbone, num_images: int, config: Config) -> None:
        """Raises ConfigError where there are more clusters than images."""
        if config.num_clusters > num_images:
            raise ConfigError(
                f"num_clusters ({config.num_clusters:,}) must be at most the number of images ({num_images:,}); "
                f"try `--num-clusters {max(2, num_images // 30)}`."
            )
        super().__init__(backbone, num_images, config.seed)
        self.config = config
        self.head = self._fresh_head(epoch=-1)
        self.register_buffer("labels", torch.full((num_images,), -1, dtype=torch.int64))
        self.register_buffer("statistics", torch.full((len(STATISTICS),), math.nan, dtype=torch.float64))

    def before_epoch(self, epoch: int, embed: Embed) -> None:
        """Every `reassign_every` epochs: new clusters, hence new targets and a new head."""
        if epoch % self.config.reassign_every:
            return
        features = embed()
        labels, inertia = self._cluster(features, epoch)
        previous = self.labels if epoch else None
        numbers = health.cluster_statistics(labels, self.config.num_clusters, previous)
        numbers |= health.feature_statistics(all_gather_rows(features[:STATISTICS_ROWS])[:STATISTICS_ROWS])
        numbers["inertia"] = inertia
        self.statistics.copy_(torch.tensor([numbers.get(name, math.nan) for name in STATISTICS]))
        self.labels.copy_(labels)
        self.head = self._fresh_head(epoch).to(self.labels.device)

    def draw(self, epoch: int) -> torch.Tensor:
        """Uniform over clusters (section 3.3), or each image once where the recipe says so."""
        random = generator(self.seed, "draw", epoch)
        if self.config.sampling == "uniform":
            return samplers.uniform_over_clusters(self.labels.cpu(), self.num_images, random)
        return samplers.natural(self.num_images, self.num_images, random)

    def targets(self, index: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Cluster ids [B] of these images."""
        return self.labels[index]

    def loss(self, z: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of logits [B, K]; with `sampling = weighted` each term is divided by its cluster's size."""
        if self.config.sampling == "weighted":
            weights = samplers.cluster_weights(self.labels, self.config.num_clusters)
            return losses.weighted_cross_entropy(z, target, weights)
        return losses.cross_entropy(z, target)

    def summary(self) -> dict[str, float]:
        """Sizes, stability and spread at the last clustering; numbers not known yet are left out."""
        values = zip(STATISTICS, self.statistics.tolist(), strict=True)
        return {name: value for name, value in values if not math.isnan(value)}

    def _cluster(self, features: torch.Tensor, epoch: int) -> tuple[torch.Tensor, float]:
        config = self.config
        seed = seed_from(config.seed, "clustering", epoch)
        fitted = whitening.fit(features, config.pca_dims, whiten=config.whiten, seed=seed)
        rows = fitted.apply(features, normalize_rows=config.normalize_rows)
        found = kmeans(
            rows, config.num_clusters, seed=seed, iterations=config.kmeans_iterations, empty=config.empty_clusters
        )
        return all_gather_rows(found.labels), found.inertia[-1] / self.num_images

    def _fresh_head(self, epoch: int) -> torch.nn.Module:
        # Keyed by the epoch: the same weights on every rank, whatever was drawn before.
        random = generator(self.seed, "head", epoch)
        return linear_head(self.backbone, self.config.num_clusters, generator=random)
