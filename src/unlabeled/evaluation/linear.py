"""Linear probes on every stage of a frozen network, all trained in one pass over the images.

Thesis, tables 5.3 and 5.4; DeepCluster, table 1; and, with an SVM in its place, instance discrimination, tables 2 and 3
(spec E02, O10). Published for AlexNet on ImageNet, conv1 to conv5, top-1 in percent: random weights 11.6, 17.1, 16.9,
16.3, 14.1; DeepCluster 13.4, 32.3, 41.0, 39.6, 38.2; ImageNet labels 19.3, 36.3, 44.2, 48.3, 50.5.

Multinomial logistic regression on maps pooled to under 10,000 numbers; SGD with momentum 0.9, 256 images a step, 90
epochs; the learning rate of step t is lr / √(1 + lr · decay · t). The papers choose the best epoch on the set they
report; here the last epoch is reported, and beside it the epoch that was best on a held-out part of the training set.

Shapes: B images, D numbers of all stages together, S stages, P classifiers, K classes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from unlabeled.evaluation.crops import Aggregate, CropCount
from unlabeled.evaluation.fitting import Fit, Group, Sgd, fit
from unlabeled.evaluation.frozen_features import Central, FrozenRows, Part, validation_accuracy
from unlabeled.evaluation.result_cache import Partial
from unlabeled.evaluation.splits import Fold, cross_validate, evenly, folds_of
from unlabeled.metrics import topk_accuracy
from unlabeled.randomness import generator


@dataclass(frozen=True)
class EpochScores:
    """A classifier scored on the test set. Accuracies are fractions; top-5 only where there are more than five classes."""

    top1: float
    """Of the last epoch."""
    top5: float | None
    best_top1: float
    """Of the epoch that was best on the validation part."""
    best_top5: float | None
    best_epoch: int
    """That epoch, from 1."""
    validation: float
    """Accuracy on the validation part in that epoch, one central view."""


class SideBySide(nn.Module):
    """P classifiers that share no weight, [B, D] to logits [B, P, K]."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """[B, D] to [B, P, K]."""
        return torch.stack([layer(rows) for layer in self.layers], 1)


class Remembering(nn.Module):
    """Classifiers beside what each of them was in its best epoch."""

    accuracy: torch.Tensor
    epoch: torch.Tensor

    def __init__(self, now: SideBySide) -> None:
        super().__init__()
        self.now = now
        self.best = copy.deepcopy(now).requires_grad_(False)
        self.register_buffer("accuracy", torch.full((len(now.layers),), -1.0))
        self.register_buffer("epoch", torch.zeros(len(now.layers), dtype=torch.int64))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """[B, D] to the logits [B, P, K] of the classifiers as they are now."""
        return self.now(rows)

    def both(self, rows: torch.Tensor) -> torch.Tensor:
        """[B, D] to [B, 2P, K]: as they are now, then as they were at their best."""
        return torch.cat([self.now(rows), self.best(rows)], 1)

    def seen(self, epoch: int, data: FrozenRows) -> None:
        """Remember those that are better than ever on the validation rows after `epoch`."""
        self.remember(epoch, validation_accuracy(self, data))

    def remember(self, epoch: int, accuracy: torch.Tensor) -> None:
        """The same by their `accuracy` [P]."""
        for number in (accuracy > self.accuracy.cpu()).nonzero()[:, 0].tolist():
            self.best.layers[number].load_state_dict(self.now.layers[number].state_dict())
            self.accuracy[number], self.epoch[number] = accuracy[number], epoch

    def scores(
        self, data: FrozenRows, test: torch.Tensor, crops: CropCount, how: Aggregate = "mean_softmax"
    ) -> list[EpochScores]:
        """Score of each classifier on the images `test` (int64 [M]), the same on every rank."""
        found, labels, count = data.scores(self.both, test, crops, how), data.labels[test], len(self.now.layers)

        def top(number: int, k: int) -> float | None:
            return topk_accuracy(found[:, number], labels, k) if found.shape[-1] > k else None

        return [
            EpochScores(
                top1=topk_accuracy(found[:, number], labels),
                top5=top(number, 5),
                best_top1=topk_accuracy(found[:, count + number], labels),
                best_top5=top(count + number, 5),
                best_epoch=int(self.epoch[number]) + 1,
                validation=float(self.accuracy[number]),
            )
            for number in range(count)
        ]


def summed_cross_entropy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Sum over classifiers of the mean loss: each gets the gradient it would get alone. [B, P, K], [B] -> scalar."""
    count = output.shape[1]
    return functional.cross_entropy(output.transpose(1, 2), target[:, None].expand(-1, count)) * count


