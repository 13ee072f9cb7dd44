"""The share of nearest-neighbour edges that stay inside a class: a look at features that needs no classifier.

The thesis, section 4.1: the directed graph of the 10 nearest neighbours (Euclidean, the image itself left out) of the
descriptors that are clustered. For class c, the edges i -> j with both ends in c over the edges that begin in c; then
the mean over classes. Published values on images of 250 ImageNet classes: 0.4 % for a random graph, which is 1 / 250,
and 3.0 % for a random AlexNet. For such a subset of classes give the rows of their images alone.

Shapes: N images, D feature dimensions, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from unlabeled import metrics
from unlabeled.cluster.graph import knn_graph
from unlabeled.distributed import alone
from unlabeled.errors import DataError

NEIGHBORS = 10
"""Neighbours of each image, as in the thesis."""


@dataclass(frozen=True)
class EdgeRatioProtocol:
    """Edge ratio of labelled features: `run()` yields (metric, value) with values as fractions.

    Images whose label is -1 stay in the graph: edges to them leave the class, edges from them are not counted.
    """

    features: torch.Tensor
    """The rows that are clustered (whitened, of length one), [N, D]."""
    labels: torch.Tensor
    """Classes, int64 [N]."""
    neighbors: int = NEIGHBORS
    """k of the graph."""

    def run(self) -> Iterator[tuple[str, float]]:
        """`edge_ratio`, its `edge_ratio_median` over classes, and `edge_ratio_chance`, that of a random graph."""
        ratios = self.per_class()
        held = ratios[~np.isnan(ratios)]
        yield "edge_ratio", float(held.mean())
        yield "edge_ratio_median", float(np.median(held))
        yield "edge_ratio_chance", self.chance()

    def per_class(self) -> np.ndarray:
        """Ratio of each class, float64 [C]; nan for a class that no image has.

        Raises DataError if features and labels do not fit or no image has a class.
        """
        if len(self.features) != len(self.labels):
            raise DataError(
                f"every image needs one label, got {len(self.features)} features and {len(self.labels)} labels."
            )
        # Every rank has all rows, where the graph of a clustering is made of shards.
        with alone():
            neighbors, _ = knn_graph(self.features, min(self.neighbors, len(self.features) - 1))
        return metrics.edge_ratio(neighbors, self.labels).per_class

    def chance(self) -> float:
        """Expected ratio if every image named random others: the mean over classes of (size - 1) / (N - 1)."""
        known = self.labels[self.labels >= 0]
        sizes = torch.bincount(known).double().numpy()
        return float(((sizes[sizes > 0] - 1) / max(len(self.labels) - 1, 1)).mean())
