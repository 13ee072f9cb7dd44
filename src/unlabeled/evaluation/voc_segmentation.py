"""PASCAL VOC 2012 segmentation: a class for every pixel, by an FCN-32s on the network (Long et al. 2015).

Published with AlexNet, trained on the training set, scored on val (mean intersection over union; DeepCluster Table 2):

                     labels   random   NAT    DeepCluster
    fc   (fc6-8)        -       15.2   26.7   43.2
    all               48.0      30.1   37.1   45.1

Training (spec O13): one picture at a time, as large as it is, gradients of 20 added up to a step; SGD with momentum 0.9,
learning rate 1e-4, decay 5e-4, 100,000 steps; the loss is the mean over the pixels of a picture that are decided (255 is
not), no augmentation. `fc` keeps the convolutions and trains new FC6 and FC7; `all` trains everything, FC6 and FC7 begin
as the network has them. Normalisation keeps its statistics in both: a batch of one picture has none of its own.

Networks built for views other than 224 pixels are shown pictures that are as much smaller (or larger views: not enlarged),
and their scores are enlarged to the pixels of the mask. The published training set is that of SBDD and the published val
the 736 pictures of VOC 2011 that it leaves (spec D05): give such lists as splits.

Shapes: C classes with background, H x W a picture.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from unlabeled import metrics, progress
from unlabeled.data.decode import decode
from unlabeled.data.pixels import Undecodable, ValueRange, scale_to_uint8, to_channels
from unlabeled.data.source import read_file
from unlabeled.data.voc import UNDECIDED, VocImage, VocSplit, read_mask
from unlabeled.device import autocast
from unlabeled.distributed import all_reduce_sum, rank, shard, world_size
from unlabeled.errors import DataError
from unlabeled.evaluation.fitting import Fit, NormStatistics, batches, fit, measured, squares
from unlabeled.evaluation.result_cache import Partial
from unlabeled.evaluation.voc_classification import Trained
from unlabeled.metrics import Segmentation
from unlabeled.models import Backbone
from unlabeled.models.fc import Fcn, FcnHead
from unlabeled.randomness import generator

PUBLISHED_SIDE = 224
"""Views of the networks of the paper, whose pictures are shown as they are."""
SCORES = ("mean_iou", "pixel_accuracy", "mean_accuracy", "weighted_iou")
SAVE_STEPS = 5
"""Steps between two points at which a training can go on."""


@dataclass(frozen=True)
class SegmentationTraining:
    """How an FCN is trained; what is not given is as published."""

    train: Trained = "fc"
    """`fc`: convolutions frozen, FC6 and FC7 new. `all`: the whole network."""
    steps: int = 100_000
    """Steps of the optimiser."""
    lr: float = 1e-4
    """Learning rate."""
    batch_size: int = 20
    """Pictures whose gradients make a step, on all ranks together."""
    seed: int = 0
    """Of new layers, order and dropout."""
    dtype: torch.dtype = torch.float32
    """Precision of the forward pass."""
    norm_statistics: NormStatistics = "measured"
    """Whose statistics batch normalisation is fixed at: the training pictures', or the network's own as published."""


@dataclass(frozen=True)
class PixelReader:
    """How pictures become uint8 pixels: as those the network was trained on."""

    channels: int
    value_range: ValueRange

    def read(self, image: VocImage) -> torch.Tensor:
        """uint8 [1, channels, H, W].

        Raises:
            DataError: the picture cannot be read, or has other channels.
        """
        try:
            pixels = to_channels(decode(read_file(str(image.path)), image.path.name), self.channels)
        except Undecodable as error:
            raise DataError(f"{image.path} cannot be used: {error.reason}.") from None
        return torch.tensor(scale_to_uint8(pixels, self.value_range)).permute(2, 0, 1)[None]


class FrozenFcn(Fcn):
    """An `Fcn` on a copy of a backbone whose normalisation keeps its statistics; `frozen`: the head alone is trained."""

    def __init__(self, backbone: Backbone, head: FcnHead, shrink: float, *, frozen: bool) -> None:
        super().__init__(copy.deepcopy(backbone).requires_grad_(not frozen), head, shrink)
        for name in ("fc6", "norm6", "fc7", "norm7"):
            # The head has its own; what is not used must not wait for a gradient.
            if (part := getattr(self.backbone, name, None)) is not None:
                part.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Training mode of the head alone: convolutions have no dropout, and their statistics stay."""
        super().train(mode)
        self.backbone.eval()
        return self


