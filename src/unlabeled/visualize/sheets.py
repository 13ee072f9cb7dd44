"""Sheets of pictures with captions as PNG: the same tiles give the same bytes.

A sheet has sections, a section rows, a row tiles of one size. What a frame says in colour its caption or the heading
says in words.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from unlabeled.errors import DataError
from unlabeled.visualize.charts import COLOURS, INK, MUTED

PAPER = "#ffffff"
GOOD, BAD = COLOURS[0], COLOURS[1]
"""Colours of frames, blue and vermilion: they differ in lightness too, and the second is drawn dashed."""
EDGE, GAP, FRAME = 18, 6, 4
TITLE, HEADING, SMALL = 19, 15, 12
_MOST_PIXELS = 100_000_000


@dataclass(frozen=True)
class Tile:
    """One picture, uint8 [h, w] or [h, w, C], with a line below it and perhaps a frame (`GOOD` or `BAD`)."""

    pixels: NDArray[np.uint8]
    caption: str = ""
    frame: str | None = None


@dataclass(frozen=True)
class Row:
    """Tiles side by side, parted where a tile is None; `label` stands in front."""

    tiles: Sequence[Tile | None]
    label: str = ""


@dataclass(frozen=True)
class Section:
    """Rows below a heading; `heads` are words above tiles, by the place of the tile in a row."""

    heading: str
    rows: Sequence[Row]
    heads: Mapping[int, str] = field(default_factory=dict[int, str])


def grid(tiles: Sequence[Tile], columns: int) -> list[Row]:
    """Tiles in rows of this many."""
    return [Row(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]


def sheet(title: str, note: str, sections: Sequence[Section], *, side: int = 88, crisp: bool = False) -> bytes:
    """The sections below each other as a PNG, every tile the central square of its picture, `side` pixels wide.

    `crisp` repeats pixels where tiles are enlarged, for filters; photographs are smoothed.

    Raises:
        DataError: there would be more than a hundred million pixels.
    """
    draft = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    label = max((_width(draft, row.label, SMALL) for part in sections for row in part.rows if row.label), default=0)
    label = min(label, 220) + (12 if label else 0)
    tiles = max((_extent(row, side) for part in sections for row in part.rows), default=0)
    width = int(max(2 * EDGE + label + tiles, min(2 * EDGE + _width(draft, title, TITLE), 900), 420))
    lines = _wrapped(draft, note, width - 2 * EDGE)
    height = 2 * EDGE + TITLE + 8 + len(lines) * (SMALL + 5) + sum(_height(part, side) for part in sections)
    if width * height > _MOST_PIXELS:
        raise DataError(
            f"a sheet of {width:,} × {height:,} pixels is too large to look at (the limit is {_MOST_PIXELS:,}); ask for fewer."
        )
    image = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(image)
    y = EDGE
    _write(draw, (EDGE, y), title, TITLE, INK, width - 2 * EDGE)
    y += TITLE + 8
    for line in lines:
        _write(draw, (EDGE, y), line, SMALL, MUTED, width - 2 * EDGE)
        y += SMALL + 5
    for part in sections:
        y = _draw_section(image, draw, part, y, label, side, crisp)
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


def _draw_section(
    image: Image.Image, draw: ImageDraw.ImageDraw, part: Section, y: int, label: int, side: int, crisp: bool
) -> int:
    """Paste one section at height `y`; returns where the next one begins."""
    y += 12
    if part.heading:
        _write(draw, (EDGE, y), part.heading, HEADING, INK, image.width - 2 * EDGE)
        y += HEADING + 9
    if part.heads:
        for place, words in part.heads.items():
            x = EDGE + label + _begin(part.rows[0], place, side)
            _write(draw, (x, y), words, SMALL, INK, image.width - EDGE - x)
        y += SMALL + 6
    for row in part.rows:
        if row.label:
            _write(draw, (EDGE, y + side // 2 - SMALL // 2), row.label, SMALL, INK, label - 12)
        x = EDGE + label
        for tile in row.tiles:
            if tile is None:
                x += side // 3
                continue
            image.paste(square(tile.pixels, side, crisp), (x, y))
            if tile.frame:
                _frame(draw, x, y, side, tile.frame)
            if tile.caption:
                _write(draw, (x, y + side + 2), tile.caption, SMALL, MUTED, side)
            x += side + GAP
        y += _row_height(row, side)
    return y


def square(pixels: NDArray[np.uint8], side: int, crisp: bool = False) -> Image.Image:
    """The central square of a picture at `side` × `side`: of three or more channels the first three, else the first, grey."""
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    height, width = pixels.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    pixels = pixels[top : top + short, left : left + short]
    pixels = pixels[:, :, :3] if pixels.shape[2] >= 3 else np.repeat(pixels[:, :, :1], 3, axis=2)
    how = Image.Resampling.NEAREST if crisp else Image.Resampling.BICUBIC
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((side, side), how)


def _frame(draw: ImageDraw.ImageDraw, x: int, y: int, side: int, colour: str) -> None:
    draw.rectangle((x, y, x + side - 1, y + side - 1), outline=colour, width=FRAME)
    if colour == BAD:
        # Notches make it a dashed frame: told apart without colour.
        for start in range(x + 10, x + side - 10, 16):
            draw.rectangle((start, y, start + 5, y + FRAME - 1), fill=PAPER)
            draw.rectangle((start, y + side - FRAME, start + 5, y + side - 1), fill=PAPER)
        for start in range(y + 10, y + side - 10, 16):
            draw.rectangle((x, start, x + FRAME - 1, start + 5), fill=PAPER)
            draw.rectangle((x + side - FRAME, start, x + side - 1, start + 5), fill=PAPER)


def _begin(row: Row, place: int, side: int) -> int:
    return sum(side // 3 if tile is None else side + GAP for tile in row.tiles[:place])


def _extent(row: Row, side: int) -> int:
    return _begin(row, len(row.tiles), side) - GAP


def _row_height(row: Row, side: int) -> int:
    return side + GAP + (SMALL + 3 if any(tile and tile.caption for tile in row.tiles) else 0)


def _height(part: Section, side: int) -> int:
    heads = (HEADING + 9 if part.heading else 0) + (SMALL + 6 if part.heads else 0)
    return 12 + heads + sum(_row_height(row, side) for row in part.rows)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    # Pillow brings this one along: no font of the system decides what a sheet looks like.
    return ImageFont.load_default(size)


def _width(draw: ImageDraw.ImageDraw, text: str, size: int) -> int:
    return round(draw.textlength(_clean(text), font=_font(size)))


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int, colour: str, room: int) -> None:
    """One line, cut off where it would be wider than `room`."""
    text = _clean(text)
    if _width(draw, text, size) > room:
        while text and _width(draw, text + "…", size) > room:
            text = text[:-1]
        text += "…"
    draw.text(place, text, fill=colour, font=_font(size))


def _wrapped(draw: ImageDraw.ImageDraw, text: str, room: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and _width(draw, f"{lines[-1]} {word}", SMALL) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _clean(text: str) -> str:
    # File names may hold bytes that are no text, and line breaks; Pillow's font has no multiplication sign.
    text = text.encode(errors="surrogateescape").decode(errors="replace")
    return text.translate(dict.fromkeys(range(32), " ") | {ord("×"): "x"})
