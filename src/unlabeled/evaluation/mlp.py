"""A perceptron re-trained on the frozen convolutions: how much of a network's use lies in its last maps.

Noise As Targets, table 3, and the thesis, table 5.2 (spec E01). Published for AlexNet on ImageNet, top-1 in percent:
random weights 12.0, Noise As Targets 36.0, DeepCluster 44.0, PIC 45.9, ImageNet labels 59.7.

Two forms. `nat`: two layers of 4096 with batch normalisation and ReLU, dropout 0.5 between them, a linear layer; the
damped SGD of its released code, rate 0.1, from the twentieth of a hundred epochs on divided by 1 + 0.3 · (epoch − 20);
ten crops whose logits are summed (spec B02, O07). `deepcluster`: Krizhevsky's perceptron, dropout 0.5 before each of
two layers of 4096 with ReLU, weights N(0, 0.01²); plain SGD with momentum 0.9, rate 0.01 by the rule of the linear
probes; ten crops, mean of the softmax. The papers are silent on the rate of the second form, so a few are tried; the
thesis reports the best of its epochs on the validation set of ImageNet, here the best on a held-out part of the training
set.

Shapes: B images, D numbers of the last map, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from unlabeled.device import autocast
from unlabeled.evaluation.crops import Aggregate, CropCount
from unlabeled.evaluation.fitting import Damped, Fit, Group, Mover, Sgd, fit
from unlabeled.evaluation.frozen_features import FrozenRows
from unlabeled.evaluation.linear import MOMENTUM, EpochScores, Remembering, Setting, SideBySide, summed_cross_entropy
from unlabeled.evaluation.result_cache import Partial
from unlabeled.evaluation.splits import evenly
from unlabeled.evaluation.stages import pool_of
from unlabeled.metrics import topk_accuracy
from unlabeled.models import Backbone
from unlabeled.models.alexnet import AlexNet
from unlabeled.models.backbone import initialise
from unlabeled.models.sync_batch_norm import BatchNorm1d
from unlabeled.models.vgg import Vgg16
from unlabeled.randomness import generator
from unlabeled.training.optim import inverse_decay

Form = Literal["nat", "deepcluster"]

WIDTH = 4096
NAT_LR, NAT_DECAY, NAT_CONSTANT, NAT_GAMMA = 0.1, 1e-8, 0.2, 0.3
"""Rate, decay of the weights a step, share of the epochs (20 of 100) before the rate falls, and how fast (spec O07)."""
DEEPCLUSTER_DECAY = 1e-5
RATES: Mapping[Form, tuple[float, ...]] = {"nat": (NAT_LR,), "deepcluster": (0.01, 0.03, 0.1)}
"""Rates that are tried side by side; the best on the validation part is taken. With 0.01 alone, the rate of the linear probes,
an untrained network stays at chance (10 % of ten classes, 33 % at 0.1)."""
EPOCHS: Mapping[Form, int] = {"nat": 100, "deepcluster": 90}
"""Published lengths (spec O07; thesis section 5)."""
SCORED_AGAIN = 5000
"""Training images that the training accuracy is taken over, at most."""


class LastMap(nn.Module):
    """Views to the last convolution's map as the network's own perceptron sees it, flattened; frozen.

    AlexNet's and VGG's last pool is theirs; the maps of other networks are average-pooled to under 10,000 numbers, as
    for the linear probes.
    """

    def __init__(self, backbone: Backbone, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.backbone, self.dtype = backbone.eval(), dtype

    @torch.no_grad()
    def forward(self, view: torch.Tensor) -> torch.Tensor:
        """[B, C, S, S] to float32 [B, D], after the ReLU; evaluation mode whatever was set."""
        self.backbone.eval()
        with autocast(view.device, self.dtype):
            x = self.backbone.stem(view)
            for _, stage in self.backbone.trunk(x):
                x = stage
        if isinstance(self.backbone, AlexNet):
            x = functional.max_pool2d(x, 3, 2)
        elif isinstance(self.backbone, Vgg16):
            x = functional.max_pool2d(x, 2)
        else:
            x = pool_of(x.shape[1], x.shape[2])(x.float())
        return x.float().flatten(1)

    def inputs(self, channels: int) -> int:
        """D, for images of so many channels."""
        side, device = self.backbone.image_size, next(self.backbone.parameters()).device
        return self(torch.zeros(1, channels, side, side, dtype=torch.uint8, device=device)).shape[1]


def perceptron(form: Form, inputs: int, classes: int, width: int, seed: int) -> nn.Sequential:
    """The classifier of one form, [B, inputs] to logits [B, classes]; equal seeds give equal weights on every rank."""
    if form == "nat":
        module = nn.Sequential(
            *(nn.Linear(inputs, width), BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.5)),
            *(nn.Linear(width, width), BatchNorm1d(width), nn.ReLU(), nn.Linear(width, classes)),
        )
        initialise(module, "torch", generator(seed, "perceptron"))
        return module
    module = nn.Sequential(
        *(nn.Dropout(0.5), nn.Linear(inputs, width), nn.ReLU()),
        *(nn.Dropout(0.5), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)),
    )
    initialise(module, "fan_out", generator(seed, "perceptron"))
    return module


@dataclass(frozen=True)
class MlpScore(EpochScores):
    """A perceptron's score."""

    train_top1: float
    """Of the last epoch on training images, one central view."""
    lr: float
    """Learning rate that was best on the validation part."""


