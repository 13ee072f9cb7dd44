"""PNG files of 16-bit color or 16-bit grey with alpha, which Pillow reads as 8 bits."""

from __future__ import annotations

import io
from typing import Any, cast

import numpy as np
from PIL import Image

from unlabeled.data.pixels import composite
from unlabeled.data.reading import ReadOptions


def is_deep_png(content: bytes) -> bool:
    """Whether a PNG has 16 bits and more than one channel."""
    return content[24] == 16 and content[25] != 0


def read_png16(content: bytes, image: Image.Image, notes: list[str], options: ReadOptions) -> np.ndarray:
    """uint16 H×W×C. Pillow unpacks the high or the low bytes: both together are all."""
    key = image.info.get("transparency")
    if content[25] == 4:  # grey and alpha
        # No unpacker gives its low bytes, but two values of two bytes are four of one byte, to the filters of PNG too.
        both = _unpacked(content, "RGBA", "RGBA")
        pixels = _joined(both[:, :, ::2], both[:, :, 1::2])
    else:
        mode = image.mode
        pixels = _joined(_unpacked(content, mode, f"{mode};16B"), _unpacked(content, mode, f"{mode};16L"))
    if pixels.shape[2] in {2, 4}:
        return composite(pixels, notes, options)
    return key_on_white(pixels, cast("tuple[int, ...]", key), notes) if isinstance(key, tuple) else pixels


def key_on_white(pixels: np.ndarray, key: tuple[int, ...], notes: list[str]) -> np.ndarray:
    """Pixels of the one color that a 16-bit image declares transparent become white."""
    hidden = (pixels == np.asarray(key, pixels.dtype)).all(axis=2, keepdims=True)
    if not hidden.any():
        return pixels
    notes.append("transparent parts are put on white")
    return np.where(hidden, np.iinfo(pixels.dtype).max, pixels).astype(pixels.dtype)


def _joined(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    return high.astype(np.uint16) << 8 | low


def _unpacked(content: bytes, mode: str, raw_mode: str) -> np.ndarray:
    """Bytes of a PNG's pixels as Pillow's unpacker `raw_mode` picks them."""
    image: Any = Image.open(io.BytesIO(content), formats=("PNG",))
    with image:
        image._mode = mode
        image.tile = [image.tile[0]._replace(args=raw_mode)]
        image.load()
        return np.asarray(image)