@dataclass(frozen=True)
class VocSegmentationProtocol:
    """Trains an FCN on a copy of `backbone` and scores it; `run()` yields (metric, value) as fractions."""

    backbone: Backbone
    train: VocSplit
    test: VocSplit
    pixels: PixelReader
    how: SegmentationTraining
    device: torch.device
    partial: Partial
    """Where the training so far is kept."""
    name: str = "trained"
    """Of this network among those compared, for progress and for `partial`."""

    def run(self) -> Iterator[tuple[str, float]]:
        """`mean_iou`, `pixel_accuracy`, `mean_accuracy`, `weighted_iou`."""
        found = self.segmentation()
        for name in SCORES:
            yield name, getattr(found, name)

    def segmentation(self) -> Segmentation:
        """All scores, with `iou` of each class [C], background first."""
        return metrics.segmentation_scores(self.counts())

    def counts(self) -> np.ndarray:
        """int64 [C, C] of the test pixels by true class (row) and predicted class."""
        kept = f"{self.name}-confusion"
        counts = self.partial.read(kept)
        if counts is None:
            counts = self.confusion(self.fitted()).tolist()
            self.partial.write(kept, counts)
            self.partial.forget(self.name)
        return np.array(counts)

    def fitted(self) -> nn.Module:
        """The trained network."""
        how = self.how
        # Published: 20 pictures to a step; of several ranks each takes its share.
        each = max(1, how.batch_size // world_size())
        parts = math.ceil(how.steps / min(SAVE_STEPS, how.steps))
        steps = math.ceil(how.steps / parts)

        def batches(part: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            begin, end = part * steps, min((part + 1) * steps, how.steps)
            for place in range(begin * each, end * each):
                yield self._example(self.picture(place * world_size() + rank()))

        training = Fit(
            *(parts, steps, lambda step: how.lr),
            weight_decay=5e-4,
            seed=how.seed,
            dtype=how.dtype,
            accumulate=each,
        )
        title = f"{self.name}, {how.train}"
        return fit(self.network(), batches, pixel_loss, training, title=title, partial=self.partial, name=self.name)

    def picture(self, place: int) -> VocImage:
        """The picture at a place of the endless order in which they are seen: one shuffle after the other."""
        count = len(self.train.images)
        order = torch.randperm(count, generator=generator(self.how.seed, "fcn order", place // count))
        return self.train.images[int(order[place % count])]

    @torch.no_grad()
    def confusion(self, network: nn.Module) -> torch.Tensor:
        """int64 [C, C] of all decided test pixels, by true class (row) and predicted class; the same on every rank."""
        classes = len(self.test.class_names) + 1
        counts = torch.zeros(classes, classes, dtype=torch.int64)
        mine = self.test.images[shard(len(self.test.images))]
        with progress.bar(f"{self.name}, scoring", len(mine)) as update:
            for number, image in enumerate(mine, start=1):
                view, mask = self._example(image)
                with autocast(self.device, self.how.dtype):
                    predicted = network(view)[0].argmax(0)
                counts += torch.from_numpy(metrics.confusion(mask[0].cpu(), predicted.cpu(), classes))
                update(number, "")
        return all_reduce_sum(counts.to(self.device)).cpu()

    def network(self) -> Fcn:
        """The network before its training, on the device; equal seeds give equal ones."""
        frozen = self.how.train == "fc"
        fresh = generator(self.how.seed, "fcn head")
        backbone = self._with_statistics()
        head = FcnHead(backbone, len(self.train.class_names) + 1, fresh, fresh=frozen)
        return FrozenFcn(backbone, head, self._shrink, frozen=frozen).to(self.device)

    @property
    def _shrink(self) -> float:
        return max(1.0, PUBLISHED_SIDE / self.backbone.image_size)

    def _with_statistics(self) -> Backbone:
        """The backbone, normalising by the training pictures at the scale they are shown at, unless it keeps its own."""
        if self.how.norm_statistics == "kept":
            return self.backbone
        images, side = self.train.images, self.backbone.image_size
        parts = ([self._middle(images[i]) for i in part] for part in batches(len(images)))
        return measured(self.backbone, (squares(part, side) for part in parts))

    def _middle(self, image: VocImage) -> torch.Tensor:
        """uint8 [1, channels, h, w]: as much from the middle of a picture as the network sees in one of its views."""
        view = self.pixels.read(image).to(self.device)
        sides = [min(side, round(self.backbone.image_size * self._shrink)) for side in view.shape[2:]]
        top, left = ((whole - part) // 2 for whole, part in zip(view.shape[2:], sides, strict=True))
        return view[:, :, top : top + sides[0], left : left + sides[1]]

    def _example(self, image: VocImage) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 [1, channels, H, W] and int64 [1, H, W]."""
        mask = read_mask(image, len(self.train.class_names))
        return self.pixels.read(image).to(self.device), mask.long()[None].to(self.device)


def pixel_loss(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of scores [1, C, H, W] with `mask` [1, H, W]: the mean over its decided pixels, 0 if there is none."""
    total = functional.cross_entropy(scores, mask, ignore_index=UNDECIDED, reduction="sum")
    return total / (mask != UNDECIDED).sum().clamp(min=1)
