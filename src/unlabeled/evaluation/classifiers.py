"""Classifiers trained side by side on the same rows, and what each of them was in its best epoch.

The papers report the best epoch on the set they report; here the best on a held-out part of the training set stands beside
the last one.

Shapes: B rows, D numbers of a row, P classifiers, K classes, M test images.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from unlabeled.evaluation.crops import Aggregate, CropCount
from unlabeled.evaluation.frozen import FrozenRows, validation_accuracy
from unlabeled.metrics import topk_accuracy


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
