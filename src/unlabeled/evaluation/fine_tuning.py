"""A whole network trained further on a few labels, and scored: the piece that low-shot, semi-supervised and VOC share.

The network is any module from views to outputs, the target any tensor with a row for each image of the loader's store,
the loss any function of the two. What is trained is always a copy: the backbone that is handed in is never changed.

Shapes: N images of the store, M rows that are trained or scored, B batch, S side of a view, K outputs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import nn
from torch.nn import functional

from unlabeled import progress
from unlabeled.data.loading import Loader
from unlabeled.device import autocast
from unlabeled.distributed import all_gather_rows, shard, world_size
from unlabeled.errors import DataError
from unlabeled.evaluation.fitting import Fit, Loss, fit
from unlabeled.evaluation.result_cache import Partial
from unlabeled.features import evaluation_mode
from unlabeled.metrics import topk_accuracy
from unlabeled.models import Backbone, linear_head
from unlabeled.randomness import generator

DROPS = (30 / 70, 60 / 70)
"""Shares of the training after which the learning rate falls to a tenth: "every 30 epochs" of 70 (spec O14)."""

Views = Callable[[torch.Tensor, int], Iterator[tuple[torch.Tensor, torch.Tensor]]]
"""(rows, batch size) -> (index [B], views [B, C, S, S]), or [B, n, C, S, S] where each image is seen in n crops."""


@dataclass(frozen=True)
class FineTuning:
    """How a network is trained further: plain SGD, the learning rate falling in steps."""

    epochs: int = 70
    """Passes over the rows."""
    batch_size: int = 64
    """Images of a step on all ranks together; all rows where they are fewer."""
    lr: float = 0.01
    """Learning rate at the beginning; a tenth of it after each of `drops`."""
    drops: tuple[float, ...] = DROPS
    """Shares of the training after which the rate falls."""
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 1e-4
    """On every parameter that is trained."""
    clip: float | None = None
    """Largest norm of the gradient; None leaves it as it is."""
    seed: int = 0
    """Of the order of images and of dropout; views are keyed by the loader's seed."""
    dtype: torch.dtype = torch.float32
    """Precision of the forward pass."""
    freeze_norm: bool = False
    """Whether the statistics of the normalisation layers stay as they are."""

    def lr_at(self, step: int, steps: int) -> float:
        """Learning rate of a step of `steps` in all."""
        return self.lr * 0.1 ** sum(step >= math.ceil(share * steps) for share in self.drops)


class Network(nn.Module):
    """A copy of a backbone with a new head on it. `frozen`: only the head is trained, the copy stays in evaluation mode."""

    def __init__(self, backbone: Backbone, head: nn.Module, *, frozen: bool = False) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone).requires_grad_(not frozen)
        self.head = head
        self.frozen = frozen

    def train(self, mode: bool = True) -> Self:
        """Training mode, but for a frozen backbone."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        """[B, C, S, S] to the head's outputs."""
        return self.head(self.backbone(view))


def classifier(backbone: Backbone, classes: int, *, seed: int, frozen: bool = False) -> Network:
    """A copy of `backbone` under a new linear head; equal seeds give equal heads on every rank."""
    device = next(backbone.parameters()).device
    head = linear_head(backbone, classes, generator=generator(seed, "fine-tuning head")).to(device)
    return Network(backbone, head, frozen=frozen)


def fine_tune(
    network: nn.Module,
    loader: Loader,
    rows: torch.Tensor,
    target: torch.Tensor,
    how: FineTuning,
    loss: Loss = functional.cross_entropy,
    *,
    title: str,
    partial: Partial | None = None,
    name: str = "fine-tuning",
) -> nn.Module:
    """Train those parameters of `network` that require a gradient, in place, on the images `rows` (int64 [M]).

    `target` [N, ...] has a row for each image of the store; `loss(output, target rows)` is a mean over the batch.
    Views are the loader's training views. Every rank makes its part of the batch, and two ranks take the steps of one.
    `partial` and `name` keep the work so far.

    Raises:
        DataError: no row, or a target that does not fit the store.
    """
    if not len(rows) or len(target) != len(loader.store):
        raise DataError(
            f"fine-tuning needs images and a target for each of the {len(loader.store):,} images of the store, got "
            f"{len(rows):,} images and {len(target):,} targets; give labelled images."
        )
    each, steps = batches_of(len(rows), how.batch_size)
    total, known = steps * how.epochs, target.to(loader.device)

    def batches(epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for index, view in loader.train_batches(order(rows, each * world_size(), how.seed, epoch), epoch, each):
            yield view, known[index]

    training = Fit(
        how.epochs,
        steps,
        lambda step: how.lr_at(step, total),
        momentum=how.momentum,
        weight_decay=how.weight_decay,
        clip=how.clip,
        seed=how.seed,
        dtype=how.dtype,
        freeze_norm=how.freeze_norm,
    )
    return fit(network, batches, loss, training, title=title, partial=partial, name=name)


def batches_of(count: int, batch_size: int) -> tuple[int, int]:
    """Images of a step on each rank, and steps of an epoch, for `count` images and a batch on all ranks together."""
    each = max(1, min(batch_size, count) // world_size())
    return each, max(1, count // (each * world_size()))


def order(rows: torch.Tensor, whole: int, seed: int, epoch: int) -> torch.Tensor:
    """The rows of an epoch in their order, a new one each epoch; repeated where they are fewer than `whole`, a batch."""
    shuffled = rows[torch.randperm(len(rows), generator=generator(seed, "fine-tuning order", epoch))]
    return shuffled.repeat(-(-whole // len(rows))) if len(rows) < whole else shuffled


@torch.no_grad()
def outputs(
    network: nn.Module,
    loader: Loader,
    rows: torch.Tensor,
    *,
    batch_size: int = 256,
    dtype: torch.dtype = torch.float32,
    views: Views | None = None,
    activation: Callable[[torch.Tensor], torch.Tensor] = lambda output: output.softmax(1),
    title: str = "scoring",
) -> torch.Tensor:
    """Class probabilities [M, K] of the images `rows`, in order, the same on every rank.

    `views` are the loader's central views unless given; where an image has several crops, the mean over them is taken
    after `activation` (spec E02: of the softmax). Each rank computes its shard.
    """

    def probabilities(view: torch.Tensor) -> torch.Tensor:
        crops = view.shape[1] if view.ndim == 5 else 1
        with autocast(view.device, dtype):
            output = network(view.flatten(0, 1) if view.ndim == 5 else view)
        return activation(output.float()).unflatten(0, (-1, crops)).mean(1)

    mine = rows[shard(len(rows))]
    make = views or loader.center_batches
    parts: list[torch.Tensor] = []
    with evaluation_mode(network), progress.bar(title, len(mine)) as update:
        for _, view in make(mine, batch_size):
            parts.append(probabilities(view))
            update(sum(map(len, parts)), "")
        if not parts:
            # Fewer images than processes: this one has none of them, but must know the width of a row.
            parts = [probabilities(view)[:0] for _, view in make(rows[:1], 1)]
    return all_gather_rows(torch.cat(parts)).cpu()


def accuracy(probabilities: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Shares `top1` and, of more than five classes, `top5`, of rows [M, K] whose label [M] is among the best (spec E24)."""
    found = {"top1": topk_accuracy(probabilities, labels, 1)}
    if probabilities.shape[1] > 5:
        found["top5"] = topk_accuracy(probabilities, labels, 5)
    return found
