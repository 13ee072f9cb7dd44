"""Large JPEGs decoded at a fraction of their size, against decoding all of it and reducing that."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unlabeled.data.decode import decode, examine
from unlabeled.data.pixels import Undecodable
from unlabeled.data.resize import reduce, reduction
from unlabeled.data.sources import open_source
from unlabeled.data.store import open_store


def photograph(height: int, width: int, channels: int = 3) -> np.ndarray:
    """A smooth picture with a hard edge, different in every corner, so that a turn or a shift would show."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    planes = [127 + 90 * np.sin(9 * x + 3 * y + c) * np.cos(5 * y - c) + 30 * (x + y > 0.7) for c in range(channels)]
    return np.stack(planes, 2).clip(0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, mode: str = "RGB", **more: object) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels.squeeze()).convert(mode)
    picture.save(buffer, "JPEG", quality=92, **more)  # pyright: ignore
    return buffer.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize(("height", "width"), [(300, 400), (301, 409), (733, 511), (1027, 1501), (200, 2000)])
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_the_same_picture_as_decoding_everything(height: int, width: int, orientation: int) -> None:
    content = jpeg(photograph(height, width), exif=turned(orientation))
    full = decode(content)
    seen = examine(content, short_side=64)
    expected = reduce(full, 64)
    assert seen.size == full.shape[:2]
    assert seen.pixels.shape == expected.shape
    difference = np.abs(seen.pixels.astype(int) - expected)
    assert difference.mean() < 1
    assert np.percentile(difference, 99) < 8


def test_grey_stays_grey_and_other_colour_spaces_are_decoded_whole() -> None:
    grey = jpeg(photograph(400, 600, 1), "L")
    assert examine(grey, short_side=64).pixels.shape == (64, 96, 1)
    other = jpeg(photograph(400, 600), "CMYK")
    assert np.array_equal(examine(other, short_side=64).pixels, decode(other))


def test_what_is_not_much_larger_is_decoded_as_always() -> None:
    content = jpeg(photograph(178, 300))
    assert np.array_equal(examine(content, short_side=64).pixels, decode(content))
    png = io.BytesIO()
    Image.fromarray(photograph(400, 500)).save(png, "PNG")
    assert np.array_equal(examine(png.getvalue(), short_side=64).pixels, photograph(400, 500))


def test_a_cut_file_is_refused_at_every_scale() -> None:
    content = jpeg(photograph(800, 1000))
    with pytest.raises(Undecodable, match="cut short"):
        examine(content[: len(content) // 2], short_side=64)


def test_the_store_records_the_size_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "upright.jpg").write_bytes(jpeg(photograph(600, 801), exif=turned(6)))
    for channels in (None, 1):
        store = open_store(open_source(tmp_path), short_side=64, cache=None, workers=1, channels=channels)
        assert store.original_sizes.tolist() == [[801, 600]]
        assert store.sizes.tolist() == [[85, 64]]
        assert store.channels == (channels or 3)


def test_reducing_twice_changes_nothing() -> None:
    for height in range(1, 400, 7):
        for width in (1, 50, 333, 2000):
            once = reduction(height, width, 32)
            again = reduction(once.new_height, once.new_width, 32)
            assert again[2:] == (once.new_height, once.new_width) * 2
