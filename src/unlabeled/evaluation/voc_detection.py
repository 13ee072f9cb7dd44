"""Object detection on a dataset in VOC layout: a backbone fine-tuned as a region detector, mean average precision.

Corresponds to DeepCluster Table 2 (detection, fc6-8 and all) and Table 4, thesis Table 5.5, Noise As Targets Table 4
(Fast R-CNN; AlexNet, VGG-16) and to instance discrimination Table 6 (Fast R-CNN; Faster R-CNN with ResNet-50); spec E10,
O12, D04. Boxes match above an overlap of .5, difficult objects neither count nor cost, and the mean is over the classes
that have an object; both the 11-point definition of VOC 2007 and the area of later years are given.

Shapes: pictures [C, h, w], boxes [n, 4] as intervals (x1, y1, x2, y2) in pixels of the picture as it is stored.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from unlabeled import metrics, progress
from unlabeled.data.voc import VocImage
from unlabeled.device import autocast
from unlabeled.distributed import all_gather_rows, all_reduce_sum, rank, shard, world_size
from unlabeled.errors import ConfigError
from unlabeled.evaluation.detection import boxes as arithmetic
from unlabeled.evaluation.detection.rcnn import (
    REGIONS,
    DetectorName,
    FasterRcnn,
    FastRcnn,
    Objects,
    RegionNetwork,
    nothing_learnt,
)
from unlabeled.evaluation.fitting import SAVE_SECONDS, Fit, NormStatistics, batches, fit, measuring, squares
from unlabeled.evaluation.result_cache import Partial
from unlabeled.evaluation.voc_classification import Trained
from unlabeled.models.backbone import Backbone
from unlabeled.randomness import generator, numpy_generator, seed_from

LONGEST = 1000 / 600
"""Most a picture's long side may be, in short sides (Fast R-CNN, section 5.2)."""
CLIP = 10.0
"""Largest norm of a gradient: rarely met at the papers' rate; at the tenfold rate of short runs, steps stay finite by it."""
_MEMORY = 10**9


@dataclass(frozen=True)
class Detecting:
    """How a detector is trained. The defaults are the papers' (spec O12)."""

    detector: DetectorName = "fast"
    """`fast`: on regions that are given. `faster`: with a region proposal network."""
    train: Trained = "all"
    """Which weights learn, see `RegionNetwork`."""
    norm_statistics: NormStatistics = "measured"
    """Whose statistics batch normalisation is fixed at: the training pictures', or the network's own as in the papers."""
    side: int = 600
    """Short side of a picture, pixels; the long one at most 1000/600 of it."""
    steps: int = 40_000
    """Steps; the rate falls to a tenth after three quarters."""
    lr: float = 1e-3
    """Learning rate of stochastic gradient descent, momentum .9, weight decay 5e-4."""
    images_per_step: int = 2
    """Pictures of a step, all ranks together."""
    regions: int = REGIONS
    """Regions of a picture that a step learns from."""
    seed: int = 0
    """Of new layers, order, mirroring, regions, dropout."""
    dtype: torch.dtype = torch.float32
    """Precision of the network's products."""


@dataclass(frozen=True, eq=False)
class DetectionImages:
    """Annotated pictures and the regions given for each."""

    images: Sequence[VocImage]
    read: Callable[[VocImage], torch.Tensor]
    """Pixels uint8 [C, h, w] of a picture, the same on every rank."""
    regions: Sequence[torch.Tensor] | None = None
    """float32 [m, 4] of each picture; None where the detector finds its own."""


@dataclass(frozen=True)
class Scores:
    """Average precision of each class [C], nan where the test pictures have none of it."""

    eleven_point: np.ndarray
    area: np.ndarray


