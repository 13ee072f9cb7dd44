"""PASCAL VOC 2007 classification: which classes are in a picture, from a network with frozen or fine-tuned convolutions.

Published with AlexNet, trained on trainval, scored on test (mean average precision; DeepCluster Table 2, NAT Table 4):

                     labels   random   NAT    DeepCluster
    fc   (fc6-8)      78.9     33.2    56.7   72.0 (70.4 with the scales of batch normalisation frozen: its erratum)
    all               79.9     57.0    65.3   73.7

Training (spec O11, E08): views are random crops of 10 to 50 % of the area, ratio 1, mirrored half the time (P12); sigmoid
cross-entropy summed over the classes, classes with only difficult objects left out; SGD with momentum 0.9, batch 16,
learning rate 0.003 (fc) or 0.001 (all), halved every 5,000 or 20,000 steps, decay 1e-6, gradients clipped to norm 10.
The score of a picture is the sum over ten such random crops, or over ten crops of its central square.

The published "VOC 2007 mAP" is scikit-learn's average precision, not VOC's 11-point one (spec E07, trap 8); all four
definitions are given. Two things differ from the released code: the order of the pictures is a new one in every pass,
and a training shorter than four of the published intervals halves its learning rate after each quarter.

Shapes: N pictures, C classes, B batch, S side of a view.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Self, get_args

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from unlabeled.data.augment import Parameters, Views, draw
from unlabeled.data.loading import Loader
from unlabeled.data.store import ImageStore
from unlabeled.distributed import world_size
from unlabeled.errors import ConfigError, DataError
from unlabeled.evaluation.crops import CROPS, ViewBatches, ten_crop_views
from unlabeled.evaluation.fine_tuning import batches_of, outputs
from unlabeled.evaluation.fitting import Fit, NormStatistics, batches, fit, measured
from unlabeled.evaluation.result_cache import Partial
from unlabeled.metrics import IGNORED, Definition, voc_classification_ap
from unlabeled.models import Backbone, data_init
from unlabeled.models.fc import FcHead
from unlabeled.randomness import generator

Trained = Literal["fc", "all"]
Crops = Literal["random", "ten"]

AREA = (0.1, 0.5)
"""Least and largest share of a picture's area in a view (spec P12)."""
PUBLISHED = {"fc": (0.003, 5_000), "all": (0.001, 20_000)}
"""Learning rate, and steps until it is halved (spec O11)."""
DEFINITIONS: tuple[Definition, ...] = get_args(Definition)


@dataclass(frozen=True)
class VocTraining:
    """How a classifier is trained and scored; what is not given is as published."""

    train: Trained = "fc"
    """`fc`: convolutions frozen, a new FC6-FC7-FC8. `all`: the same new layers, and the convolutions are trained too."""
    steps: int = 80_000
    """Steps of the optimiser."""
    lr: float | None = None
    """Learning rate at the beginning; None is the published one."""
    batch_size: int = 16
    """Pictures of a step on all ranks together."""
    crops: Crops = "random"
    """What a picture is scored in: ten random views, or ten crops of its central square."""
    train_norm_scales: bool = False
    """With `fc`: train scales and shifts of batch normalisation too, its statistics stay (DeepCluster's 72.0; spec E05)."""
    fold_norm: bool = False
    """NAT's form: batch normalisation folded into the layers, which are then rescaled on data (spec E09, M23)."""
    norm_statistics: NormStatistics = "measured"
    """Where normalisation is frozen or folded: with the training views' statistics, or the network's own as published."""
    seed: int = 0
    """Of new layers, order, views and dropout."""
    dtype: torch.dtype = torch.float32
    """Precision of the forward pass."""

    def lr_at(self, step: int) -> float:
        """Learning rate of a step."""
        lr, interval = PUBLISHED[self.train]
        return (self.lr or lr) * 0.5 ** (step // min(interval, math.ceil(self.steps / 4)))


class Convolutions(nn.Module):
    """A copy of a backbone's convolutions under a new head.

    `frozen`: they are in evaluation mode and stay, but that `scales` trains those of their normalisation. Else everything is
    trained, and normalisation is by the statistics of each batch.
    """

    def __init__(self, backbone: Backbone, head: FcHead, *, frozen: bool, scales: bool = False) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone).requires_grad_(not frozen)
        self.head, self.is_frozen = head, frozen
        for name in ("fc6", "norm6", "fc7", "norm7"):
            # The head has its own; what is not used must not wait for a gradient.
            if (part := getattr(self.backbone, name, None)) is not None:
                part.requires_grad_(False)
        if scales:
            for part in self.backbone.modules():
                if isinstance(part, nn.BatchNorm2d):
                    part.requires_grad_(True)

    def train(self, mode: bool = True) -> Self:
        """Training mode, of the head alone where the convolutions are frozen."""
        super().train(mode)
        if self.is_frozen:
            self.backbone.eval()
        return self

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        """[B, channels, S, S] to logits [B, C]."""
        x = self.backbone.stem(view)
        for _, stage in self.backbone.trunk(x):
            x = stage
        return self.head(x)


