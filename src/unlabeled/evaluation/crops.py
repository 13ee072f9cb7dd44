"""Views of the linear probes: random crops to train on, ten crops to be scored on, and how ten answers become one.

DeepCluster's probe (spec P11, E02): short side to 256, its central square, from it a random crop of 224, mirrored half
the time; for the score the four corners and the centre of that square, each also mirrored, and the mean of the softmax
over the ten. Noise As Targets sums the logits instead (spec E01, trap 13; golden `tencrop`).

For other sizes the crop is the same share, 7/8, of the square, unless the run itself cuts its central view from a
larger square (`resize` above `image_size`): then that share.

Shapes: B images, C channels, S side of a view, K classes. Boxes are (top, left, height, width) in the stored image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

import torch

from unlabeled.data.augment import Parameters, Views, center
from unlabeled.data.loading import Loader
from unlabeled.errors import DataError

CropCount = Literal["one", "ten"]
Aggregate = Literal["mean_softmax", "sum_logits"]

SHARE = 224 / 256
"""Side of a crop over the side of the square it is cut from."""
CROPS = 10

ViewBatches = Callable[[torch.Tensor, int], Iterator[tuple[torch.Tensor, torch.Tensor]]]
"""(rows, batch size) -> (rows [B], views [B, n, C, S, S]): each image in n crops."""


def share_of(views: Views) -> float:
    """Side of a crop over the side of its square, for these views."""
    return views.image_size / views.resize if views.resize > views.image_size else SHARE


def random_crops(views: Views, sizes: torch.Tensor, generator: torch.Generator) -> Parameters:
    """A crop of the central square for each image of `sizes` [B, 2], at a random place, mirrored half the time."""
    place = torch.rand((len(sizes), 2), generator=generator, dtype=torch.float64)
    mirrored = torch.rand(len(sizes), generator=generator) < 0.5
    return _crops(views, sizes, place, mirrored)


def ten_crops(views: Views, sizes: torch.Tensor) -> Parameters:
    """Ten crops of each image of `sizes` [B, 2], image by image: upper left, upper right, lower left, lower right, centre,
    then the same of the mirrored image, as torchvision's TenCrop; 10 · B rows.
    """
    plain = torch.tensor([(0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5)], dtype=torch.float64)
    # The left of the mirrored image is the right of the image.
    corners = torch.cat([plain, torch.stack([plain[:, 0], 1 - plain[:, 1]], 1)])
    mirrored = torch.arange(CROPS) >= CROPS // 2
    count = len(sizes)
    return _crops(views, sizes.repeat_interleave(CROPS, 0), corners.repeat(count, 1), mirrored.repeat(count))


def _crops(views: Views, sizes: torch.Tensor, place: torch.Tensor, mirrored: torch.Tensor) -> Parameters:
    # `place`: float64 [B, 2] in 0…1, 0 = at the upper or left edge of the square.
    square = sizes.min(1).values
    side = (square.double() * share_of(views)).round().clamp(min=1).long()
    corner = ((sizes - square[:, None]).double() / 2).round()
    room = (square - side)[:, None]
    begin = (corner + (place * (room + 1)).floor().clamp(max=room)).float()
    box = torch.cat([begin, side[:, None].expand(-1, 2).float()], 1)
    flip = torch.stack([mirrored, torch.zeros_like(mirrored)], 1)
    return replace(center(views, sizes), box=box, flip=flip)


def ten_crop_views(loader: Loader) -> ViewBatches:
    """Ten crops of images of `loader`, `batch_size` images at a time: (rows [B], views [B, 10, C, S, S])."""

    def make(rows: torch.Tensor, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        parts = rows.cpu().split(batch_size) if len(rows) else ()
        wanted = ((part.repeat_interleave(CROPS), ten_crops(loader.views, loader.store.sizes[part])) for part in parts)
        for index, view in loader.cut(wanted):
            yield index[::CROPS], view.unflatten(0, (-1, CROPS))

    return make


def central_views(loader: Loader) -> ViewBatches:
    """The view every image is embedded by: (rows [B], views [B, 1, C, S, S])."""

    def make(rows: torch.Tensor, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for index, view in loader.center_batches(rows, batch_size):
            yield index, view[:, None]

    return make


def aggregate(logits: torch.Tensor, how: Aggregate = "mean_softmax") -> torch.Tensor:
    """Scores [B, ..., K] of each image from the logits [B, n, ..., K] of its n crops."""
    return logits.softmax(-1).mean(1) if how == "mean_softmax" else logits.sum(1)


@dataclass(frozen=True)
class RowViews:
    """Views of the rows of several opened sets of images, which count through one after the other."""

    loaders: tuple[Loader, ...]
    """One for each set."""

    @property
    def device(self) -> torch.device:
        """Where views are made."""
        return self.loaders[0].device

    def training(
        self, steps: Iterable[tuple[torch.Tensor, torch.Generator, slice]]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Random crops: for each (rows of the whole batch, its generator, the part of it to make) a pair (rows [b], views
        [b, C, S, S]). All rows of a call lie in one set.
        """
        ahead = iter(steps)
        first = next(ahead, None)
        if first is None:
            return
        loader, offset = self._home(first[0])

        def wanted() -> Iterator[tuple[torch.Tensor, Parameters]]:
            for rows, generator, part in chain([first], ahead):
                drawn = random_crops(loader.views, loader.store.sizes[rows - offset], generator)
                yield rows[part] - offset, drawn[part]

        for index, view in loader.cut(wanted()):
            yield index + offset, view

    def crops(self, rows: torch.Tensor, batch_size: int, crops: CropCount = "one") -> Iterator[torch.Tensor]:
        """Views [B, n, C, S, S] of rows of one set, in order: the central view, or ten crops."""
        if not len(rows):
            return
        loader, offset = self._home(rows)
        make = central_views(loader) if crops == "one" else ten_crop_views(loader)
        for _, view in make(rows - offset, batch_size):
            yield view

    def _home(self, rows: torch.Tensor) -> tuple[Loader, int]:
        offset = 0
        for loader in self.loaders:
            if int(rows[0]) < offset + len(loader.store):
                return loader, offset
            offset += len(loader.store)
        raise DataError(f"row {int(rows[0]):,} was asked for, the sets hold {offset:,} images.")