@dataclass(frozen=True)
class MlpProbe:
    """A perceptron on the frozen last map: `run()` yields (metric, value), fractions."""

    data: FrozenRows
    """Rows of `LastMap`."""
    inputs: int
    """D."""
    test: torch.Tensor
    """Rows of the test set, int64."""
    classes: int
    form: Form = "nat"
    epochs: int = 90
    width: int = WIDTH
    crops: CropCount = "ten"
    rates: tuple[float, ...] = ()
    """Learning rates to choose from; those of the form where none are given."""
    partial: Partial = field(default_factory=Partial)
    name: str = "mlp"

    def run(self) -> Iterator[tuple[str, float]]:
        """`top1`, `top5` (if K > 5), `best_top1`, `best_top5`, `train_top1`."""
        for metric, value in vars(self.score()).items():
            if value is not None and metric.endswith(("top1", "top5")):
                yield metric, value

    def score(self) -> MlpScore:
        """Train and score.

        Raises:
            RunError: the work so far cannot be kept.
        """
        kept = self.partial.read(f"{self.name}-score")
        if kept is None:
            kept = dict(vars(self._trained()))
            self.partial.write(f"{self.name}-score", kept)
        return MlpScore(**kept)

    def _trained(self) -> MlpScore:
        data, rates = self.data, self.rates or RATES[self.form]
        # Equal weights to begin with: the perceptrons differ in their rate only.
        made = [perceptron(self.form, self.inputs, self.classes, self.width, data.seed) for _ in rates]
        module = Remembering(SideBySide(made)).to(data.views.device)
        fit(
            module,
            data.batches,
            summed_cross_entropy,
            Fit(self.epochs, data.steps, lambda _step: rates[0], seed=data.seed),
            title=f"{data.title}, perceptron",
            partial=self.partial,
            name=f"{self.name}-fit",
            after_epoch=lambda epoch: module.seen(epoch, data),
            mover=self._mover(module.now, rates),
        )
        return self._scored(module, rates)

    def _mover(self, module: SideBySide, rates: Sequence[float]) -> Mover:
        if self.form == "deepcluster":
            settings = [Setting(rate, DEEPCLUSTER_DECAY) for rate in rates]
            groups = [
                Group(list(layer.parameters()), setting.rate, setting.weight_decay)
                for layer, setting in zip(module.layers, settings, strict=True)
            ]
            return Sgd(groups, MOMENTUM)
        steps, start = self.data.steps, NAT_CONSTANT * self.epochs
        # The rate falls as over a hundred epochs, whatever their number.
        gamma = NAT_GAMMA * 100 / self.epochs
        return Damped(
            list(module.parameters()),
            lambda step: inverse_decay(rates[0], step // steps, start, gamma),
            MOMENTUM,
            decay=NAT_DECAY,
        )

    def _scored(self, module: Remembering, rates: Sequence[float]) -> MlpScore:
        how: Aggregate = "sum_logits" if self.form == "nat" else "mean_softmax"
        scores = module.scores(self.data, self.test, self.crops, how)
        best = max(range(len(rates)), key=lambda number: scores[number].validation)
        again = evenly(self.data.rows.train, SCORED_AGAIN)
        seen = self.data.scores(module, again, "one")[:, best]
        train_top1 = topk_accuracy(seen, self.data.labels[again])
        return MlpScore(**vars(scores[best]), train_top1=train_top1, lr=rates[best])
