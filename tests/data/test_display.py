"""How images are shown: channels, brightness, what the run remembers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

import unlabeled
from pictures import SETTINGS
from unlabeled.data.display import Display, display_of, from_record, parse_channels
from unlabeled.data.sources import open_source
from unlabeled.data.store import open_store
from unlabeled.errors import ConfigError, DataError, RunError
from unlabeled.explorer.thumbnails import Pictures


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five-channel 16-bit pictures, dark but for a few bright spots that stretch the range."""
    folder = tmp_path_factory.mktemp("cells")
    rng = np.random.default_rng(0)
    for k in range(40):
        pixels = rng.integers(100, 1000, (24, 24, 5)).astype(np.uint16)
        pixels[..., 4] //= 2
        pixels[:2, 2] = 60000
        tifffile.imwrite(folder / f"{k:02}.tif", pixels, photometric="minisblack", planarconfig="contig")
    return folder


def test_deep_pictures_are_shown_bright_and_the_chosen_channels(cells: Path) -> None:
    store = open_store(open_source(cells), short_side=24, cache=None)
    assert np.median(store.pixels(0)) < 10, "as the network sees them"
    shown = store.shown(0)
    assert shown.shape == (24, 24, 3) and np.median(shown) > 80
    chosen = display_of(store, parse_channels("5,1,2"))
    assert chosen.sentence(5) == "5, 1, 2 of 5 as red, green and blue, brightened for the screen"
    # By hand: the percentiles of one channel over all pixels.
    values = np.concatenate([store.pixels(i).numpy()[:, :, 4].ravel() for i in range(40)])
    low, high = np.percentile(values, [1, 99.5])
    want = np.rint(np.clip((store.pixels(3).numpy()[:, :, 4] - np.float32(low)) / np.float32(high - low), 0, 1) * 255)
    np.testing.assert_array_equal(chosen.apply(store.pixels(3).numpy())[:, :, 0], want)
    assert display_of(store, [2]).apply(store.pixels(0).numpy()).shape == (24, 24, 1)
    for wrong in ("6", "0", "1,2", "1,2,3,4"):
        with pytest.raises(ConfigError, match="of 1 to 5"):
            display_of(store, parse_channels(wrong))
    with pytest.raises(ConfigError, match="counted from 1"):
        parse_channels("red")


def test_eight_bits_are_shown_as_they_are(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", rgb)
    store = open_store(open_source(tmp_path), short_side=8, cache=None)
    np.testing.assert_array_equal(store.shown(0), rgb)
    assert display_of(store).sentence(3) == ""
    assert Display((0, 1, 2), (0.0,) * 3, (255.0,) * 3).apply(rgb[:, :, :1]).shape == (8, 8, 3)


def test_the_run_remembers_and_the_explorer_shows_the_same(cells: Path, tmp_path: Path) -> None:
    run = unlabeled.train(cells, tmp_path / "run", cache=tmp_path / "cache", show_channels="3", **SETTINGS)
    assert "3 of 5, brightened for the screen" in (tmp_path / "run" / "report.html").read_text()
    assert run.record.display["channels"] == [2]
    run.report(show_channels="4,3,2")
    again = unlabeled.load(tmp_path / "run")
    assert again.record.display["channels"] == [3, 2, 1]
    store = again.record.open(cells)
    np.testing.assert_array_equal(Pictures(again.record, again.names).pixels(0), store.shown(0))
    assert "4, 3, 2 of 5 as red, green and blue" in (tmp_path / "run" / "report.html").read_text()
    with pytest.raises(ConfigError, match="of 1 to 5"):
        unlabeled.train(cells, tmp_path / "other", cache=tmp_path / "cache", show_channels="7", **SETTINGS)
    assert not (tmp_path / "other").exists()
    shutil.copytree(tmp_path / "run", tmp_path / "damaged")
    path = tmp_path / "damaged" / "data.json"
    path.write_text(path.read_text().replace('"channels": [\n', '"channel": [\n', 1))
    with pytest.raises((DataError, RunError)):
        unlabeled.load(tmp_path / "damaged").record  # noqa: B018
    with pytest.raises(DataError, match="must hold channels"):
        from_record({"channels": [1]})