@dataclass(frozen=True)
class VocClassificationProtocol:
    """Trains a copy of `backbone` on one set and scores it on another; `run()` yields (metric, value) as fractions."""

    backbone: Backbone
    train: ImageStore
    train_labels: torch.Tensor
    """int64 [N, C]: 1 present, 0 only difficult objects, -1 absent (spec D04), a row for each picture of `train`."""
    test: ImageStore
    test_labels: torch.Tensor
    """Likewise for `test`."""
    how: VocTraining
    device: torch.device
    partial: Partial
    """Where the training so far is kept."""
    name: str = "trained"
    """Of this network among those compared, for progress and for `partial`."""

    def run(self) -> Iterator[tuple[str, float]]:
        """`map` (the published definition) and `map_11-point`, `map_envelope`, `map_trapezoid`."""
        table = self.per_class()
        for definition in DEFINITIONS:
            name = "map" if definition == "step" else f"map_{definition}"
            yield name, mean(table[definition])

    def per_class(self) -> dict[Definition, np.ndarray]:
        """Average precision of each class [C] by definition; nan for a class that no test picture has."""
        kept = f"{self.name}-ap"
        found = self.partial.read(kept)
        if found is None:
            scores = self.scores(self.fitted())
            truth = coded(self.test_labels)
            found = {one: voc_classification_ap(truth.T, scores.T, one).tolist() for one in DEFINITIONS}
            self.partial.write(kept, found)
            self.partial.forget(self.name)
        return {one: np.array(found[one]) for one in DEFINITIONS}

    def fitted(self) -> nn.Module:
        """The trained network."""
        how, loader = self.how, Loader(self.train, self.views(), device=self.device, seed=self.how.seed)
        target = coded(self.train_labels).float().to(self.device)
        # As many pictures in a step as there are, where they are few; passes follow each other without a seam.
        each, pass_steps = batches_of(len(self.train), how.batch_size)
        passes = math.ceil(how.steps / pass_steps)

        def batches(number: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            order = torch.randperm(len(self.train), generator=generator(how.seed, "voc order", number))
            order = order[: (how.steps - number * pass_steps) * each * world_size()]
            order = order.repeat(-(-each * world_size() // len(order)))
            for index, view in loader.train_batches(order, number, each):
                yield view, target[index]

        training = Fit(passes, pass_steps, how.lr_at, weight_decay=1e-6, clip=10.0, seed=how.seed, dtype=how.dtype)
        title = f"{self.name}, {how.train}"
        return fit(self.network(), batches, sigmoid_loss, training, title=title, partial=self.partial, name=self.name)

    @torch.no_grad()
    def scores(self, network: nn.Module) -> torch.Tensor:
        """[N, C] of the test pictures: sums of logits over ten views of each."""
        loader = Loader(self.test, self.views(), device=self.device, seed=self.how.seed)
        views = ten_crop_views(loader) if self.how.crops == "ten" else random_views(loader, self.how.seed)
        rows = torch.arange(len(self.test))
        logits = outputs(
            *(network, loader, rows),
            batch_size=self.how.batch_size,
            dtype=self.how.dtype,
            views=views,
            activation=lambda output: output,
            title=f"{self.name}, scoring",
        )
        return logits * CROPS

    def network(self) -> nn.Module:
        """The network before its training: a copy with a new end, on the device; equal seeds give equal ones."""
        how, classes = self.how, self.train_labels.shape[1]
        backbone = self.without_norm() if how.fold_norm else self.frozen() if how.train == "fc" else self.backbone
        fresh = generator(how.seed, "voc head")
        if how.fold_norm and how.train_norm_scales:
            raise ConfigError("train_norm_scales has nothing to train with fold_norm; leave one of them out.")
        head, frozen = FcHead(backbone, classes, fresh), how.train == "fc"
        scales = frozen and how.train_norm_scales
        return Convolutions(backbone, head, frozen=frozen, scales=scales).to(self.device)

    def frozen(self) -> Backbone:
        """The backbone with the statistics of batch normalisation that stay while the rest is trained."""
        if self.how.norm_statistics == "kept":
            return self.backbone
        loader, seed = Loader(self.train, self.views(), device=self.device, seed=self.how.seed), self.how.seed
        drawn: list[tuple[torch.Tensor, Parameters]] = []
        for number, part in enumerate(map(torch.tensor, batches(len(self.train)))):
            random = generator(seed, "voc statistics", number)
            drawn.append((part, draw(self.views(), self.train.sizes[part], random)))
        return measured(self.backbone, (view for _, view in loader.cut(drawn)))

    def without_norm(self) -> Backbone:
        """`frozen` with its normalisation folded in and rescaled on training views; it computes the same."""
        loader = Loader(self.train, self.views(), device=self.device, seed=self.how.seed)
        index = torch.randperm(len(self.train), generator=generator(self.how.seed, "voc rescaling"))[:32]
        parameters = draw(self.views(), self.train.sizes[index], generator(self.how.seed, "voc rescaling views"))
        _, view = next(iter(loader.cut([(index, parameters)])))
        return data_init.rescale(data_init.fold(self.frozen(), view), view, self.how.seed)

    def views(self) -> Views:
        """Training views."""
        side = self.backbone.image_size
        return Views(side, side, crop_area=AREA, crop_ratio=(1.0, 1.0), flip="horizontal", colour=self.train.is_colour)


def least_side(image_size: int) -> int:
    """Short side below which the smallest views would be enlarged: pictures need not be stored larger."""
    return math.ceil(image_size / math.sqrt(AREA[0]))


def coded(labels: torch.Tensor) -> torch.Tensor:
    """VOC's -1, 0, 1 (absent, only difficult objects, present) as 0, 255 = ignored, 1 (spec D04)."""
    return torch.where(labels == 0, IGNORED, (labels > 0).long())


def sigmoid_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Sigmoid cross-entropy of logits [B, C] with `target` of 0, 1 and 255 = ignored: sum over classes, mean over the batch
    (spec E08).
    """
    counted = target != IGNORED
    terms = functional.binary_cross_entropy_with_logits(logits, target * counted, reduction="none")
    return (terms * counted).sum() / len(logits)


def random_views(loader: Loader, seed: int) -> ViewBatches:
    """Ten training views of each picture, drawn for the picture: the same on any number of ranks."""
    drawn = [draw(loader.views, loader.store.sizes, generator(seed, "voc crops", i)) for i in range(CROPS)]

    def make(rows: torch.Tensor, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for part in rows.cpu().split(batch_size) if len(rows) else ():
            wanted: list[tuple[torch.Tensor, Parameters]] = [
                (part, replace(one, **{name: getattr(one, name)[part] for name in _ROWS})) for one in drawn
            ]
            yield part, torch.stack([view for _, view in loader.cut(wanted)], 1)

    return make


_ROWS = ("box", "flip", "factors", "order", "grey", "sigma")


def mean(values: np.ndarray) -> float:
    """Mean over the classes that occur.

    Raises:
        DataError: none does.
    """
    if np.isnan(values).all():
        raise DataError("no class occurs in the test pictures, so there is no average precision; check the split.")
    return float(np.nanmean(values))
