"""Statistics of batch normalisation in protocols that hold them fixed: measured on their pictures, or kept as they are.

A network trained on crops of 32 pixels has the means and variances of those crops, and one that was never trained has
none: zeros and ones. Where a protocol lets the statistics stay (PASCAL VOC with frozen convolutions, FCN, detectors), the
two would be compared under different conditions. `measured` gives both the statistics of the same training pictures, as the
protocol shows them; no weight, scale or shift changes, and no label or test picture is looked at. `kept` leaves each
network its own, which is what the papers did.

Shapes: views [B, C, S, S], uint8 or floating in 0…1.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from unlabeled.models.backbone import Backbone
from unlabeled.models.norm import BatchNorm1d, BatchNorm2d, convert_sync

NormStatistics = Literal["measured", "kept"]

MEASURED = 64
"""Training pictures that statistics are measured on, at most."""
BATCH = 8
"""Pictures of a batch while measuring: the variance inside a batch misses an eighth of what pictures differ by."""


@contextmanager
def measuring(network: nn.Module) -> Generator[None]:
    """What passes `network` inside this block gives every batch normalisation its statistics: the mean over batches.

    No gradients, everything else in evaluation mode. Every rank passes the same views.
    """
    norms = [part for part in network.modules() if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d))]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    shared = [part for part in norms if isinstance(part, (BatchNorm1d, BatchNorm2d)) and part.synchronised]
    # The same pictures counted once for every rank would change the unbiased variance.
    convert_sync(network, enabled=False)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
        norm.train()
    with torch.no_grad():
        yield
    for norm in shared:
        norm.synchronised = True
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def measured(backbone: Backbone, views: Iterable[torch.Tensor]) -> Backbone:
    """A copy of `backbone` whose batch normalisation has the statistics of `views`, batches [B, C, S, S]."""
    made = copy.deepcopy(backbone)
    with measuring(made):
        for view in views:
            made(view)
    return made


def batches(count: int) -> list[list[int]]:
    """At most `MEASURED` of `count` pictures, evenly spread, in batches of about `BATCH`.

    Never one alone, of which a fully connected layer has no variance: a single picture is taken twice.
    """
    taken = max(2, min(MEASURED, count))
    chosen = torch.tensor([i * count // taken for i in range(taken)])
    return [part.tolist() for part in chosen.tensor_split(-(-taken // BATCH))]


def squares(views: Sequence[torch.Tensor], side: int | None = None) -> torch.Tensor:
    """The central square of every view [1, C, h, w], all at one side: uint8 [n, C, side, side], or floating.

    side: pixels; the median of the squares' sides where not given.
    """
    cut = [min(view.shape[2:]) for view in views]
    common = side or sorted(cut)[len(cut) // 2]
    made: list[torch.Tensor] = []
    for view, own in zip(views, cut, strict=True):
        top, left = (view.shape[2] - own) // 2, (view.shape[3] - own) // 2
        square = view[:, :, top : top + own, left : left + own]
        if own != common:
            square = functional.interpolate(square, (common, common), mode="bilinear", antialias=True)
        made.append(square)
    return torch.cat(made)
