from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from unlabeled.errors import DataError
from unlabeled.visualize.sheets import BAD, GOOD, Row, Section, Tile, grid, sheet, square


def picture(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def plain(value: int) -> np.ndarray:
    return np.full((20, 30, 3), value, dtype=np.uint8)


def test_every_tile_is_on_the_sheet_and_equal_input_gives_equal_bytes():
    tiles = [Tile(plain(40 + 30 * i), f"number {i}") for i in range(6)]
    made = sheet("Title", "A note.", [Section("Heading", grid(tiles, 4), {0: "first"})], side=32)
    assert made == sheet("Title", "A note.", [Section("Heading", grid(tiles, 4), {0: "first"})], side=32)
    pixels = picture(made)
    for i in range(6):
        assert (pixels == 40 + 30 * i).all(2).sum() >= 32 * 32


def test_frames_of_neighbours_differ_in_form_too():
    def frame(kind: str | None) -> np.ndarray:
        return picture(sheet("", "", [Section("", [Row([Tile(plain(128), frame=kind)])])], side=80))

    def white_inside(pixels: np.ndarray) -> int:
        found = np.argwhere((pixels == 128).all(2))
        (top, left), (bottom, right) = found.min(0) - 4, found.max(0) + 5
        return int((pixels[top:bottom, left:right] == 255).all(2).sum())

    assert white_inside(frame(GOOD)) == 0 and white_inside(frame(BAD)) > 100


@pytest.mark.parametrize("shape", [(5, 5), (9, 5, 1), (5, 9, 2), (8, 8, 3), (8, 8, 6), (1, 1, 3)])
def test_pictures_of_any_shape_become_square_colour_tiles(shape: tuple[int, ...]):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert square(pixels, 16).size == (16, 16) and square(pixels, 16).mode == "RGB"


def test_filters_are_not_smoothed():
    pixels = np.array([[0, 255], [255, 0]], dtype=np.uint8)
    assert set(np.unique(np.asarray(square(pixels, 8, crisp=True)))) == {0, 255}


def test_hostile_names_and_long_words_stay_on_the_sheet():
    names = ["<script>\n\x1b[31m", "x" * 500, "\udcff", "日本"]
    rows = [Row([Tile(plain(9), name)], name) for name in names]
    pixels = picture(sheet(names[1], " ".join(names), [Section(names[0], rows)], side=32))
    assert pixels.shape[1] <= 936


def test_a_sheet_nobody_could_look_at_is_refused():
    rows = [Row([Tile(plain(0))] * 100)] * 2000
    with pytest.raises(DataError, match="too large to look at"):
        sheet("", "", [Section("", rows)])