class VocDetectionProtocol:
    """Fine-tunes a copy of `backbone` on `train`, detects in `test`, compares."""

    def __init__(
        self,
        backbone: Backbone,
        train: DetectionImages,
        test: DetectionImages,
        num_classes: int,
        how: Detecting,
        *,
        partial: Partial | None = None,
        name: str = "detection",
    ) -> None:
        """`name`: of the parts that are kept in `partial`."""
        self.train, self.test, self.num_classes, self.how = train, test, num_classes, how
        self.partial, self.name = partial or Partial(), name
        self.device = next(backbone.parameters()).device
        self._views = _Views(train, how.side, self.device), _Views(test, how.side, self.device)
        network = RegionNetwork(copy.deepcopy(backbone), how.train, how.seed).to(self.device)
        if how.norm_statistics == "measured":
            self._measure(network)
        if how.detector == "fast":
            self.detector = FastRcnn(network, num_classes, how.seed, how.regions)
        else:
            self.detector = FasterRcnn(network, num_classes, how.seed, how.side, how.regions)
        self.detector.to(self.device)

    def run(self) -> Iterator[tuple[str, float]]:
        """Yield mean average precision by both definitions.

        Raises:
            ConfigError: the loss is no longer a number.
            RunError: the parts cannot be written.
        """
        scores = self.scores
        yield "map_11_point", float(np.nanmean(scores.eleven_point))
        yield "map_area", float(np.nanmean(scores.area))

    @cached_property
    def scores(self) -> Scores:
        """Train, detect, and compare class by class."""
        kept = self.partial.load(f"{self.name}-found")
        is_whole = kept is not None and int(kept["done"]) == len(self.test.images)
        if not is_whole:
            self._fit()
        return average_precisions(self.test.images, self.detect(kept), self.num_classes)

    def detect(self, kept: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        """Detections [M, 7] of all test pictures, the same on every rank: picture, class, score, box in its own pixels.

        kept: what an earlier call had found.
        """
        self.detector.eval()
        found = kept["found"] if kept else torch.zeros(0, 7)
        done, last_save = int(kept["done"]) if kept else 0, time.monotonic()
        count, views = len(self.test.images), self._views[1]
        with progress.bar(f"{self.name}: detecting", count) as update:
            while done < count:
                # As many at once as ranks, a few each: between such rounds the work so far can be kept.
                part = range(done, min(done + 4 * world_size(), count))
                own = [self._detect_one(views, i) for i in part[shard(len(part))]]
                rows = torch.cat(own) if own else torch.zeros(0, 7)
                found = torch.cat([found, all_gather_rows(rows)])
                done = part.stop
                update(done, f"{len(found):,} boxes")
                due = all_reduce_sum(torch.tensor(float(time.monotonic() - last_save > SAVE_SECONDS and rank() == 0)))
                if bool(due) or done == count:
                    self.partial.save(f"{self.name}-found", {"found": found, "done": torch.tensor(done)})
                    last_save = time.monotonic()
        return found

    def _detect_one(self, views: _Views, i: int) -> torch.Tensor:
        view, scale = views.view(i)
        with autocast(self.device, self.how.dtype):
            rows = self.detector.detect(view, views.regions(i, scale)).cpu()
        rows[:, 2:] /= scale
        return torch.cat([torch.full((len(rows), 1), float(i)), rows], dim=1)

    def _fit(self) -> None:
        how, batch = self.how, max(1, self.how.images_per_step)
        steps = _Steps(self.detector, self._views[0], how, batch)
        # A picture is a batch of its own, so an "epoch" here is a step: the work is kept between any two.
        plan = Fit(
            epochs=how.steps,
            steps=1,
            lr=lambda step: how.lr if step < 3 * how.steps / 4 else how.lr / 10,
            momentum=0.9,
            weight_decay=5e-4,
            clip=CLIP,
            seed=how.seed,
            freeze_norm=True,
        )
        nothing = torch.zeros(())
        fit(
            steps,
            lambda epoch: [(torch.tensor(epoch), nothing)],
            lambda output, _: output,
            plan,
            title=f"{self.name}: training",
            partial=self.partial,
            name=f"{self.name}-fit",
        )

    def _measure(self, network: RegionNetwork) -> None:
        """Give the normalisation of `network` the statistics of training pictures, whatever it was trained on."""
        with measuring(network):
            for part in batches(len(self.train.images)):
                view = squares([self._views[0].view(i)[0] for i in part])
                side, half = float(view.shape[2]), view.shape[2] / 2
                # The whole square and its quarters: regions of two sizes, whatever there is to see.
                quarters = [[x, y, x + half, y + half] for x in (0, half) for y in (0, half)]
                boxes = torch.tensor([[0.0, 0.0, side, side], *quarters], device=self.device)
                network.regions(network.map(view), *[boxes] * len(view))


def average_precisions(images: Sequence[VocImage], found: torch.Tensor, num_classes: int) -> Scores:
    """Average precision of every class, of detections [M, 7]: picture, class, score, box as an interval."""
    rows = found.double().numpy()
    # Both corners belong to a box in the VOC protocol.
    boxes = rows[:, 3:] - [0, 0, 1, 1]
    where = np.repeat(np.arange(len(images)), [len(image.labels) for image in images])
    truth, labels, difficult = (
        np.concatenate([np.asarray(getattr(image, part)) for image in images])
        for part in ("boxes", "labels", "difficult")
    )
    result = np.full((2, num_classes), np.nan)
    for kind in range(num_classes):
        own, mine = labels == kind, rows[:, 1] == kind
        for line, definition in zip(result, ("11-point", "envelope"), strict=True):
            line[kind] = metrics.detection_ap(
                truth[own], where[own], difficult[own], boxes[mine], rows[mine, 0], rows[mine, 2], definition=definition
            ).average_precision
    return Scores(*result)


class _Views:
    """Pictures at the size the network sees them, kept in memory while they fit."""

    def __init__(self, pictures: DetectionImages, side: int, device: torch.device) -> None:
        self.pictures, self.side, self.device = pictures, side, device
        self._kept: dict[int, torch.Tensor] = {}
        self._bytes = 0

    def view(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 [1, C, h, w], and the four factors from stored boxes to boxes of this view [4]."""
        small = self._kept.get(i)
        height, width = self.pictures.images[i].size
        if small is None:
            scale = min(self.side / min(height, width), LONGEST * self.side / max(height, width))
            size = max(1, round(height * scale)), max(1, round(width * scale))
            pixels = self.pictures.read(self.pictures.images[i])
            small = functional.interpolate(pixels[None], size, mode="bilinear", antialias=True)
            if self._bytes + small.numel() <= _MEMORY:
                self._kept[i] = small
                self._bytes += small.numel()
        across, down = small.shape[3] / width, small.shape[2] / height
        return small.to(self.device), torch.tensor([across, down, across, down])

    def regions(self, i: int, scale: torch.Tensor) -> torch.Tensor:
        """Regions given for picture i, in pixels of its view [m, 4]."""
        if self.pictures.regions is None:
            return torch.zeros(0, 4, device=self.device)
        return (self.pictures.regions[i].float() * scale).to(self.device)

    def objects(self, i: int, scale: torch.Tensor) -> Objects:
        """Objects of picture i to learn from, in pixels of its view; difficult ones are left out."""
        image = self.pictures.images[i]
        boxes = (image.boxes + torch.tensor([0.0, 0.0, 1.0, 1.0])) * scale
        used = ~image.difficult & (arithmetic.area(boxes) > 0)
        return Objects(boxes[used].to(self.device), image.labels[used].to(self.device))


class _Steps(nn.Module):
    """The loss of a step, by its number; what it sees follows from the seed and the number alone."""

    def __init__(self, detector: FastRcnn, views: _Views, how: Detecting, batch: int) -> None:
        super().__init__()
        self.detector = detector
        # Not a module and no part of the state.
        self.views, self.how, self.batch = views, how, batch
        self._order: dict[int, np.ndarray] = {}

    def forward(self, step: torch.Tensor) -> torch.Tensor:
        """Mean loss of this rank's pictures of step number `step`, scaled so that the mean over ranks is the batch's."""
        number = int(step)
        places = range(self.batch)[rank() :: world_size()]
        losses = [self._loss(number, place) for place in places]
        if not losses:
            return nothing_learnt(self)  # more ranks than pictures
        total = torch.stack(losses).sum() * (world_size() / self.batch)
        if not torch.isfinite(total.detach()):
            raise ConfigError(
                f"the loss became {float(total.detach())} in step {number + 1} at the learning rate {self.how.lr:g}, and it must "
                "stay finite: give a lower --lr, for example a third of it."
            )
        return total

    def _loss(self, step: int, place: int) -> torch.Tensor:
        seed, i = self.how.seed, self._picture(step * self.batch + place)
        random = generator(seed, "detection", step, place)
        # Dropout and torchvision's anchors draw from torch's own generator.
        torch.manual_seed(seed_from(seed, "detection dropout", step, place))
        view, scale = self.views.view(i)
        objects, given = self.views.objects(i, scale), self.views.regions(i, scale)
        if bool(torch.rand((), generator=random) < 0.5):
            width = view.shape[3]
            view, given = view.flip(3), arithmetic.mirror(given, width)
            objects = Objects(arithmetic.mirror(objects.boxes, width), objects.labels)
        with autocast(view.device, self.how.dtype):
            return self.detector.loss(view, objects, given, random)

    def _picture(self, position: int) -> int:
        count = len(self.views.pictures.images)
        epoch = position // count
        if epoch not in self._order:
            self._order = {epoch: numpy_generator(self.how.seed, "detection order", epoch).permutation(count)}
        return int(self._order[epoch][position % count])


def table(scores: Scores, class_names: Sequence[str]) -> dict[str, Any]:
    """11-point average precision by class name, without classes that the test pictures do not have."""
    named = zip(class_names, scores.eleven_point.tolist(), strict=True)
    return {name: value for name, value in named if not np.isnan(value)}
