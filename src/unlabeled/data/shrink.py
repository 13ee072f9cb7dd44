"""Make a picture as small as the store wants it, and decode no more of a large JPEG than that takes.

JPEG holds blocks of 8×8 frequencies, and the decoder can turn a block into 4×4, 2×2 or 1×1 pixels instead, at a
fraction of the work and without aliasing. The rest of the way is the same antialiased bilinear filter that other images
go. Against decoding everything first, values differ by 0.1 to 1 of 255 on average and by up to 20 at sharp edges, less
than what compressing as JPEG has changed already.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from torch.nn import functional

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
