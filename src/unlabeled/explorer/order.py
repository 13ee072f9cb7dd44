"""The images of a run in the order a person looks at them: cluster by cluster, the most typical first.

Sorted once, so that any page of any cluster is a slice, with a million images as with a hundred.
Shapes: N images, D feature dimensions, K clusters.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from unlabeled.cluster.neighbors import nearest_neighbors, nearest_others
from unlabeled.errors import DataError
from unlabeled.runs.index import Catalogue

ClusterOrder = Literal["size", "tightness", "number"]
MemberOrder = Literal["typical", "far"]


class Order:
    """Clusters and their members, and what is nearest to what."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        clusters, distances = catalogue.clusters.numpy(), catalogue.distances.numpy()
        self.sizes: NDArray[np.int64] = np.bincount(clusters, minlength=len(catalogue.centroids))
        """Images of each cluster [K]."""
        total = np.bincount(clusters, weights=distances, minlength=len(self.sizes))
        self.tightness: NDArray[np.float64] = total / np.maximum(self.sizes, 1)
        """Mean distance of each cluster's images to its centre [K]; small is tight."""
        self._members = np.lexsort((distances, clusters))
        self._ends = np.cumsum(self.sizes)

    def clusters(self, by: ClusterOrder) -> NDArray[np.int64]:
        """Numbers of the clusters that hold something: largest, tightest or lowest number first."""
        key = {"size": -self.sizes, "tightness": self.tightness, "number": np.arange(len(self.sizes))}[by]
        ordered = np.argsort(key, kind="stable")
        return ordered[self.sizes[ordered] > 0]

    def members(self, cluster: int, by: MemberOrder = "typical") -> NDArray[np.int64]:
        """Indices of the images of a cluster, nearest to its centre first, or farthest first."""
        end = int(self._ends[cluster])
        found = self._members[end - int(self.sizes[cluster]) : end]
        return found if by == "typical" else found[::-1]

    def alike(self, cluster: int, count: int) -> list[int]:
        """The clusters whose centres are nearest to that of `cluster`, nearest first."""
        centres = self._catalogue.centroids.float()
        distances = (centres - centres[cluster]).square().sum(1).numpy()
        distances[self.sizes == 0] = math.inf
        distances[cluster] = math.inf
        nearest = np.argsort(distances, kind="stable")[:count]
        return [int(other) for other in nearest if math.isfinite(distances[other])]

    def nearest(self, feature: torch.Tensor, count: int, without: int = -1) -> list[tuple[int, float]]:
        """The `count` images most similar to a feature [D], best first: (index, cosine); `without` one of them.

        Exact. Equally similar images come in the order of their index. Raises DataError for a feature that is not finite.
        """
        if not bool(feature.isfinite().all()):
            raise DataError("the network gives no finite numbers for this image, so nothing can be compared with it.")
        rows, query = self._catalogue.features, feature[None]
        if without < 0:
            found = nearest_neighbors(rows, query, count)
        else:
            found = nearest_others(rows, query, torch.tensor([without]), count)
        return list(zip(found.index[0].tolist(), found.similarity[0].tolist(), strict=True))
