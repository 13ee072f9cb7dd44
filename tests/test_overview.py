from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import unlabeled
from pictures import Trained
from unlabeled.data.image_statistics import measure
from unlabeled.data.store import ImageStore
from unlabeled.errors import RunError
from unlabeled.report import overview as looked
from unlabeled.report.collect import facts, most_alike, stability
from unlabeled.report.overview import kept_measurements, measured, neighbors, overview, positions
from unlabeled.runs import cluster_history


def test_a_run_seen_as_a_whole(trained: Trained) -> None:
    run = unlabeled.load(trained.run)
    store = run.record.open(run.record.data)
    seen = overview(run, store)
    atlas = seen.atlas
    assert list(atlas.names) == store.names
    assert atlas.neighbours.shape == (120, 12)
    cosine = run.catalogue.features @ run.catalogue.features.T
    cosine.fill_diagonal_(-2)
    expected = cosine.sort(dim=1, descending=True).values[:, :12].numpy()
    assert np.abs(atlas.similarities - expected).max() < 1e-5
    assert (atlas.neighbours != np.arange(120)[:, None]).all()
    folder = next(one for one in atlas.colourings if one.name == "folder")
    assert list(folder.categories) == ["kind0", "kind1", "kind2", "kind3"]
    assert [folder.categories[int(i)] + "/" for i in folder.values] == [name[:6] for name in store.names]
    assert seen.place.tolist() == list(range(120))
    assert {one.name for one in seen.explanation.statistics} >= {"brightness", "folder"}


def test_of_many_images_an_even_sample_is_shown(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looked, "even_sample", lambda total: np.arange(0, total, 4))
    run = unlabeled.load(trained.run)
    store = run.record.open(run.record.data)
    seen = overview(run, store)
    assert len(seen.atlas.names) == 30
    assert seen.atlas.total == 120
    assert seen.place[4] == 1
    assert (seen.place[1:4] == -1).all()
    # What is said of the images is said of those shown, and all of them are measured: the explorer shows all.
    brightness = next(one for one in seen.atlas.colourings if one.name == "brightness").values
    kept = kept_measurements(run.folder.statistics)
    assert kept is not None and len(kept) == 120
    assert brightness == pytest.approx(kept[::4, 0])
    # The numbers of images are those of the run all the same.
    assert seen.atlas.tree.sizes.sum() == 120


def test_copies_are_not_their_own_neighbours() -> None:
    rows = torch.nn.functional.normalize(torch.ones(20, 3), dim=1)
    similarity, index = neighbors(rows, 4)
    assert index.shape == (20, 4)
    assert similarity == pytest.approx(1)
    assert neighbors(rows[:1])[1].shape == (1, 0)


def test_the_map_is_kept_for_the_features_it_was_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    kept = tmp_path / "projection.safetensors"
    first = positions(kept, rows, 0)
    calls: list[int] = []

    def counted(features: np.ndarray, seed: int) -> np.ndarray:
        calls.append(seed)
        return np.zeros((len(features), 2), np.float32)

    monkeypatch.setattr(looked, "project", counted)
    assert np.array_equal(positions(kept, rows, 0), first)
    assert calls == []
    assert (positions(kept, rows + 1, 0) == 0).all()
    kept.write_bytes(b"no tensors")
    assert (positions(kept, rows, 3) == 0).all()
    assert calls == [0, 3]

    def refused(path: Path) -> Path:
        raise RunError("no room")

    monkeypatch.setattr(looked, "replacing", refused)
    assert (positions(kept, rows, 5) == 0).all()


def test_every_image_is_measured_once(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = unlabeled.load(trained.run)
    store = run.record.open(run.record.data)
    kept = tmp_path / "statistics.safetensors"
    first = measured(kept, store)
    assert first.shape == (120, 7)
    assert first == pytest.approx(measure(store))
    assert first[:, 5:].tolist() == store.original_sizes.tolist()
    back = kept_measurements(kept)
    assert back is not None and np.array_equal(back, first)

    calls: list[int] = []

    def counted(store: ImageStore, update: object) -> np.ndarray:
        calls.append(len(store))
        return np.zeros((len(store), 7), np.float32)

    monkeypatch.setattr(looked, "measure", counted)
    assert np.array_equal(measured(kept, store), first)
    assert calls == []
    monkeypatch.setattr(store, "names", [*store.names[1:], "another.png"])
    assert (measured(kept, store) == 0).all()
    kept.write_bytes(b"no tensors")
    assert kept_measurements(kept) is None
    assert (measured(kept, store) == 0).all()
    save_file({"measured": torch.zeros(120, 3)}, kept)
    assert kept_measurements(kept) is None
    assert calls == [120, 120]


def test_clusters_most_like_a_cluster() -> None:
    features = torch.tensor([[1.0, 0, 0], [0.9, 0.1, 0], [0, 0, 1.0], [-1, 0, 0]])
    labels = torch.tensor([0, 1, 2, 4])
    found = most_alike(features, labels, torch.bincount(labels, minlength=5))
    assert found[0][0] == 1
    assert found[1][0] == 0
    assert all(3 not in row and i not in row for i, row in enumerate(found))


def test_stability_is_read_where_it_was_written(trained: Trained, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(trained.run, copy)
    run = unlabeled.load(copy)
    assert stability(run, 3) == []
    for text, expected in (
        ('{"per_cluster": [0.5, null, 1]}', [0.5, None, 1]),
        ('{"per_cluster": [1]}', []),
        ("[]", []),
        ("nothing", []),
    ):
        (copy / "stability.json").write_text(text)
        assert stability(run, 3) == expected


def test_epochs_that_made_clusters_or_codes_anew(trained: Trained, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(trained.run, copy)
    settings = json.loads((copy / "config.json").read_text())
    epochs = range(1, 9)

    def found(**changes: Any) -> list[int] | None:
        (copy / "config.json").write_text(json.dumps(settings | {"epochs": 8} | changes))
        run = unlabeled.load(copy)
        return cluster_history.rewritten(run.config, run.folder.assignments, 120, epochs)

    # What was kept says more than the settings.
    assert found() == cluster_history.epochs(copy / "assignments") == [1, 2]
    shutil.rmtree(copy / "assignments")
    assert found() == list(range(1, 9))
    # Of 7 and 8 a stretch of three would not be whole.
    assert found(reassign_every=3) == [1, 4]
    assert found(method="nat", permute_every=3) == [1, 4, 7]
    assert found(method="nat", permute_every=0) == []
    assert found(method="instance") is None


def test_the_report_knows_its_method_and_what_it_was_scored_on(trained: Trained, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(trained.run, copy)
    (copy / "scores.json").write_text(json.dumps({"knn": {"knn": 0.5, "untrained": 0.5, "test_images": 40}}))
    run = unlabeled.load(copy, device="cpu")
    seen = facts(run, run.record.open(run.record.data))
    assert (seen.method, seen.rewritten, seen.num_tested) == ("deepcluster", [1, 2], 40)
    assert list(seen.scores) == ["untrained network", "this run"]
