"""The clusters of every epoch are kept: all of them, each once, small, and readable by anyone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import unlabeled
from pictures import pictures
from runs import SMALL, assert_same_run, train_with_stops
from unlabeled import metrics
from unlabeled.config import Config
from unlabeled.errors import RunError
from unlabeled.runs import cluster_history

SETTINGS = SMALL | {"image_size": 24, "resize": 24, "batch_size": 20, "epochs": 5, "reassign_every": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "stripes.npy"
    np.save(path, pictures(48, side=20)[0])
    return path


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "assignments").iterdir())


def test_every_clustering_of_a_run_is_kept_stopped_or_not(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = unlabeled.train(data, tmp_path / "whole", cache=tmp_path / "cache", **SETTINGS)
    # Epoch 5 is too short a stretch for new clusters.
    assert names(run.path) == ["epoch-00001.npy", "epoch-00003.npy"]
    assert run.clustered_epochs == [1, 3]
    stored = np.load(run.path / "assignments" / "epoch-00003.npy", allow_pickle=False)
    assert stored.dtype == np.int8
    assert torch.equal(run.assignments(3), torch.from_numpy(stored).long())
    assert torch.equal(run.assignments(), run.assignments(3)), "the last one serves to the end"
    assert torch.equal(run.assignments(2), run.assignments(1))
    # The journal's numbers about epoch 3 can be had again from the files.
    now, before = run.assignments(3), run.assignments(1)
    assert metrics.nmi(now, before) == pytest.approx(run.history[2]["nmi_previous"], abs=1e-6)
    assert float(torch.bincount(now).max()) / 48 == pytest.approx(run.history[2]["largest_share"])
    with pytest.raises(RunError, match="no clusters of epoch 0"):
        run.assignments(0)
    train_with_stops(data, tmp_path / "stopped", 2, monkeypatch, SETTINGS)
    assert_same_run(tmp_path / "stopped", run.path)
    unlabeled.train(data, run.path, cache=tmp_path / "cache", if_exists="replace", **(SETTINGS | {"epochs": 0}))
    assert not (run.path / "assignments").exists(), "those of an earlier run go with it"


def test_pic_keeps_its_own_and_other_methods_make_none(data: Path, tmp_path: Path) -> None:
    some = SETTINGS | {"epochs": 1, "reassign_every": 1, "cache": tmp_path / "cache"}
    run = unlabeled.train(data, tmp_path / "pic", clustering="pic", bandwidth=0.8, singletons="drop", **some)
    found = run.assignments(1)
    assert int(found.max()) + 1 == run.history[0]["num_clusters"]
    assert float((found >= 0).double().mean()) == pytest.approx(run.history[0]["labelled_share"])
    run = unlabeled.train(data, tmp_path / "nat", method="nat", **some)
    assert run.clustered_epochs == []
    with pytest.raises(RunError, match="only DeepCluster makes some"):
        run.assignments()


def test_numbers_take_the_smallest_type(tmp_path: Path) -> None:
    for largest, kind in ((127, np.int8), (128, np.int16), (32767, np.int16), (32768, np.int32)):
        labels = torch.tensor([-1, largest])
        path = cluster_history.write(tmp_path, 0, labels)
        assert np.load(path).dtype == kind
        assert torch.equal(cluster_history.read(tmp_path, 1), labels)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-00001.npy"]


def test_of_very_many_images_every_kth_clustering_is_kept() -> None:
    paper = Config(num_clusters=10_000, epochs=500)
    # 500 clusterings of 1.28 million images at two bytes are 1.28 GB, a little above the limit.
    assert cluster_history.every(paper, 1_281_167) == 2
    assert [cluster_history.is_kept(paper, 1_281_167, epoch) for epoch in range(4)] == [True, False, True, False]
    assert cluster_history.every(paper, 500_000) == 1
    assert cluster_history.every(paper.replace(reassign_every=10.0), 1_281_167) == 1
    assert cluster_history.every(paper.replace(clustering="pic"), 1_281_167) == 3
    thinned = paper.replace(reassign_every=3.0, epochs=1500)
    assert [epoch for epoch in range(0, 15, 3) if cluster_history.is_kept(thinned, 1_281_167, epoch)] == [0, 6, 12]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    cluster_history.write(tmp_path, 4, torch.zeros(9, dtype=torch.int64)).write_bytes(b"\x93NUMPY")
    with pytest.raises(RunError, match=r"epoch-00005\.npy is damaged"):
        cluster_history.read(tmp_path, 5)
