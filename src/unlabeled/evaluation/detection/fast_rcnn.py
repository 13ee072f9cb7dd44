"""Fast R-CNN (Girshick 2015): regions that are given, a class and a moved box for each.

Shapes: view [1, C, H, W]; regions [R, 4] as intervals in pixels of the view; n objects; C classes without background,
which is the last column of the scores, so that class numbers stay what they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from unlabeled.evaluation.detection import boxes as arithmetic
from unlabeled.evaluation.detection.network import RegionNetwork, nothing_learnt
from unlabeled.randomness import generator

DetectorName = Literal["fast", "faster"]

REGIONS = 64
"""Regions of a picture that a step learns from (Fast R-CNN, section 2.3)."""


@dataclass(frozen=True)
class Objects:
    """What is in a picture, as intervals in pixels of the view."""

    boxes: torch.Tensor
    """float [n, 4], each with an area."""
    labels: torch.Tensor
    """int64 [n]."""


class FastRcnn(nn.Module):
    """Region features, a class layer and a box layer with one box a class (Fast R-CNN, section 2).

    New layers begin as in the paper, normal with deviation .01 (classes) and .001 (boxes).
    """

    background_from = 0.1
    """Least overlap of a region that is learnt as background."""

    def __init__(self, network: RegionNetwork, num_classes: int, seed: int, count: int = REGIONS) -> None:
        super().__init__()
        self.network, self.num_classes, self.count = network, num_classes, count
        self.classes = nn.Linear(network.region_dim, num_classes + 1)
        self.moves = nn.Linear(network.region_dim, 4 * num_classes)
        for name, layer, deviation in (("classes", self.classes, 0.01), ("moves", self.moves, 0.001)):
            nn.init.normal_(layer.weight, 0, deviation, generator=generator(seed, "detection", name))
            nn.init.zeros_(layer.bias)

    def loss(self, view: torch.Tensor, objects: Objects, given: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        """Loss of one picture: cross-entropy, plus smooth L1 over the boxes of foreground regions (equations 1 to 3).

        given: proposals [m, 4]; the objects themselves are added. random: which regions are drawn.
        """
        features = self.network.map(view)
        return self.region_loss(features, objects, given, random)

    def region_loss(
        self, features: torch.Tensor, objects: Objects, given: torch.Tensor, random: torch.Generator
    ) -> torch.Tensor:
        """The loss of the second stage, of a map [1, c, h, w]."""
        regions = torch.cat([given, objects.boxes])
        best, which = arithmetic.match(regions, objects.boxes)
        foreground, background = arithmetic.sample(best, self.count, random, background_from=self.background_from)
        rows = torch.cat([foreground, background]).to(regions.device)
        if not len(rows):
            return nothing_learnt(self)  # no proposals and no objects
        scores, moves = self.heads(features, regions[rows])
        front = rows[: len(foreground)]
        kind = objects.labels[which[front]] if len(front) else objects.labels[:0]
        wanted = torch.full((len(rows),), self.num_classes, device=scores.device)
        wanted[: len(front)] = kind
        # Rows of foreground come first; each moves by the box of its own class.
        moved = moves[torch.arange(len(front), device=kind.device), kind]
        aim = arithmetic.encode(regions[front], objects.boxes[which[front]]) if len(front) else moved.detach()
        shift = functional.smooth_l1_loss(moved, aim, reduction="sum") / len(rows)
        return functional.cross_entropy(scores, wanted) + shift

    def heads(self, features: torch.Tensor, regions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores before the softmax [R, C + 1] and box moves [R, C, 4], float32."""
        x = self.network.regions(features, regions)
        return self.classes(x).float(), self.moves(x).float().view(-1, self.num_classes, 4)

    @torch.no_grad()
    def detect(self, view: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        """Detections [m, 6] of one picture (class, score, box), best first."""
        features = self.network.map(view)
        return self.classify(features, given, view.shape[2], view.shape[3])

    def classify(self, features: torch.Tensor, regions: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Detections [m, 6] from a map and regions [R, 4]."""
        scores, moves = self.heads(features, regions)
        found = arithmetic.clip(arithmetic.decode(moves, regions), height, width)
        return arithmetic.keep_best(scores.softmax(1)[:, :-1], found)
