from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from unlabeled.errors import DataError
from unlabeled.visualize.thumbnails import Sheet, SpriteTile, encode, pack, square


def opened(sheet: Sheet) -> np.ndarray:
    head, _, content = sheet.uri.partition(",")
    assert head in ("data:image/webp;base64", "data:image/jpeg;base64")
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        return np.asarray(image.convert("RGB"))


def as_a_browser_shows(sheet: Sheet, tile: SpriteTile, side: int) -> np.ndarray:
    """The part of the sheet that CSS puts into an element of one tile's size."""
    pixels = opened(sheet)
    height, width = pixels.shape[:2]
    assert sheet.width_percent == pytest.approx(100 * width / side)
    assert sheet.height_percent == pytest.approx(100 * height / side)
    left, top = (width - side) * tile.x / 100, (height - side) * tile.y / 100
    assert left == pytest.approx(round(left), abs=0.02)
    return pixels[round(top) : round(top) + side, round(left) : round(left) + side]


def test_every_tile_shows_its_own_thumbnail() -> None:
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (11, 3), dtype=np.uint8)
    thumbnails = [np.full((20, 20, 3), colour, dtype=np.uint8) for colour in colours]
    sheets, tiles = pack(thumbnails, columns=3, quality=95)
    assert len(sheets) == 2
    assert [tile.sheet for tile in tiles] == [0] * 9 + [1] * 2
    for tile, colour in zip(tiles, colours, strict=True):
        shown = as_a_browser_shows(sheets[tile.sheet], tile, 20).reshape(-1, 3).mean(axis=0)
        assert np.abs(shown - colour).max() < 25  # chroma of a lossy format blends at the border


def test_square_takes_the_middle_and_understands_any_number_of_channels() -> None:
    wide = np.zeros((4, 12), dtype=np.uint8)
    wide[:, 4:8] = 200
    assert (square(wide, 4) == 200).all()
    assert square(wide[:, :, None], 4).shape == (4, 4, 3)
    six = np.stack([np.full((5, 5), i, dtype=np.uint8) for i in range(6)], axis=2)
    assert square(six, 5)[0, 0].tolist() == [0, 1, 2]
    assert square(six[:, :, 3:5], 5)[0, 0].tolist() == [3, 3, 3]
    assert square(np.full((300, 200, 3), 77, dtype=np.uint8), 64).shape == (64, 64, 3)
    assert (square(np.full((300, 200, 3), 77, dtype=np.uint8), 64) == 77).all()


def test_no_thumbnails_no_sheet() -> None:
    assert pack([]) == ([], [])


def test_equal_pixels_equal_text() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    assert encode(pixels) == encode(pixels.copy())


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4), dtype=np.float32), np.zeros(4, np.uint8), np.zeros((0, 4), np.uint8)]
)
def test_anything_but_a_picture_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(DataError, match="uint8 array"):
        pack([wrong])
