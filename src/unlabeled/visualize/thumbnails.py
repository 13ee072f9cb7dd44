"""What several pictures need of a run: its images, small pictures of them, filters and rows named by text."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, features

from unlabeled.data.store import ImageStore
from unlabeled.errors import ConfigError, DataError
from unlabeled.runs.opened import OpenedRun

UNITS_SHOWN = 25
"""Filters of a stage that are drawn unless others are asked for."""


def opened(run: OpenedRun, data: str | Path | None) -> ImageStore:
    """The images given, or those of the training."""
    return run.record.open(data or run.record.data)


def thumbnail(store: ImageStore, i: int) -> NDArray[np.uint8]:
    """Image `i` as it is shown, uint8 [h, w, 1 or 3]."""
    return store.shown(i)


def channels_last(image: torch.Tensor) -> NDArray[np.uint8]:
    """uint8 [C, h, w] as [h, w, C]."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def parse_units(text: str | None, width: int, stage: str) -> list[int]:
    """Filters from text such as "0-24,40" or "all", rising; the first 25 for None.

    Raises:
        ConfigError: this is no such text, or the stage has fewer filters.
    """
    if text is None:
        return list(range(min(UNITS_SHOWN, width)))
    if text.strip() == "all":
        return list(range(width))
    units: set[int] = set()
    try:
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            units |= set(range(int(first), int(last if dash else first) + 1))
    except ValueError:
        units = set()
    if not units:
        raise ConfigError(f"--units are numbers of filters such as 0-24,40 or all, got '{text}'.")
    if max(units) >= width:
        raise ConfigError(f"{stage} has {width:,} filters, 0 to {width - 1:,}, and --units asks for {max(units):,}.")
    return sorted(units)


def at_least_one(**values: int) -> None:
    """Raise ConfigError for an option below 1."""
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {value}.")


def choice(name: str, value: str, known: Sequence[str]) -> None:
    """Raise ConfigError for a value that is none of those known."""
    if value not in known:
        raise ConfigError(f"--{name} is {' or '.join(known)}, got '{value}'.")


def json_text(value: Any) -> str:
    """JSON, readable and diffable."""
    return json.dumps(value, indent=2) + "\n"


MARGIN = 1
LARGEST_SIDE = 64
SMALLEST_SIDE = 16


@dataclass(frozen=True)
class Sheet:
    """One encoded sheet: its `data:` address and its size, in per cent of the size of one tile."""

    uri: str
    width_percent: float
    height_percent: float


@dataclass(frozen=True)
class SpriteTile:
    """Where one thumbnail is: the number of its sheet and its CSS `background-position`, per cent."""

    sheet: int
    x: float
    y: float


def pack(
    thumbnails: Sequence[np.ndarray], *, columns: int = 24, quality: int = 78
) -> tuple[list[Sheet], list[SpriteTile]]:
    """Pack thumbnails (uint8, H×W or H×W×C, any sizes) into sheets of at most columns × columns tiles, in order.

    A tile shows the central square. One channel is shown grey, of three or more the first three are taken for red,
    green and blue. Tiles are as large as the largest thumbnail needs, 16 to 64 pixels. Encoded as WebP, or as JPEG
    where Pillow was built without it. Raises DataError for anything that is not a uint8 picture.
    """
    if not thumbnails:
        return [], []
    largest = max(min(_checked(thumbnail).shape[:2]) for thumbnail in thumbnails)
    side = min(max(largest, SMALLEST_SIDE), LARGEST_SIDE)
    pitch = side + 2 * MARGIN
    sheets: list[Sheet] = []
    tiles: list[SpriteTile] = []
    for start in range(0, len(thumbnails), columns * columns):
        part = thumbnails[start : start + columns * columns]
        across = min(columns, len(part))
        down = -(-len(part) // across)
        canvas = np.full((down * pitch, across * pitch, 3), 128, dtype=np.uint8)
        for i, thumbnail in enumerate(part):
            row, column = divmod(i, across)
            top, left = row * pitch, column * pitch
            tile = np.pad(square(thumbnail, side), ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), mode="edge")
            canvas[top : top + pitch, left : left + pitch] = tile
            # CSS aligns the point at p % of the picture with the point at p % of the element.
            x = 100 * (left + MARGIN) / (across * pitch - side)
            y = 100 * (top + MARGIN) / (down * pitch - side)
            tiles.append(SpriteTile(len(sheets), round(x, 3), round(y, 3)))
        sheets.append(Sheet(encode(canvas, quality), 100 * across * pitch / side, 100 * down * pitch / side))
    return sheets, tiles


def mosaic(tiles: np.ndarray, columns: int, side: int = 44) -> str:
    """Small pictures uint8 [F, h, w, 3] in rows as one exact PNG, a `data:` address, see-through between them.

    Every pixel is repeated so often that a tile is at least `side` wide; nothing is blended.
    """
    count, height, width = tiles.shape[:3]
    times = -(-side // width)
    columns = min(columns, count)
    high, wide, gap = height * times, width * times, max(2, times)
    canvas = np.zeros((-(-count // columns) * (high + gap) - gap, columns * (wide + gap) - gap, 4), np.uint8)
    for i, tile in enumerate(tiles):
        top, left = (i // columns) * (high + gap), (i % columns) * (wide + gap)
        canvas[top : top + high, left : left + wide, :3] = tile.repeat(times, 0).repeat(times, 1)
        canvas[top : top + high, left : left + wide, 3] = 255
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def square(thumbnail: np.ndarray, side: int) -> np.ndarray:
    """The central square of a picture as uint8 [side, side, 3], resized with antialiasing."""
    pixels = _checked(thumbnail)
    height, width = pixels.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    pixels = pixels[top : top + short, left : left + short]
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    pixels = pixels[:, :, :3] if pixels.shape[2] >= 3 else np.repeat(pixels[:, :, :1], 3, axis=2)
    if short == side:
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def encode(pixels: np.ndarray, quality: int = 78) -> str:
    """A uint8 [H, W, 3] picture as a `data:` address; the same pixels give the same address."""
    kind = "webp" if features.check("webp") else "jpeg"
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=quality)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _checked(thumbnail: np.ndarray) -> np.ndarray:
    if thumbnail.dtype != np.uint8 or thumbnail.ndim not in (2, 3) or 0 in thumbnail.shape:
        raise DataError(
            f"a thumbnail must be a uint8 array H×W or H×W×C, got {thumbnail.dtype} with shape {thumbnail.shape}; "
            "scale it to 0..255 first."
        )
    return thumbnail
