from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from report_pages import made
from unlabeled.errors import DataError
from unlabeled.report import atlas as atlas_module
from unlabeled.report.atlas import coarse, even_sample, repeats, to_json
from unlabeled.report.facts import Colouring


def array_of(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def test_what_goes_in_comes_out() -> None:
    one = made(40)
    one = replace(one, colourings=[*one.colourings, Colouring("label", np.array([-1.0, *range(39)]), ["x"] * 39)])
    value = json.loads(to_json(one, "runs/a"))
    assert value["names"] == one.names
    assert (value["count"], value["total"], value["width"], value["run"]) == (40, 40, 12, "runs/a")
    assert np.array_equal(array_of(value["clusters"], "<u2"), one.clusters)
    assert np.array_equal(array_of(value["neighbours"], "<u2").reshape(40, 12), one.neighbours)
    places = array_of(value["positions"], "<u2").reshape(40, 2)
    expected = (one.positions - one.positions.min(0)) / np.ptp(one.positions, 0)
    assert np.abs(places / 65_535 - expected).max() < 1e-4
    assert np.abs(array_of(value["similarities"], "u1").reshape(40, 12) / 250 - one.similarities).max() < 0.003
    brightness, _, label = value["colourings"]
    shown = brightness["low"] + array_of(brightness["values"], "u1") / 255 * (brightness["high"] - brightness["low"])
    inside = (one.colourings[0].values > brightness["low"]) & (one.colourings[0].values < brightness["high"])
    assert np.abs(shown - one.colourings[0].values)[inside].max() < 0.01
    assert array_of(label["values"], "<u2")[0] == 65_535
    assert value["tree"]["pairs"] == one.tree.pairs.tolist()
    assert to_json(one, "runs/a") == to_json(one, "runs/a")


def test_no_name_can_end_the_element() -> None:
    text = to_json(made(10), "<b>")
    assert not set("<>&") & set(text)
    assert json.loads(text)["run"] == "<b>"


def test_pictures_that_cost_too_much_get_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 64, 64, 3), dtype=np.uint8)
    one = replace(made(60), thumbnails=list(noise))
    large = json.loads(to_json(one, "r"))
    assert large["side"] == 48
    monkeypatch.setattr(atlas_module, "MOST_PICTURE_BYTES", 60_000)
    small = json.loads(to_json(one, "r"))
    assert small["side"] < 48
    assert sum(map(len, small["sheets"])) < 60_000


def sameness(first: np.ndarray, second: np.ndarray) -> int:
    """What the page says of two pictures."""
    pair = [first, second]
    cells = np.stack([coarse(one) for one in pair])
    blank = np.array([(one == one[0, 0]).all() for one in pair])
    found = repeats(cells, blank, np.array([[1], [0]]), [one.tobytes() + bytes(one.shape) for one in pair])
    assert found[0, 0] == found[1, 0]
    return int(found[0, 0])


def texture(seed: int, level: float, spread: float, grain: int, light: float = 0) -> np.ndarray:
    """A random texture, 160 × 160 × 3, with `spread` as its standard deviation, `light` levels darker at the edges."""
    side = 160 // grain
    noise = np.random.default_rng(seed).normal(size=(side, side)).astype(np.float32)
    soft = np.asarray(Image.fromarray(noise).resize((160, 160), Image.Resampling.BICUBIC))
    y, x = np.mgrid[-1:1:160j, -1:1:160j]
    grey = level + spread * soft / soft.std() - light * (x * x + y * y) / 2
    return np.repeat(grey.round().clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def as_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "jpeg", quality=quality)
    return np.asarray(Image.open(buffer))


def resized(pixels: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


LOOKS = [(4, 1, 2, 0), (6, 2, 8, 0), (6, 2, 32, 0), (24, 3, 2, 16), (24, 3, 8, 16), (120, 40, 8, 0)]
"""Level, spread, grain and fall of light."""


@pytest.mark.parametrize("look", LOOKS)
def test_different_pictures_are_no_duplicates_however_dim(look: tuple[float, float, int, float]) -> None:
    different = [texture(seed, *look) for seed in range(8)]
    assert [sameness(one, other) for one, other in combinations(different, 2)] == [0] * 28


@pytest.mark.parametrize("look", LOOKS)
def test_a_picture_saved_again_or_resized_is_a_duplicate(look: tuple[float, float, int, float]) -> None:
    one = texture(0, *look)
    # A fine texture of one grey level does not survive quality 75: what is left may be called another picture.
    quality = 75 if look[1] > 1 else 96
    assert sameness(one, one.copy()) == 2
    assert sameness(one, as_jpeg(one, quality)) == 1
    assert sameness(one, resized(one, 80)) == 1
    assert sameness(one, resized(one, 240)) == 1


def test_blank_pictures_of_one_shade_are_duplicates_and_nothing_else_is_one_of_them() -> None:
    blank = np.full((40, 40, 3), 9, np.uint8)
    assert sameness(blank, blank.copy()) == 2
    assert sameness(blank, np.full((30, 50, 3), 10, np.uint8)) == 1
    assert sameness(blank, np.full((40, 40, 3), 30, np.uint8)) == 0
    assert sameness(blank, texture(0, 9, 1, 2)) == 0


def test_the_same_picture_much_brighter_is_another() -> None:
    assert sameness(texture(0, 60, 9, 8), texture(0, 60, 9, 8) + np.uint8(20)) == 0
    assert sameness(texture(0, 60, 9, 8), texture(0, 60, 9, 8) + np.uint8(1)) == 1


def test_an_even_sample() -> None:
    assert even_sample(3).tolist() == [0, 1, 2]
    assert even_sample(10, 4).tolist() == [0, 2, 5, 7]
    assert len(np.unique(even_sample(1_234_567))) == 10_000


def test_lists_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(DataError, match="one of everything"):
        to_json(replace(made(10), distances=np.zeros(9)), "r")
