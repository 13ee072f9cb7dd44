"""The data behind the map, the neighbours and the merging of clusters: packed so that ten thousand images fit a page.

Numbers are little-endian arrays of one or two bytes in base64, thumbnails are sprite sheets, and all of it is one JSON
text without `<`, `>` and `&`: whatever a file is called, the text cannot end the element it stands in.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unlabeled.errors import DataError
from unlabeled.report.facts import Atlas, Colouring
from unlabeled.visualize import thumbnails as sprites

MOST_IMAGES = 10_000
"""Images of one page; of more, an even sample."""
MOST_PICTURE_BYTES = 6_500_000
"""Of all thumbnails in base64; where they need more, they are made smaller and coarser."""
COLUMNS = 32
_SIZES = ((48, 75), (40, 70), (32, 70), (32, 50), (24, 45), (24, 20))
"""Pixels of a thumbnail and quality, best first."""
_LARGE_UP_TO = 4000
"""Images of a page that may have thumbnails above 32 pixels."""
_CELLS = 16
_NEAR_LEVELS = 5.1
"""2 % of the range: photographs of 64 pixels and more keep it through JPEG or half their size, mostly through both."""
_NEAR_CORRELATION = 0.95
"""Saved as JPEG of quality 75, a texture that spreads over two grey levels mostly stays above it; different textures under
one fall of light reach 0.7, very smooth ones 0.95."""


def to_json(atlas: Atlas, run: str) -> str:
    """The atlas as text for the page; `run` names the run in the commands shown.

    Raises:
        DataError: too many images, or lists that do not belong together.
    """
    count = len(atlas.names)
    lists = (atlas.thumbnails, atlas.positions, atlas.clusters, atlas.distances, atlas.neighbours, atlas.similarities)
    if count > 65_535 or any(len(one) != count for one in (*lists, *(c.values for c in atlas.colourings))):
        raise DataError(
            f"an atlas needs one of everything for each of its images, at most 65,535; it has {count:,} names."
        )
    side, sheets = _sheets(atlas.thumbnails)
    similarity = np.clip(np.asarray(atlas.similarities), 0, 1) * 250
    value: dict[str, Any] = {
        "run": run,
        "count": count,
        "total": max(atlas.total, count),
        "side": side,
        "margin": sprites.MARGIN,
        "columns": COLUMNS,
        "sheets": sheets,
        "names": list(atlas.names),
        "positions": packed(_scaled(atlas.positions) * 65_535, "<u2"),
        "clusters": packed(atlas.clusters, "<u2"),
        "distances": packed(_scaled(np.asarray(atlas.distances)[:, None]) * 65_535, "<u2"),
        "width": atlas.neighbours.shape[1],
        "neighbours": packed(atlas.neighbours, "<u2"),
        "similarities": packed(similarity.round(), "u1"),
        "repeated": packed(atlas.repeated, "u1") if atlas.repeated.any() else "",
        "tree": {"sizes": atlas.tree.sizes.tolist(), "pairs": atlas.tree.pairs.tolist()},
        "colourings": [_colouring(one) for one in atlas.colourings],
    }
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def packed(values: NDArray[Any], kind: str) -> str:
    """An array as base64 of its bytes, row by row, in the NumPy type `kind`."""
    return base64.b64encode(np.ascontiguousarray(values).astype(kind).tobytes()).decode("ascii")


def even_sample(total: int, most: int = MOST_IMAGES) -> NDArray[np.int64]:
    """Rows to show of `total`: all, or `most` of them at even distances."""
    count = min(total, most)
    return np.arange(count) * total // max(count, 1)


def coarse(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The central square of a picture [H, W, C] as mean grey levels of 16 × 16 equal cells, [16, 16, C].

    They are not rounded: a dim picture has its texture in fractions of a level.
    """
    height, width, channels = pixels.shape
    short = min(height, width)
    box = ((width - short) / 2, (height - short) / 2, (width + short) / 2, (height + short) / 2)
    planes = [Image.fromarray(pixels[:, :, channel].astype(np.float32)) for channel in range(channels)]
    return np.stack(
        [np.asarray(one.resize((_CELLS, _CELLS), Image.Resampling.BOX, box=box)) for one in planes], axis=-1
    )


