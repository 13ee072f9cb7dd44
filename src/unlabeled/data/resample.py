"""Cutting boxes out of stored images and resizing them to one size, antialiased: two routes, one result.

`crop_cpu` takes images of any size from the memory-mapped store, one native uint8 resampling per image. `crop_device`
takes images of equal size that already lie on the device and resamples the whole batch with two batched matrix
products. Both use the triangle filter of PIL's and torchvision's antialiased bilinear resize and agree within a grey
level or two. Shapes: B batch, C channels, h×w stored image, S side of a view.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch
from torch.nn import functional

from unlabeled.data.augment import Parameters


class Pixels(Protocol):
    """Images that can be read one by one."""

    @property
    def channels(self) -> int:
        """Channels of every image."""
        ...

    def pixels(self, i: int) -> torch.Tensor:
        """uint8 [h, w, C] of image i."""
        ...


def crop_cpu(
    store: Pixels, index: torch.Tensor, params: Parameters, size: int, pool: ThreadPoolExecutor | None = None
) -> torch.Tensor:
    """Views of the images `index` [B]: uint8 [B, C, size, size], channels last, mirrored where `params` says so.

    `pool` spreads the images over threads; the result does not depend on it.
    """
    # Made height × width × channels, which is what channels last means.
    views = torch.empty((len(index), size, size, store.channels), dtype=torch.uint8).permute(0, 3, 1, 2)
    images = index.tolist()
    boxes = params.box.long().tolist()
    flips = params.flip.tolist()

    def crop_some(part: Sequence[int]) -> None:
        for row in part:
            views[row] = _crop_one(store.pixels(images[row]), boxes[row], flips[row], size)

    if pool is None or len(images) < 8:
        crop_some(range(len(images)))
    else:
        list(pool.map(crop_some, (range(start, min(start + 8, len(images))) for start in range(0, len(images), 8))))
    return views


def _crop_one(image: torch.Tensor, box: list[int], flip: list[bool], size: int) -> torch.Tensor:
    top, left, height, width = box
    view = image[top : top + height, left : left + width].permute(2, 0, 1)[None]
    if height != size or width != size:
        # Torch's fast route wants pixels in a row; without this copy it would make a slower one itself.
        view = view.contiguous(memory_format=torch.channels_last)
        view = functional.interpolate(view, (size, size), mode="bilinear", antialias=True)
    view = view[0]
    mirrored = [dim for dim, wanted in ((2, flip[0]), (1, flip[1])) if wanted]
    return view.flip(mirrored) if mirrored else view


def crop_device(images: torch.Tensor, params: Parameters, size: int) -> torch.Tensor:
    """Views of `images` (uint8 [B, h, w, C], on any device): float32 in [0, 1], [B, C, size, size].

    The same views as `crop_cpu` makes, but not rounded to whole grey levels.
    """
    batch, height, width, channels = images.shape
    box, flip = params.box.to(images.device), params.flip.to(images.device)
    rows = triangle_weights(box[:, 0], box[:, 2], flip[:, 1], height, size)
    columns = triangle_weights(box[:, 1], box[:, 3], flip[:, 0], width, size)
    # Rows first: the product leaves pixels and channels together, so nothing has to be transposed before it.
    squeezed = torch.bmm(rows, images.reshape(batch, height, width * channels).float().mul_(1 / 255))
    squeezed = squeezed.view(batch, size, width, channels).permute(0, 3, 1, 2).reshape(batch, channels * size, width)
    return torch.bmm(squeezed, columns.transpose(1, 2)).view(batch, channels, size, size).clamp_(0, 1)


def triangle_weights(
    start: torch.Tensor, length: torch.Tensor, flip: torch.Tensor, extent: int, size: int
) -> torch.Tensor:
    """Matrix [B, size, extent] that resamples pixels start .. start + length of a line to `size` pixels.

    Antialiased bilinear: output pixel i looks at position (i + 1/2) length / size with a triangle whose half width is
    max(1, length / size); weights outside the box are zero and each row sums to one, as in PIL.
    """
    scale = (length / size)[:, None]
    half = scale.clamp(min=1)[..., None]
    position = torch.arange(size, device=start.device) + 0.5
    # Mirrored, output pixel i is where size - 1 - i would be.
    mirrored = flip[:, None].float()
    middle = scale * (mirrored * size + (1 - 2 * mirrored) * position)
    pixel = torch.arange(extent, device=start.device) + 0.5 - start[:, None]
    weights = ((pixel[:, None, :] - middle[..., None]) / half).abs_().neg_().add_(1).clamp_(min=0)
    weights *= ((pixel > 0) & (pixel < length[:, None]))[:, None, :]
    # As a product with ones, the sum over short lines is several times faster than `sum`.
    return weights.div_(weights @ torch.ones((extent, 1), device=start.device))
