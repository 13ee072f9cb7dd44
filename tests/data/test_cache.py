"""The folder of decoded images: seen, emptied, bounded."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import unlabeled
from unlabeled.data.cache import clear, look, make_room, parse_size
from unlabeled.data.sources import open_source
from unlabeled.data.store import open_store
from unlabeled.errors import ConfigError


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 255, (30, 24, 24, 3), dtype=np.uint8))
    for number, side in enumerate((8, 12, 24)):
        open_store(open_source(tmp_path / "a.npy"), short_side=side, cache=folder)
        for file in (folder / f"{side}px").iterdir():
            os.utime(file, (1e9 + number * 1e5, 1e9 + number * 1e5))
    return folder


def test_what_is_there_is_told(cache: Path, tmp_path: Path):
    found = look(cache)
    assert [(one.short_side, one.images) for one in found.sizes] == [(24, 30), (12, 30), (8, 30)]
    assert found.bytes == sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
    assert unlabeled.cache(cache, json=tmp_path / "c.json") == found
    assert look(tmp_path / "nowhere").sizes == ()


def test_what_was_used_longest_ago_goes_first(cache: Path):
    largest = look(cache).sizes[0].bytes
    assert [one.short_side for one in clear(cache, down_to=largest + 10)] == [8, 12]
    assert [one.short_side for one in look(cache).sizes] == [24]
    assert clear(cache, older_than=1e6) == []
    unlabeled.cache(cache, clear=True)
    assert look(cache).sizes == ()


def test_a_limit_is_kept_and_the_images_stay_the_same(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = open_store(open_source(tmp_path / "a.npy"), short_side=16, cache=tmp_path / "other")
    monkeypatch.setenv("UNLABELED_CACHE_LIMIT", "10KB")
    store = open_store(open_source(tmp_path / "a.npy"), short_side=16, cache=cache)
    assert {path.name for path in cache.iterdir()} == {"16px"}
    assert 0 < store.num_decoded_again < 30
    assert (cache / "16px" / "pixels.bin").stat().st_size <= 10_000
    assert all(np.array_equal(store.pixels(i), whole.pixels(i)) for i in range(30))
    assert make_room(cache, cache / "16px") is not None


def test_sizes_are_read():
    assert [parse_size(text, "x") for text in ("12", "3kB", "1.5 GB", "2TB")] == [12, 3000, 1_500_000_000, 2 * 10**12]
    with pytest.raises(ConfigError, match="down_to must be a size such as 500MB or 50GB, got 'much'"):
        parse_size("much", "down_to")