def repeats(
    cells: NDArray[np.float32], blank: NDArray[np.bool_], neighbours: NDArray[np.int64], digests: Sequence[bytes]
) -> NDArray[np.uint8]:
    """Which neighbours [N, k] are the same picture: 2 where the digests of all pixels are equal, 1 nearly, 0 not.

    Two pictures are nearly the same if their `cells` [N, 16, 16, C], made by `coarse`, differ by less than 2 % of the
    range on average and also change alike from each cell to the next, with a correlation above 0.95, or if both are
    `blank` [N]. Grey levels alone would call all dim pictures the same, and a correlation of the levels
    themselves those that share no more than the fall of light towards the edges.
    """
    known = {digest: number for number, digest in enumerate(dict.fromkeys(digests))}
    pixels = np.array([known[digest] for digest in digests])
    found = np.zeros(neighbours.shape, np.uint8)
    for start in range(0, len(cells), 1024):
        part = slice(start, start + 1024)
        steps = _steps(cells[part])
        for place in range(neighbours.shape[1]):
            other = neighbours[part, place]
            close = np.abs(cells[part] - cells[other]).mean((1, 2, 3)) < _NEAR_LEVELS
            like = np.einsum("nd,nd->n", steps, _steps(cells[other])) > _NEAR_CORRELATION
            nearly = close & (like | (blank[part] & blank[other]))
            found[part, place] = np.where(pixels[part] == pixels[other], 2, nearly)
    return found


def _steps(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    # The differences between cells that touch, [n, D] of length 1; zeros where the cells are all equal.
    across, down = np.diff(cells, axis=2), np.diff(cells, axis=1)
    steps = np.concatenate([across.reshape(len(cells), -1), down.reshape(len(cells), -1)], axis=1)
    return steps / np.maximum(np.linalg.norm(steps, axis=1, keepdims=True), 1e-6)


def _sheets(thumbnails: Sequence[np.ndarray]) -> tuple[int, list[str]]:
    # The largest thumbnails that fit, all square: their side and the addresses of their sheets.
    if not len(thumbnails):
        return 16, []
    largest = max(min(one.shape[:2]) for one in thumbnails)
    side, sheets, squares = 0, list[str](), list[np.ndarray]()
    for size, quality in _SIZES:
        wanted = max(min(size, largest), sprites.SMALLEST_SIDE)
        if wanted > 32 and len(thumbnails) > _LARGE_UP_TO:
            continue
        if side != wanted:
            side, squares = wanted, [sprites.square(one, wanted) for one in thumbnails]
        sheets = [sheet.uri for sheet in sprites.pack(squares, columns=COLUMNS, quality=quality)[0]]
        if sum(map(len, sheets)) <= MOST_PICTURE_BYTES:
            break
    return side, sheets


def _scaled(values: NDArray[Any]) -> NDArray[np.float64]:
    # Each column from 0 to 1.
    numbers = np.asarray(values, np.float64)
    low, high = numbers.min(0), numbers.max(0)
    return (numbers - low) / np.maximum(high - low, 1e-12)


def coded(one: Colouring) -> tuple[dict[str, Any], NDArray[np.uint8 | np.uint16]]:
    """What the page says of a colouring, and its values [N]: two bytes for a category (65,535: none), else one of 256 steps."""
    values = np.asarray(one.values, np.float64)
    if one.categories:
        codes = np.where(values < 0, 65_535, values).astype(np.uint16)
        return {"name": one.name, "categories": list(one.categories), "scale": one.scale}, codes
    # Few extreme images must not take all the colours.
    low, high = np.percentile(values, [2, 98])
    if low == high:
        low, high = values.min(), values.max()
    steps = np.clip((values - low) / max(float(high - low), 1e-12), 0, 1) * 255
    words = {"name": one.name, "low": float(low), "high": float(high), "scale": one.scale, "ends": list(one.ends)}
    return words, steps.round().astype(np.uint8)


def _colouring(one: Colouring) -> dict[str, Any]:
    words, values = coded(one)
    return words | {"values": packed(values, "<u2" if one.categories else "u1")}
