"""What every method shares: the target table and the times at which a method may act.

Follow the data: image index -> view -> network -> output z -> loss(z, target[index]) -> step -> table. The index is part of
every batch, so nothing else needs to know which method runs. A method is a torch Module whose table, codes or bank are
buffers: `state_dict()` is the whole story.

Shapes: N images, B batch, D feature dimensions, K outputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from unlabeled.models import Backbone
from unlabeled.randomness import generator

Embed = Callable[[], torch.Tensor]
"""Gives this rank's features, [n, D] float32, in index order."""


class Method(nn.Module):
    """A backbone, a head and a table of targets. Hooks are named by the time they run; the default ones do nothing."""

    backbone: Backbone
    head: nn.Module

    def __init__(self, backbone: Backbone, num_images: int, seed: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_images = num_images
        self.seed = seed

    def network(self) -> nn.Sequential:
        """Backbone and head as one module: all that the optimizer and other ranks see."""
        return nn.Sequential(self.backbone, self.head)

    def before_epoch(self, epoch: int, embed: Embed) -> None:
        """Rewrite every row of the table, from features of all images.

        `embed` comes first: it may raise `Interrupted`, and the method is then saved as it was before this epoch.
        """

    def draw(self, epoch: int) -> torch.Tensor:
        """Which images this epoch shows, in which order: int64 [M], the same on every rank. A permutation unless overridden."""
        return torch.randperm(self.num_images, generator=generator(self.seed, "draw", epoch))

    def targets(self, index: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Rows of the table for these images: [B, ...]."""
        raise TypeError(f"{type(self).__name__} must say what its targets are")

    def loss(self, z: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Scalar loss of outputs [B, K] against their targets."""
        raise TypeError(f"{type(self).__name__} must say what its loss is")

    def after_step(self, index: torch.Tensor, z: torch.Tensor) -> None:
        """Rewrite the rows of the images just seen."""

    def summary(self) -> dict[str, float]:
        """Numbers about the table for the journal, after an epoch."""
        return {}