RATES = (0.001, 0.003, 0.01, 0.03)
"""Learning rates that are tried; 0.01 is the published default."""
DECAYS = (1e-7, 1e-4)
"""Weight decays that are tried: both are published, 1e-4 as the default and 1e-7 for conv3."""
SELECTION_EPOCHS = 20
"""Epochs of a try at most; a try has half of the epochs that follow."""
SELECTION_BYTES = 2 * 10**9
"""Rows of the tries and of the validation are kept in memory; of larger sets so much, evenly spaced."""
MOMENTUM = 0.9


@dataclass(frozen=True)
class Setting:
    """Hyper-parameters of one classifier."""

    lr: float
    weight_decay: float

    def rate(self, step: int) -> float:
        """Learning rate of a step (spec O10, Bottou's rule)."""
        return self.lr / math.sqrt(1 + self.lr * self.weight_decay * step)


@dataclass(frozen=True)
class StageScore(EpochScores):
    """One stage, and what its classifier was trained with."""

    lr: float
    weight_decay: float


class Classifiers(SideBySide):
    """Linear layers, each on the columns of one stage; weights N(0, 0.01²) and biases 0."""

    def __init__(self, dims: Mapping[str, int], stages: Sequence[str], classes: int, seed: int) -> None:
        """`stages`: which stage each classifier reads, equal ones side by side."""
        super().__init__(nn.Linear(dims[stage], classes) for stage in stages)
        self.dims, self.stages = dict(dims), tuple(stages)
        for stage, layer in zip(self.stages, self._linear(), strict=True):
            # The same beginning for every setting of a stage.
            nn.init.normal_(layer.weight, 0, 0.01, generator=generator(seed, "linear probe", stage))
            nn.init.zeros_(layer.bias)

    def _linear(self) -> list[nn.Linear]:
        return [cast(nn.Linear, layer) for layer in self.layers]

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """[B, D] to logits [B, P, K]."""
        parts = dict(zip(self.dims, rows.split(list(self.dims.values()), dim=1), strict=True))
        own: dict[str, list[nn.Linear]] = {stage: [] for stage in self.stages}
        for stage, layer in zip(self.stages, self._linear(), strict=True):
            own[stage].append(layer)
        # All classifiers of a stage in one product: ten columns at a time would be several times slower.
        logits = [
            functional.linear(
                parts[stage], torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
            ).unflatten(1, (len(layers), -1))
            for stage, layers in own.items()
        ]
        return torch.cat(logits, 1)

    def groups(self, settings: Sequence[Setting]) -> list[Group]:
        """Weights of each classifier with its own rate and decay."""
        return [
            Group(list(layer.parameters()), setting.rate, setting.weight_decay)
            for layer, setting in zip(self.layers, settings, strict=True)
        ]


