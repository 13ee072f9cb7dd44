"""Faster R-CNN (Ren et al. 2015): the regions come from a network on the same map, trained along.

The region proposal network, its anchors and its losses are torchvision's; the second stage is `FastRcnn`.
"""

from __future__ import annotations

import torch

from unlabeled.evaluation.detection.fast_rcnn import REGIONS, FastRcnn, Objects
from unlabeled.evaluation.detection.network import RegionNetwork
from unlabeled.randomness import seed_from

ANCHORS = (64, 128, 256, 512)
"""Sides of the anchors at a short side of 600 pixels; the paper's three, and one for small objects (He et al. 2016)."""
SHAPES = (0.5, 1.0, 2.0)
"""Height over width of the anchors."""


class FasterRcnn(FastRcnn):
    """`FastRcnn` on regions of its own: 2,000 of a picture while it trains, 300 when it is tested, by NMS at .7."""

    background_from = 0.0

    def __init__(self, network: RegionNetwork, num_classes: int, seed: int, side: int, count: int = REGIONS) -> None:
        from torchvision.models.detection.anchor_utils import AnchorGenerator
        from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

        super().__init__(network, num_classes, seed, count)
        sizes = tuple(max(4, round(anchor * side / 600)) for anchor in ANCHORS)
        anchors = AnchorGenerator((sizes,), (SHAPES,))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_from(seed, "detection", "proposal network"))
            head = RPNHead(network.map_channels, anchors.num_anchors_per_location()[0])
        self.rpn = RegionProposalNetwork(
            anchors,
            head,
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 12000, "testing": 6000},
            post_nms_top_n={"training": 2000, "testing": 300},
            nms_thresh=0.7,
        )

    def loss(self, view: torch.Tensor, objects: Objects, given: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        """Loss of one picture, both stages together ("approximate joint training"); `given` is not used.

        torchvision draws anchors from torch's own generator: seed it.
        """
        features = self.network.map(view)
        regions, parts = self._propose(features, view, objects)
        return self.region_loss(features, objects, regions, random) + torch.stack(list(parts.values())).sum()

    @torch.no_grad()
    def detect(self, view: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        """Detections [m, 6] of one picture (class, score, box), best first; `given` is not used."""
        features = self.network.map(view)
        regions, _ = self._propose(features, view, None)
        return self.classify(features, regions, view.shape[2], view.shape[3])

    def _propose(
        self, features: torch.Tensor, view: torch.Tensor, objects: Objects | None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        from torchvision.models.detection.image_list import ImageList

        height, width = view.shape[2:]
        images = ImageList(view, [(int(height), int(width))])
        targets = [{"boxes": objects.boxes}] if objects is not None else None
        # Anchors and their losses want float32 throughout.
        with torch.autocast(features.device.type, enabled=False):
            found, losses = self.rpn(images, {"0": features.float()}, targets)
        return found[0].detach(), losses
