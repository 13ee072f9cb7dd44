"""DeepCluster (Caron et al., ECCV 2018): cluster the features, learn to predict the clusters, repeat.

The row of image i is the id of its cluster. All rows are rewritten before an epoch: features of every image from the
central view, PCA-whitening and L2 normalisation (section 3.4), then k-means (equation 2) or another clustering
(`Clusterer`). The head is then made anew, as wide as there are clusters, because cluster 7 of this epoch has nothing to
do with cluster 7 of the last. Two trivial solutions are avoided as in section 3.3: empty clusters are refilled, and
images are drawn uniformly over clusters.

Shapes: N images, m of them clustered, n rows of this rank, B batch, D feature dimensions, K clusters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from unlabeled import diagnostics, losses, metrics
from unlabeled.config import Config
from unlabeled.data import samplers
from unlabeled.distributed import all_gather_rows, world_size
from unlabeled.methods.base import Embed, Method, check_subset
from unlabeled.methods.clustering import Clusterer
from unlabeled.models import Backbone, LinearHead, linear_head
from unlabeled.models.heads import answers, restrict, restricted_loss
from unlabeled.randomness import generator, seed_from

STATISTICS = (
    *("num_clusters", "empty_clusters", "singletons", "largest_share", "size_entropy", "chance_loss", "nmi_previous"),
    *("moved_share", "labelled_share", "feature_std", "mean_cosine", "effective_rank", "pca_first_share"),
    *("zeros_after_relu", "pic_singletons", "inertia", "pca_share_10", "pca_share_kept", "uniformity", "dead_dims"),
)
"""Numbers about the last clustering, in the order of the buffer that carries them through a checkpoint."""

UNKNOWN = math.inf
"""Stands for a number that this clustering does not have; unlike nan it is equal to itself when runs are compared."""

COUNTS = ("num_clusters", "empty_clusters", "singletons", "pic_singletons")
"""Those of them that are whole numbers."""

STATISTICS_ROWS = 4096
"""Rows of this rank whose spread is measured: enough for two digits, cheap at any size."""

TYPICAL_IMAGES = 512
"""Images that the stable rate of a head is measured on."""


class DeepCluster(Method):
    """Targets are cluster ids: `labels`, int64 [N]; -1 before the first clustering and for images that are in none."""

    labels: torch.Tensor
    statistics: torch.Tensor
    predicted: torch.Tensor

    def __init__(self, backbone: Backbone, num_images: int, config: Config) -> None:
        """Raises ConfigError where there are more clusters, neighbours or sampled images than images."""
        super().__init__(backbone, num_images, config.seed)
        self.config = config
        check_subset(config.subset, num_images)
        self.clusterer = Clusterer(config)
        self.clusterer.check(num_images if config.subset_mode == "mismatched" else config.subset or num_images)
        self.head = self._fresh_head(-1, config.num_clusters)
        self.register_buffer("labels", torch.full((num_images,), -1, dtype=torch.int64))
        self.register_buffer("statistics", torch.full((len(STATISTICS),), UNKNOWN, dtype=torch.float64))
        self.register_buffer("predicted", torch.zeros(config.num_clusters, dtype=torch.int64))
        self._weights: torch.Tensor | None = None

    @property
    def images_per_epoch(self) -> int:
        """All images or those of `subset`; with a `reassign_every` that is not whole so many times as many (spec O04)."""
        share = self.config.reassign_every / self.config.clustering_period
        return max(1, int(share * (self.config.subset or self.num_images)))

    def assignment(self, epoch: int) -> torch.Tensor | None:
        """`labels` [N], in epochs that begin with a clustering."""
        return self.labels if self.config.clusters_before(epoch) else None

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take over what `state_dict` gave; the head becomes as wide as the stored one."""
        self.head = self._fresh_head(-1, len(state_dict["head.linear.weight"])).to(self.labels.device)
        self.predicted = self.predicted.new_zeros(len(state_dict["predicted"]))
        self._weights = None
        return super().load_state_dict(state_dict, strict, assign)

    def before_epoch(self, epoch: int, embed: Embed) -> None:
        """Every `reassign_every` epochs: new clusters, hence new targets and a new head.

        Not for a last, shorter stretch: a head that is given no time to learn teaches the network nothing.
        """
        if not self.config.clusters_before(epoch):
            self.predicted.zero_()
            return
        chosen = None if self.config.subset_mode == "mismatched" else self._subset(epoch)
        features = embed(chosen)
        some = all_gather_rows(features[:STATISTICS_ROWS])[:STATISTICS_ROWS]
        numbers = diagnostics.feature_statistics(some)
        zeros = (features[:STATISTICS_ROWS] <= 0).double().mean().reshape(1)
        numbers["zeros_after_relu"] = float(all_gather_rows(zeros).mean())
        found = self.clusterer.cluster(features, seed_from(self.seed, "clustering", epoch))
        labels = torch.full_like(self.labels, -1)
        labels[slice(None) if chosen is None else chosen] = found.labels.to(labels.device)
        numbers |= diagnostics.cluster_statistics(labels, found.num_clusters, self.labels if epoch else None)
        numbers |= found.numbers | {"labelled_share": float((labels >= 0).double().mean())}
        if self.config.loss_subset:
            numbers["chance_loss"] = min(numbers["chance_loss"], math.log(self.config.loss_subset))
        self.statistics.copy_(torch.tensor([numbers.get(name, UNKNOWN) for name in STATISTICS]))
        self.labels.copy_(labels)
        self._weights = None
        head = self._fresh_head(epoch, found.num_clusters)
        head.expect(all_gather_rows(embed(self._typical(chosen), as_trained=True)))
        self.head = head.to(self.labels.device)
        self.predicted = self.predicted.new_zeros(found.num_clusters)

    def _typical(self, chosen: torch.Tensor | None) -> torch.Tensor:
        """Images the head's stable rate is measured on, whole batches on every rank: evaluation features of a network whose
        running statistics are still those it was born with may be many times smaller than those it is trained on."""
        whole = self.config.batch_size * world_size()
        images = torch.arange(self.num_images) if chosen is None else chosen.cpu()
        count = min(len(images), max(TYPICAL_IMAGES // whole, 1) * whole)
        return images[torch.linspace(0, len(images) - 1, count).round().long()]

    def draw(self, epoch: int) -> torch.Tensor:
        """Uniform over clusters (section 3.3), or each image once where the recipe says so; never an unlabelled one."""
        random, count = generator(self.seed, "draw", epoch), self.images_per_epoch
        labels = self.labels.cpu()
        chosen = self._subset(epoch) if self.config.subset_mode == "mismatched" else None
        if chosen is not None:
            labels = torch.full_like(labels, -1).index_copy_(0, chosen, labels[chosen])
        if self.config.sampling == "uniform":
            return samplers.uniform_over_clusters(labels, count, random)
        if self.config.sampling == "cluster_then_member":
            return samplers.cluster_then_member(labels, count, random)
        labelled = (labels >= 0).nonzero()[:, 0]
        return labelled[samplers.natural(len(labelled), count, random)]

    def before_step(self, index: torch.Tensor) -> None:
        """With `loss_subset`, choose the classes of this step: those of the batch and random others (section 4.7)."""
        restrict(self._top, self.labels[index], self.config.loss_subset, index, self.seed)

    def targets(self, index: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Cluster ids [B] of these images."""
        return self.labels[index]

    def loss(self, z: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of logits [B, K]; with `sampling = weighted` each term is divided by its cluster's size."""
        if self._top.classes is not None:
            return restricted_loss(self._top, z, target)
        if self.config.sampling == "weighted":
            if self._weights is None:
                # Once a clustering: counting a million labels takes as long as a step.
                self._weights = samplers.cluster_weights(self.labels, self._top.linear.out_features)
            return losses.weighted_cross_entropy(z, target, self._weights)
        return losses.cross_entropy(z, target)

    def after_step(self, index: torch.Tensor, z: torch.Tensor) -> None:
        """Count which clusters the network answers with; the table stays."""
        answer = all_gather_rows(answers(self._top, z))
        self.predicted.index_add_(0, answer, torch.ones_like(answer))

    def summary(self) -> dict[str, float]:
        """Sizes, stability and spread at the last clustering, numbers not known yet left out; and this epoch's answers.

        `prediction_share`: of the views, how many were given the commonest answer; `prediction_entropy`: of the answers,
        over ln K. In the trivial solution of section 3.3 every image is given the same answer.
        """
        values = zip(STATISTICS, self.statistics.tolist(), strict=True)
        result: dict[str, float] = {
            name: int(value) if name in COUNTS else value for name, value in values if value != UNKNOWN
        }
        total = int(self.predicted.sum())
        if total:
            result["prediction_share"] = int(self.predicted.max()) / total
            result["prediction_entropy"] = metrics.relative_entropy_of_sizes(self.predicted)
        return result

    @property
    def _top(self) -> LinearHead:
        assert isinstance(self.head, LinearHead)
        return self.head

    def _subset(self, epoch: int) -> torch.Tensor | None:
        """The images that this epoch may show, rising int64 [m]; None where it may show all."""
        if not self.config.subset:
            return None
        time = {"same": 0, "resampled": epoch - epoch % self.config.clustering_period, "mismatched": epoch}
        random = generator(self.seed, "subset", time[self.config.subset_mode])
        return samplers.subset(self.num_images, self.config.subset, random)

    @staticmethod
    def facts(config: Config) -> dict[str, str]:
        """What makes the clusters, how many and how often."""
        number = {"clusters": f"{config.num_clusters:,}"} if config.clustering == "kmeans" else {}
        every = f"{config.reassign_every:g} epoch{'' if config.reassign_every == 1 else 's'}"
        return {"clustering": config.clustering, **number, "new clusters every": every}

    def _fresh_head(self, epoch: int, outputs: int) -> LinearHead:
        # Keyed by the epoch: the same weights on every rank, whatever was drawn before.
        random = generator(self.seed, "head", epoch)
        return linear_head(self.backbone, outputs, relu=self.config.head == "linear", generator=random)
