"""What training fixed about pixels holds for every later image."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from pictures import Trained, pictures
from unlabeled.data.sources import open_source
from unlabeled.data.store import open_store
from unlabeled.errors import DataError, RunError
from unlabeled.runs.folder import RunFolder
from unlabeled.runs.images import DataRecord, default_cache, digest, probe, same_images
from unlabeled.writing import write_json


def record_of(path: Path) -> DataRecord:
    return DataRecord.of(open_store(open_source(path), short_side=32, cache=None), str(path), None, 32, None)


def test_sixteen_bits_are_scaled_by_the_range_of_the_training_images(tmp_path: Path):
    grey = np.linspace(1000, 5000, 20 * 16 * 16).reshape(20, 16, 16).astype(np.uint16)
    np.save(tmp_path / "train.npy", grey)
    np.save(tmp_path / "dark.npy", grey[:2])
    record = record_of(tmp_path / "train.npy")
    low, high = record.value_range["low"][0], record.value_range["high"][0]
    assert 1000 <= low < 1100 and 4900 < high <= 5000
    alone, together = record.open(tmp_path / "dark.npy"), record.open(tmp_path / "train.npy")
    assert (alone.pixels(1) == together.pixels(1)).all()
    assert record_of(tmp_path / "dark.npy").value_range != record.value_range


def test_new_images_get_the_channels_of_the_training_images(trained: Trained, tmp_path: Path):
    np.save(tmp_path / "grey.npy", pictures(4)[0][..., 0])
    record = DataRecord.read(RunFolder(trained.run))
    assert record.open(tmp_path / "grey.npy").channels == 3
    np.save(tmp_path / "six.npy", np.zeros((4, 16, 16, 6), np.uint8))
    with pytest.raises(DataError, match="none of the 4 images"):
        record.open(tmp_path / "six.npy")


def test_a_record_is_written_and_read_back(trained: Trained, tmp_path: Path):
    run = RunFolder(tmp_path)
    record = DataRecord.read(RunFolder(trained.run))
    assert record.count == 120 and record.channels == 3 and record.is_colour
    write_json(run.data, asdict(record))
    assert DataRecord.read(run) == record
    for spoiled in (asdict(record) | {"value_range": {}}, asdict(record) | {"more": 1}, [], 3):
        write_json(run.data, spoiled)
        with pytest.raises(RunError, match=r"data\.json is damaged"):
            DataRecord.read(run)


def test_other_images_are_refused_by_number_and_by_name(tmp_path: Path):
    np.save(tmp_path / "a.npy", pictures(8)[0])
    record = record_of(tmp_path / "a.npy")
    store = record.open(tmp_path / "a.npy")
    same_images(store, record, tmp_path)
    np.save(tmp_path / "a.npy", pictures(7)[0])
    with pytest.raises(DataError, match=r"7 readable images .* 8"):
        same_images(record.open(tmp_path / "a.npy"), record, tmp_path)
    store.names[0] = "another"
    with pytest.raises(DataError, match="names compared"):
        same_images(store, record, tmp_path)


def test_the_digest_knows_order_and_bounds():
    assert digest(["a", "b"]) != digest(["b", "a"])
    assert digest(["ab"]) != digest(["a", "b"])
    assert digest(["\udcff"]) != digest(["?"])


def test_a_probe_looks_at_a_few_and_survives_broken_ones(tmp_path: Path, trained: Trained):
    facts = probe(open_source(trained.photos), "cpu")
    assert (facts.count, facts.channels, facts.height, facts.width, facts.is_colour) == (120, 3, 20, 20, True)
    (tmp_path / "broken.png").write_text("no picture")
    assert probe(open_source(tmp_path), "cpu").count == 1


def test_the_cache_is_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("UNLABELED_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("UNLABELED_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "unlabeled"


def test_images_that_moved_are_looked_for_where_the_command_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    np.save(tmp_path / "here.npy", pictures(4)[0])
    monkeypatch.chdir(tmp_path)
    record = record_of(Path("here.npy"))
    assert len(record.source()) == 4
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for ask in (record.source, lambda: record.open("here.npy")):
        with pytest.raises(DataError, match=r"looked for in here\.npy from .*elsewhere.*data\.json"):
            ask()
    named = replace(record, data="gone.npz:images")
    with pytest.raises(DataError, match=r"looked for in gone\.npz:images"):
        named.require()
