"""A score without labels: are an image's neighbors the same when it is seen through another view?

For each image the k nearest among the central views of the others are found twice, from its own central view and from an
augmented view. Consistency is the mean share of neighbors that both have in common. Chance, k / (n - 1), is what random
features reach. It says that features hold what survives cropping and color changes, not that they tell kinds apart.

Shapes: n images, D feature dimensions.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from unlabeled.cluster.neighbors import nearest_others
from unlabeled.errors import DataError

NEIGHBORS = 10


@dataclass(frozen=True)
class Consistency:
    """What was found, as shares."""

    trained: float
    untrained: float
    chance: float
    images: int
    neighbors: int

    def to_json(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self)


def consistency(central: torch.Tensor, view: torch.Tensor, k: int = NEIGHBORS) -> float:
    """Share of the k nearest others [n, D] that the central and an augmented view of an image have in common.

    Raises:
        DataError: fewer than three images, or another number of views.
    """
    if len(central) != len(view) or len(central) < 3:
        raise DataError(f"consistency needs two views of at least 3 images, got {len(central)} and {len(view)}.")
    own = torch.arange(len(central))
    k = min(k, len(central) - 2)
    first, second = (nearest_others(central, rows, own, k).index for rows in (central, view))
    return float((first[:, :, None] == second[:, None, :]).any(2).double().mean())
