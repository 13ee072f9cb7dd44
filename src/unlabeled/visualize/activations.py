"""The images that excite each filter most, from any number of images in one pass (DeepCluster figures 4
and 5, spec V04).

How much an image excites a filter is the mean of the filter's map after the ReLU, on the central view. Only the best few
of every filter are kept while the images stream by, so the memory does not grow with their number.

Shapes: n images of this rank, B batch, F filters, k images kept of each.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

from unlabeled import progress
from unlabeled.device import autocast
from unlabeled.distributed import all_gather_rows, shard
from unlabeled.errors import ConfigError, unknown_name
from unlabeled.models import Backbone

if TYPE_CHECKING:
    from unlabeled.data.loading import Loader

TOP = 9
NONE = -1
"""Index where fewer images than k were seen."""


class TopImages:
    """The k largest values of each filter and the images they came from; equal values in the order of the images."""

    def __init__(self, filters: int, k: int = TOP) -> None:
        self.k = k
        self.values = torch.full((filters, k), -torch.inf)
        """[F, k], falling."""
        self.index = torch.full((filters, k), NONE, dtype=torch.int64)
        """[F, k]."""

    def update(self, index: torch.Tensor, values: torch.Tensor) -> None:
        """Take note of `values` [B, F] of the images `index` (int64 [B])."""
        self.merge(values.t(), index[None].expand(values.shape[1], -1))

    def merge(self, values: torch.Tensor, index: torch.Tensor) -> None:
        """Take note of values [F, m] of images [F, m]."""
        index = torch.cat((self.index, index), 1)
        values = torch.cat((self.values, values.float()), 1)
        # By image first, then stably by value: what was seen when does not matter.
        order = index.argsort(1)
        values, index = values.gather(1, order), index.gather(1, order)
        order = torch.sort(values, dim=1, descending=True, stable=True).indices[:, : self.k]
        self.values, self.index = values.gather(1, order), index.gather(1, order)

    def gathered(self) -> TopImages:
        """The best of all ranks, the same on every rank."""
        everyone = TopImages(len(self.values), self.k)
        values, index = all_gather_rows(self.values[None].contiguous()), all_gather_rows(self.index[None].contiguous())
        for part in zip(values, index, strict=True):
            everyone.merge(*part)
        return everyone


@torch.no_grad()
def stage_means(backbone: Backbone, stage: str, view: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Mean over positions of each map of `stage` after its ReLU, float32 [B, F]; evaluation mode is the caller's to set."""
    with autocast(view.device, dtype):
        for name, maps in backbone.trunk(backbone.stem(view)):
            if name == stage:
                return maps.float().mean((2, 3))
    raise ConfigError(unknown_name("stage", stage, backbone.stages))


def top_images(
    backbone: Backbone,
    stage: str,
    loader: Loader,
    *,
    k: int = TOP,
    dtype: torch.dtype = torch.float32,
    batch_size: int = 256,
) -> TopImages:
    """The k images of the loader's store that excite each filter of `stage` most, the same on every rank.

    Raises ConfigError for a stage this network does not have.
    """
    if stage not in backbone.stages:
        raise ConfigError(unknown_name("stage", stage, backbone.stages))
    backbone.eval()
    total = len(loader.store)
    rows = torch.arange(total)[shard(total)]
    found, begun = TopImages(_width(backbone, stage, loader), k), time.monotonic()
    with progress.bar(f"activations of {stage}", len(rows)) as update:
        done = 0
        for index, view in loader.center_batches(rows, batch_size):
            found.update(index.cpu(), stage_means(backbone, stage, view, dtype).cpu())
            done += len(index)
            update(done, f"{done / (time.monotonic() - begun):,.0f} images/s")
    return found.gathered()


class MeansAndFeature(nn.Module):
    """Views to the mean of every map of the last stage after its ReLU, F columns, and the feature, D more: one pass for both."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        """[B, C, S, S] to float32 [B, F + D]."""
        x = self.backbone.stem(view)
        for _, stage in self.backbone.trunk(x):
            x = stage
        # Before `pool`, which may write into the maps.
        means = x.float().mean((2, 3))
        return torch.cat((means, self.backbone.pool(x).float()), 1)


def telling(means: torch.Tensor, found: TopImages, count: int, most_known: int = TOP // 3) -> list[int]:
    """Numbers of at most `count` filters worth showing, the choosiest first; dead ones never.

    A filter is choosy where its best images excite it far more than images do on average, in standard deviations of its
    values `means` [n, F]. One more than `most_known` of whose best images are already those of others is passed over.
    """
    kept = found.index != NONE
    best = torch.where(kept, found.values, 0).sum(1) / kept.sum(1).clamp(min=1)
    choosy = (best - means.mean(0)) / means.std(0, correction=0).clamp(min=1e-12)
    alive = (found.values[:, 0] > 0).tolist()
    chosen, shown = list[int](), set[int]()
    for unit in choosy.argsort(descending=True, stable=True).tolist():
        images = set(found.index[unit][kept[unit]].tolist())
        if len(chosen) < count and alive[unit] and len(images & shown) <= most_known:
            chosen.append(unit)
            shown |= images
    return chosen


def _width(backbone: Backbone, stage: str, loader: Loader) -> int:
    # A rank without images must know how many filters there are too.
    first: Iterable[tuple[torch.Tensor, torch.Tensor]] = loader.center_batches(torch.zeros(1, dtype=torch.int64), 1)
    return stage_means(backbone, stage, next(iter(first))[1]).shape[1]
