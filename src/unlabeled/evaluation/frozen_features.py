"""A frozen network and labelled images, as the rows a classifier is trained, validated and scored on.

Two ways to train: on random crops, for which the network runs again in every epoch (as published), or on rows of the
central view that are computed once. Validation always uses the central view, and only rows of the training set.

Shapes: n rows of a part, D numbers of a row, b rows of this rank in a batch, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from unlabeled import progress
from unlabeled.distributed import all_gather_rows, rank, shard, world_size
from unlabeled.evaluation.crops import CROPS, Aggregate, CropCount, RowViews, aggregate
from unlabeled.features import allocate
from unlabeled.randomness import generator

BATCH = 256
"""Images of a training step, as published, and views of a forward pass."""
AT_ONCE = 1024
"""Validation rows classified at once."""
LEAST_BATCH = 8
"""But no smaller than this where there are so many: batch normalisation needs company."""
LEAST_STEPS = 10
"""An epoch has at least so many steps: small sets are cut into smaller batches, or nothing would be learned in time."""


@dataclass(frozen=True)
class Part:
    """Training rows of a probe and the rows it is validated on, both from the training set."""

    train: torch.Tensor
    validation: torch.Tensor


class Central:
    """Rows of the central views of some images, computed when first asked for, the same on every rank, on the CPU."""

    def __init__(self, network: nn.Module, views: RowViews, rows: torch.Tensor, title: str = "features") -> None:
        """`network`: views [B, C, S, S] to float32 rows [B, D], in evaluation mode. `rows`: int64, in any order."""
        self.network, self.views, self.title = network, views, title
        self.rows = rows.unique()

    def at(self, rows: torch.Tensor) -> torch.Tensor:
        """[n, D] of images that are among those this was made for."""
        return self._computed[torch.searchsorted(self.rows, rows)]

    @cached_property
    def _computed(self) -> torch.Tensor:
        mine = self.rows[shard(len(self.rows))]
        # Fewer images than processes: one that has none must still know how long a row is.
        asked = mine if len(mine) else self.rows[:1]
        made, done = torch.empty(0, 0), 0
        with progress.bar(self.title, len(asked)) as update:
            for view in self.views.crops(asked, BATCH):
                found = self.network(view[:, 0]).cpu()
                made = made if done else allocate(len(asked), found.shape[1])
                made[done : done + len(found)] = found
                done += len(found)
                update(done, "")
        return all_gather_rows(made[: len(mine)])


@dataclass(frozen=True, eq=False)
class FrozenRows:
    """What a classifier on a frozen network sees."""

    network: nn.Module
    """Views [B, C, S, S] to float32 rows [B, D], in evaluation mode."""
    views: RowViews
    labels: torch.Tensor
    """Class of every row, int64 [N]."""
    rows: Part
    """To learn from and to validate on."""
    central: Central
    """Central views of the validation rows; where `cached`, of the training rows too."""
    cached: bool
    """Whether to train on the central views instead of random crops."""
    seed: int
    title: str = "features"

    @property
    def batch_size(self) -> int:
        """Images of a step on all ranks together, a multiple of their number."""
        count = len(self.rows.train)
        wanted = min(BATCH, max(count // LEAST_STEPS, min(count, LEAST_BATCH)))
        return max(wanted // world_size(), 1) * world_size()

    @property
    def steps(self) -> int:
        """Steps of an epoch: what does not fill a batch waits for the next epoch's order."""
        return max(len(self.rows.train) // self.batch_size, 1)

    def batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """This rank's (rows [b, D], classes [b]) of every step of an epoch, on the device."""
        count, device = len(self.rows.train), self.views.device
        order = torch.randperm(count, generator=generator(self.seed, "probe order", epoch))
        order = order.repeat(-(-self.batch_size // count))  # fewer images than processes
        each = self.batch_size // world_size()
        mine = slice(rank() * each, (rank() + 1) * each)
        steps = [self.rows.train[part] for part in order.split(self.batch_size)[: self.steps]]
        if self.cached:
            for step in steps:
                yield self.central.at(step[mine]).to(device), self.labels[step[mine]].to(device)
            return
        wanted = ((step, generator(self.seed, "probe views", epoch, number), mine) for number, step in enumerate(steps))
        for index, view in self.views.training(wanted):
            yield self.network(view), self.labels[index.cpu()].to(device)

    def scores(
        self,
        classify: Callable[[torch.Tensor], torch.Tensor],
        rows: torch.Tensor,
        crops: CropCount,
        how: Aggregate = "mean_softmax",
    ) -> torch.Tensor:
        """Scores [M, ..., K] of images from `classify(rows [B, D])` -> logits [B, ..., K] of each of their crops."""
        mine = rows[shard(len(rows))]
        asked = mine if len(mine) else rows[:1]
        each = BATCH if crops == "one" else max(BATCH // CROPS, 1)
        found: list[torch.Tensor] = []
        with progress.bar(f"{self.title}, scoring", len(asked)) as update, torch.no_grad():
            for view in self.views.crops(asked, each, crops):
                logits = classify(self.network(view.flatten(0, 1))).float()
                found.append(aggregate(logits.unflatten(0, view.shape[:2]), how).cpu())
                update(sum(map(len, found)), "")
        return all_gather_rows(torch.cat(found)[: len(mine)])


@torch.no_grad()
def validation_accuracy(module: nn.Module, data: FrozenRows) -> torch.Tensor:
    """Accuracy [P] of classifiers (rows [B, D] to logits [B, P, K]) on the validation rows, float32, on the CPU.

    It is the same on every rank. A classifier whose logits are not numbers (its learning rate was too large) has none right.
    """
    wanted = data.labels[data.rows.validation]
    right: list[torch.Tensor] = []
    for rows, target in zip(data.rows.validation.split(AT_ONCE), wanted.split(AT_ONCE), strict=True):
        logits = module(data.central.at(rows).to(data.views.device)).float().cpu()
        is_number = logits.isfinite().all(2)
        right.append((logits.argmax(2) == target[:, None]) & is_number)
    return torch.cat(right).float().mean(0)
