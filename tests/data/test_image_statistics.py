"""Statistics of images: by hand on made pictures, against the standard library for hues, and on files with dates."""

from __future__ import annotations

import colorsys
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unlabeled.data import image_statistics as image_statistics_module
from unlabeled.data.image_statistics import COLOURS, HUES, Statistic, image_statistics, measure
from unlabeled.data.sources import open_source
from unlabeled.data.store import open_store


def statistics(data: Path, with_source: bool = True) -> dict[str, Statistic]:
    source = open_source(data)
    store = open_store(source, short_side=64, cache=None)
    return {one.name: one for one in image_statistics(store, source if with_source else None)}


def save(folder: Path, name: str, pixels: np.ndarray) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def test_brightness_contrast_sharpness_size_and_aspect(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3))
    smooth = np.broadcast_to(np.linspace(0, 255, 40)[None, :, None], (40, 40, 3))
    save(tmp_path, "a.png", noise)
    save(tmp_path, "b.png", smooth)
    save(tmp_path, "c.png", np.full((20, 80, 3), 51))
    found = statistics(tmp_path)
    assert found["brightness"].values[1:] == pytest.approx([0.5, 0.2], abs=1e-2)
    assert found["contrast"].values[2] == pytest.approx(0, abs=1e-6)
    assert found["contrast"].values[1] == pytest.approx(np.linspace(0, 1, 40).std(), abs=1e-2)
    assert found["sharpness"].values[0] > found["sharpness"].values[1] + 2 > found["sharpness"].values[2]
    assert found["size"].values == pytest.approx(np.log2([1600, 1600, 1600]).tolist()) if "size" in found else True
    assert found["aspect"].values.tolist() == [0, 0, 2]
    # All three have as many pixels and lie in one folder: that says nothing, and is left out.
    assert "size" not in found and "folder" not in found
    assert found["brightness"].kind == "number" and found["brightness"].low == "darker"


def test_the_dominant_colour_has_a_name(tmp_path: Path):
    degrees = {"red": 0, "orange": 30, "yellow": 55, "green": 120, "cyan": 180, "blue": 225, "purple": 270, "pink": 320}
    assert tuple(degrees) == HUES
    for number, hue in enumerate(degrees.values()):
        pixels = np.full((16, 16, 3), 128)
        pixels[:6] = np.array(colorsys.hsv_to_rgb(hue / 360, 0.8, 0.9)) * 255
        save(tmp_path, f"{number}.png", pixels)
    for number, grey in enumerate((10, 128, 250), start=len(degrees)):
        save(tmp_path, f"{number:02d}z.png", np.full((16, 16, 3), grey))
    source = open_source(tmp_path)
    found = statistics(tmp_path)["colour"]
    assert found.kind == "category" and found.categories == COLOURS
    named = dict(zip(source.names, (COLOURS[int(value)] for value in found.values), strict=True))
    assert [named[f"{i}.png"] for i in range(8)] == list(HUES)
    assert [named[f"{i:02d}z.png"] for i in range(8, 11)] == ["black", "grey", "white"]


def test_folders_and_dates_of_files(tmp_path: Path):
    for number, (folder, day) in enumerate([("b", 20_000), ("a", 20_001), ("b", 20_002.5)]):
        path = save(tmp_path, f"{folder}/{number}.png", np.full((8, 8, 3), 40 * number))
        os.utime(path, (day * 86_400, day * 86_400))
    found = statistics(tmp_path)
    assert found["folder"].categories == ("a", "b") and found["folder"].values.tolist() == [0, 1, 1]
    assert found["date"].values.tolist() == [20_001, 20_000, 20_002.5]
    assert not {"folder", "date"} & set(statistics(tmp_path, with_source=False))


def test_dates_of_a_copy_are_left_out(tmp_path: Path):
    paths = [
        save(tmp_path, f"{'ab'[number % 2]}/{number:02d}.png", np.full((8, 8, 3), 4 * number)) for number in range(40)
    ]
    for second, path in enumerate(paths):
        os.utime(path, (20_000 * 86_400 + second, 20_000 * 86_400 + second))
    os.utime(paths[7], (18_000 * 86_400, 18_000 * 86_400))  # one that was there before
    assert set(statistics(tmp_path)) & {"folder", "date"} == {"folder"}
    for day, path in enumerate(paths):
        os.utime(path, (20_000 * 86_400, (20_000 + day / 8) * 86_400))
    assert "date" in statistics(tmp_path)


def test_images_of_many_sizes_are_measured_each_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    random = np.random.default_rng(0)
    for number in range(30):
        side = (12, 12, 20)[number % 3]
        save(tmp_path, f"{number:02d}.png", random.integers(0, 255, (side, side + number % 2, 3)))
    store = open_store(open_source(tmp_path), short_side=64, cache=None)
    monkeypatch.setattr(image_statistics_module, "PARTS_WAITING", 4)
    told: list[int] = []
    found = measure(store, lambda done, _: told.append(done))
    assert told[-1] == 30 and told == sorted(told)
    for i in range(30):
        pixels = store.pixels(i).numpy().astype(np.float64) / 255
        grey = pixels.mean(2)
        assert found[i, :2] == pytest.approx([grey.mean(), grey.std()], abs=1e-5)
        assert found[i, 5:].tolist() == store.original_sizes[i].tolist()


def test_grey_images_and_arrays_have_no_colour_and_no_date(tmp_path: Path):
    np.save(tmp_path / "grey.npy", np.random.default_rng(0).integers(0, 255, (5, 9, 9), dtype=np.uint8))
    assert {"brightness", "contrast", "sharpness"} <= set(found := statistics(tmp_path / "grey.npy"))
    assert not {"colour", "saturation", "date", "folder"} & set(found)