@dataclass(frozen=True)
class LinearProbe:
    """Linear probes on the stages of a frozen network: `run()` yields (stage/metric, value), fractions."""

    data: FrozenRows
    dims: Mapping[str, int]
    """Columns of each stage in a row, in order."""
    test: torch.Tensor
    """Rows of the test set, int64."""
    classes: int
    """K."""
    epochs: int = 90
    rates: tuple[float, ...] = RATES
    """Learning rates to choose from; one is taken as it is."""
    decays: tuple[float, ...] = DECAYS
    """Weight decays to choose from."""
    folds: int = 1
    """Folds of the choice: 1 uses the validation part, more cut the whole training set."""
    crops: CropCount = "ten"
    partial: Partial = field(default_factory=Partial)
    """Where to keep the work so far."""
    name: str = "linear"
    """Names the work so far."""

    def run(self) -> Iterator[tuple[str, float]]:
        """Accuracy of every stage: `conv1/top1`, `conv1/top5` (if K > 5), `conv1/best_top1` and so on."""
        for stage, score in self.scores().items():
            for metric in ("top1", "top5", "best_top1", "best_top5"):
                value = getattr(score, metric)
                if value is not None:
                    yield f"{stage}/{metric}", value

    def scores(self) -> dict[str, StageScore]:
        """Score of every stage, in order.

        Raises:
            DataError: too few labelled images to choose on.
            RunError: the work so far cannot be kept.
        """
        kept = self.partial.read(f"{self.name}-scores")
        if kept is None:
            settings = self.choose()
            kept = {stage: vars(score) for stage, score in self._trained(settings).items()}
            self.partial.write(f"{self.name}-scores", kept)
        return {stage: StageScore(**score) for stage, score in kept.items()}

    def choose(self) -> dict[str, Setting]:
        """The setting of each stage: the best on the validation part or over the folds, of equal ones the first."""
        candidates = [Setting(*pair) for pair in product(self.rates, self.decays)]
        if len(candidates) == 1:
            return dict.fromkeys(self.dims, candidates[0])
        folds = self._folds()
        data = self.data
        if not data.cached:
            # Crops would cost a pass of the network for every epoch of the tries.
            used = torch.cat([rows for fold in folds for rows in fold])
            data = replace(data, central=Central(data.network, data.views, used, f"{data.title}, for choosing rates"))

        def tried(fold: int, train: torch.Tensor, validation: torch.Tensor) -> torch.Tensor:
            return self._tried(replace(data, rows=Part(train, validation), cached=True), candidates, fold)

        accuracy = cross_validate(folds, tried, partial=self.partial, name=f"{self.name}-choice")
        best = accuracy.argmax(1).tolist()
        return {stage: candidates[number] for stage, number in zip(self.dims, best, strict=True)}

    def _folds(self) -> list[Fold]:
        most = SELECTION_BYTES // (4 * sum(self.dims.values()))
        part = self.data.rows
        if self.folds == 1:
            return [(evenly(part.train, most), evenly(part.validation, most))]
        whole = torch.cat([part.train, part.validation]).sort().values
        return folds_of(self.data.labels, evenly(whole, most), self.folds, self.data.seed)

    def _tried(self, data: FrozenRows, candidates: Sequence[Setting], fold: int) -> torch.Tensor:
        """Accuracy [S, candidates] on the validation rows, all of them trained at once on central views."""
        stages = [stage for stage in self.dims for _ in candidates]
        module = Classifiers(self.dims, stages, self.classes, data.seed).to(data.views.device)
        settings = list(candidates) * len(self.dims)
        epochs, title = min(-(-self.epochs // 2), SELECTION_EPOCHS), f"{data.title}, choosing rates"
        self._fit(module, module, settings, data, epochs, title, f"{self.name}-try-{fold}")
        return validation_accuracy(module, data).view(len(self.dims), len(candidates))

    def _trained(self, settings: Mapping[str, Setting]) -> dict[str, StageScore]:
        data = self.data
        layers = Classifiers(self.dims, list(self.dims), self.classes, data.seed)
        module = Remembering(layers).to(data.views.device)

        def after_epoch(epoch: int) -> None:
            module.seen(epoch, data)

        chosen = [settings[stage] for stage in self.dims]
        title = f"{data.title}, {len(self.dims)} stages"
        self._fit(module, layers, chosen, data, self.epochs, title, f"{self.name}-fit", after_epoch)
        scores = module.scores(data, self.test, self.crops)
        return {
            stage: StageScore(**vars(score), **vars(settings[stage]))
            for stage, score in zip(self.dims, scores, strict=True)
        }

    def _fit(
        self,
        module: nn.Module,
        layers: Classifiers,
        settings: Sequence[Setting],
        data: FrozenRows,
        epochs: int,
        title: str,
        name: str,
        after_epoch: Callable[[int], None] = lambda epoch: None,
    ) -> None:
        how = Fit(epochs, data.steps, settings[0].rate, seed=data.seed)
        mover = Sgd(layers.groups(settings), MOMENTUM)
        partial = self.partial
        fit(
            module,
            data.batches,
            summed_cross_entropy,
            how,
            title=title,
            partial=partial,
            name=name,
            after_epoch=after_epoch,
            mover=mover,
        )
