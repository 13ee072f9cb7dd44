"""How often the largest cluster is drawn in an epoch: our sampler, the paper's intention, and the released code's slip.

Shapes: N images, K clusters; labels int64 [N].
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from unlabeled.data.samplers import natural, uniform_over_clusters
from unlabeled.randomness import generator

IMAGES, CLUSTERS = 20_000, 100

Draw = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
"""Labels and randomness to the images of an epoch, int64 [N]."""


def uniform(labels: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Every cluster equally often, as the paper says (DeepCluster, section 3.3)."""
    return uniform_over_clusters(labels, len(labels), random)


def released_indexing(labels: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """The slip described in spec trap 13b.

    Positions are drawn uniformly over clusters, but they are positions of images in the data set, while the data set that is
    indexed with them holds the images cluster by cluster: what comes out is whichever image stands there.
    """
    in_cluster_order = labels.argsort(stable=True)
    return in_cluster_order[uniform(labels, random)]


def every_image(labels: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Every image once."""
    return natural(len(labels), len(labels), random)


DRAWS: dict[str, Draw] = {
    "every image once": every_image,
    "released indexing": released_indexing,
    "uniform draw": uniform,
}


def share_of_largest(seed: int, how: Draw) -> dict[str, float]:
    """`largest_cluster`: share of images in the largest cluster; `largest_drawn`: its share of an epoch."""
    labels = zipf_labels(seed)
    sizes = torch.bincount(labels, minlength=CLUSTERS)
    drawn = torch.bincount(labels[how(labels, generator(seed, "draws"))], minlength=CLUSTERS)
    largest = int(sizes.argmax())
    return {"largest_cluster": float(sizes[largest]) / IMAGES, "largest_drawn": float(drawn[largest]) / IMAGES}


def zipf_labels(seed: int) -> torch.Tensor:
    """Clusters of 20,000 images in 100 clusters as frequent as 1, 1/2, 1/3 …, in random order."""
    weights = 1 / torch.arange(1, CLUSTERS + 1, dtype=torch.float64)
    return torch.multinomial(weights, IMAGES, replacement=True, generator=generator(seed, "zipf labels"))
