"""A backbone as the body of a region detector: one map of the picture, one feature of every region.

Shapes: view [1, C, H, W], map [1, c, h, w], R regions [R, 4] as intervals in pixels of the view, region features [R, D].

Three kinds, told by what the backbone has:

- fully connected layers (AlexNet, VGG-16): regions of the last convolution's map are pooled to the size fc6 was built
  for, in the place of the backbone's last pool, and go through fc6 and fc7 (Fast R-CNN, section 2);
- four levels of residual blocks: regions of the third level's map go through the fourth and are averaged (He et al.
  2016, appendix A);
- anything else, such as `alexnet_small`: regions of the last map are pooled to 4×4 and go through one new layer of 512.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from unlabeled.errors import DataError
from unlabeled.evaluation.detection import boxes as arithmetic
from unlabeled.evaluation.voc_classification import Trained
from unlabeled.models.backbone import Backbone
from unlabeled.models.resnet import ResNet
from unlabeled.randomness import generator, seed_from

NEW_WIDTH = 512
"""Units of the layer that networks without fully connected ones get."""
_POOLED = {"residual": 14, "residual_small": 8, "plain": 4}


class RegionNetwork(nn.Module):
    """Maps and region features of `backbone`, which becomes part of this module: hand it a copy.

    Every batch normalisation keeps its statistics, scale and shift. With `train` "all" the first convolution of plain
    networks is fixed, and everything below the third level of residual ones (spec O12); with "fc" all convolutions are
    (DeepCluster, Table 2).
    """

    def __init__(self, backbone: Backbone, train: Trained, seed: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.is_residual = isinstance(backbone, ResNet)
        self.stage = backbone.stages[-2 if self.is_residual else -1]
        first = next(part for part in backbone.modules() if isinstance(part, nn.Conv2d))
        self._channels = self._picture_channels(first)
        self.map_channels, self.stride = self._measure()
        self.new: nn.Linear | None = None
        if self.is_residual:
            self.pooled = _POOLED["residual_small" if getattr(backbone, "small", False) else "residual"]
            self.region_dim = backbone.feature_dim
        elif isinstance(fc6 := getattr(backbone, "fc6", None), nn.Linear):
            self.pooled = math.isqrt(fc6.in_features // self.map_channels)
            self.region_dim = backbone.feature_dim
        else:
            self.pooled, self.region_dim = _POOLED["plain"], NEW_WIDTH
            self.new = nn.Linear(self.map_channels * self.pooled**2, NEW_WIDTH)
            nn.init.kaiming_normal_(self.new.weight, generator=generator(seed, "detection", "new layer"))
            nn.init.zeros_(self.new.bias)
        self._freeze(train)

    def map(self, view: torch.Tensor) -> torch.Tensor:
        """[1, c, h, w] of one picture [1, C, H, W], uint8 or floating in 0…1; or of several of one size."""
        if min(view.shape[2:]) < 2 * self.stride:
            raise DataError(
                f"a picture of {view.shape[2]} × {view.shape[3]} pixels is too small for this network, whose map has one "
                f"position in {self.stride}: give a larger --side, at least {4 * self.stride}."
            )
        for stage, x in self.backbone.trunk(self.backbone.stem(view)):
            if stage == self.stage:
                return x
        raise AssertionError(f"the trunk passed no stage {self.stage}")

    def regions(self, features: torch.Tensor, *boxes: torch.Tensor) -> torch.Tensor:
        """[R, D] after the last ReLU, of a map [1, c, h, w] and boxes [R, 4]; or of several maps and the boxes of each."""
        from torchvision.ops import roi_align, roi_pool

        size = (self.pooled, self.pooled)
        # Pooling kernels exist in float32 only on some devices, and coordinates need its precision.
        wide = features.float()
        if self.is_residual or self.new is not None:
            x = roi_align(wide, list(boxes), size, 1 / self.stride, sampling_ratio=2, aligned=True)
        else:
            x = roi_pool(wide, list(boxes), size, 1 / self.stride)
        x = x.to(features.dtype)
        if self.is_residual:
            last = self.backbone.get_submodule(self.backbone.stages[-1])
            return last(x).mean((2, 3))
        if self.new is not None:
            return functional.relu(self.new(x.flatten(1)))
        return self._fully_connected(x.flatten(1))

    def _fully_connected(self, x: torch.Tensor) -> torch.Tensor:
        for number in (6, 7):
            layer = getattr(self.backbone, f"fc{number}", None)
            if layer is None:
                continue
            x = layer(x)
            norm = getattr(self.backbone, f"norm{number}", None)
            x = norm(x) if norm is not None else x
            x = functional.dropout(functional.relu(x), 0.5, self.training)
        return x

    def _freeze(self, train: Trained) -> None:
        for part in self.backbone.modules():
            if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)) or (train == "fc" and isinstance(part, nn.Conv2d)):
                part.requires_grad_(requires_grad=False)
        if self.is_residual:
            for name in ("conv1", "bn1", "layer1", "layer2"):
                self.backbone.get_submodule(name).requires_grad_(requires_grad=False)
            return
        first = next(part for part in self.backbone.modules() if isinstance(part, nn.Conv2d))
        first.requires_grad_(requires_grad=False)

    def _picture_channels(self, first: nn.Conv2d) -> int:
        mean = getattr(getattr(self.backbone.stem, "normalize", None), "mean", None)
        return len(mean) if isinstance(mean, torch.Tensor) else first.in_channels

    @torch.no_grad()
    def _measure(self) -> tuple[int, int]:
        """Channels of the map, and pixels from one of its positions to the next: a power of two."""
        side, device = self.backbone.image_size, next(self.backbone.parameters()).device
        was_training = self.backbone.training
        self.backbone.eval()
        self.stride = 1
        found = self.map(torch.zeros(1, self._channels, side, side, device=device))
        self.backbone.train(was_training)
        return found.shape[1], 2 ** round(math.log2(side / found.shape[3]))


def nothing_learnt(module: nn.Module) -> torch.Tensor:
    """A loss of zero that every parameter of `module` which learns has a gradient of, so that ranks can average."""
    learning = [parameter.sum() for parameter in module.parameters() if parameter.requires_grad]
    return torch.stack(learning).sum() * 0


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
