"""Make a picture as small as the store wants it, and decode no more of a large JPEG than that takes.

JPEG holds blocks of 8×8 frequencies, and the decoder can turn a block into 4×4, 2×2 or 1×1 pixels instead, at a
fraction of the work and without aliasing. The rest of the way is the same antialiased bilinear filter that other images
go. Against decoding everything first, values differ by 0.1 to 1 of 255 on average and by up to 20 at sharp edges, less
than what compressing as JPEG has changed already.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from torch.nn import functional

from unlabeled.data.augment import Parameters

LONGEST = 4
"""The long side of a stored image is at most this many times the short side asked for."""
DECODER_MARGIN = 1.4
"""The decoder leaves the short side at least this many times too long, so that the filter, not it, decides."""


class Reduction(NamedTuple):
    """The part of a picture that is kept, and what size it becomes; pixels."""

    top: int
    left: int
    height: int
    width: int
    new_height: int
    new_width: int


def reduction(height: int, width: int, short_side: int) -> Reduction:
    """Short side at most `short_side`, never enlarged; a long side beyond four times that loses both ends."""
    scale = max(1.0, min(height, width) / short_side)
    longest = round(LONGEST * short_side * scale)
    top, left = max(0, height - longest) // 2, max(0, width - longest) // 2
    height, width = min(height, longest), min(width, longest)
    return Reduction(top, left, height, width, max(1, round(height / scale)), max(1, round(width / scale)))


def reduce(pixels: np.ndarray, short_side: int) -> np.ndarray:
    """uint8 H×W×C with the short side reduced to `short_side` (antialiased bilinear), the long one cut to four times
    that. Smaller images keep their size."""
    top, left, height, width, new_height, new_width = reduction(pixels.shape[0], pixels.shape[1], short_side)
    pixels = pixels[top : top + height, left : left + width]
    if (height, width) == (new_height, new_width):
        return np.ascontiguousarray(pixels)
    if not pixels.flags.writeable:
        pixels = pixels.copy()  # torch has no read-only tensors and warns
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    small = functional.interpolate(image, (new_height, new_width), mode="bilinear", antialias=True)[0]
    return small.permute(1, 2, 0).contiguous().numpy()


def load(image: Image.Image, short_side: int) -> Image.Image:
    """Load `image`; a JPEG of grey or RGB at least 2.8 times as large as `short_side` asks comes out reduced to it."""
    factor = next((f for f in (8, 4, 2) if min(image.size) >= f * DECODER_MARGIN * short_side), 0)
    if short_side and factor and isinstance(image, JpegImageFile) and image.mode in {"L", "RGB"}:
        top, left, height, width, new_height, new_width = reduction(image.height, image.width, short_side)
        if image.draft(None, (image.width // factor, image.height // factor)):
            # In pixels of the smaller picture, whose last row and column may reach beyond the edge of the original.
            box = (left / factor, top / factor, (left + width) / factor, (top + height) / factor)
            return image.resize((new_width, new_height), Image.Resampling.BILINEAR, box)
    image.load()
    return image


class PixelSource(Protocol):
    """Images that can be read one by one."""

    @property
    def channels(self) -> int:
        """Channels of every image."""
        ...

    def pixels(self, i: int) -> torch.Tensor:
        """uint8 [h, w, C] of image i."""
        ...


def crop_cpu(
    store: PixelSource, index: torch.Tensor, params: Parameters, size: int, pool: ThreadPoolExecutor | None = None
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
