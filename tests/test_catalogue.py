"""Clusters, neighbours and the flag for the unlike, against plain loops over everything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

import unlabeled
from pictures import SETTINGS, Trained, pictures
from unlabeled.config import Config
from unlabeled.errors import ConfigError, RunError, UnlabeledError
from unlabeled.features import allocate
from unlabeled.metrics import nmi
from unlabeled.run import Run
from unlabeled.runs import index
from unlabeled.runs.index import Catalogue, build, recluster

CONFIG = Config(num_clusters=5, pca_dims=8, seed=3)


def blobs(count: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(5, 16, generator=torch.Generator().manual_seed(99)) * 3
    return centres[torch.arange(count) % 5] + torch.randn(count, 16, generator=random)


@pytest.fixture(scope="module")
def made() -> Catalogue:
    return build(blobs(300), CONFIG)


def plain_distances(queries: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    a, b = normalize(queries.double(), dim=1), normalize(base.double(), dim=1)
    return (a[:, None] - b[None]).square().sum(2).sqrt()


def test_nearest_is_what_a_loop_over_everything_finds(made: Catalogue):
    queries = blobs(40, seed=1)
    similarity, index = made.nearest(queries, 7)
    distances, wanted = plain_distances(queries, blobs(300)).sort(1)
    assert torch.equal(index, wanted[:, :7])
    torch.testing.assert_close(similarity.double(), 1 - distances[:, :7].square() / 2, atol=1e-5, rtol=0)
    assert made.nearest(queries, 1000)[1].shape == (40, 300)


def test_assignment_is_the_nearest_centroid(made: Catalogue):
    queries = blobs(40, seed=1)
    found = made.assign(queries)
    rows = made.whitening.apply(queries, normalize_rows=True)
    distances = (rows[:, None] - made.centroids[None]).square().sum(2).sqrt()
    assert torch.equal(found.cluster, distances.argmin(1))
    torch.testing.assert_close(found.distance, distances.min(1).values, atol=1e-4, rtol=0)


def test_training_rows_are_assigned_to_their_own_cluster(made: Catalogue):
    found = made.assign(blobs(300))
    assert torch.equal(found.cluster, made.clusters)
    torch.testing.assert_close(found.distance, made.distances, atol=1e-3, rtol=0)
    assert (torch.bincount(made.clusters).diff() <= 0).all()


def test_one_in_a_hundred_of_the_familiar_is_flagged_and_nearly_all_of_the_strange():
    made = build(blobs(2000), CONFIG)
    assert made.unlike().float().mean() < 0.03
    shares: list[float] = []
    for seed in range(6):
        one = build(blobs(1000, seed), CONFIG)
        novelty = one.assign(blobs(1000, 50 + seed)).novelty
        shares.append(float((novelty > one.novelty.threshold(0.05)).float().mean()))
    assert np.mean(shares) == pytest.approx(0.05, abs=0.02)
    strange = torch.randn(500, 16, generator=torch.Generator().manual_seed(6)) * 3
    assert (made.assign(strange).novelty > made.novelty.threshold()).float().mean() > 0.9


@pytest.mark.slow
def test_pictures_of_a_strange_kind_are_flagged(tmp_path: Path):
    """Through a network: stripes never seen are familiar, noise and blank pictures are not."""
    np.save(tmp_path / "stripes.npy", pictures(400, side=20)[0])
    settings = SETTINGS | {"epochs": 8}
    run = unlabeled.train(tmp_path / "stripes.npy", tmp_path / "run", cache=tmp_path / "cache", **settings)
    random = np.random.default_rng(0)
    np.save(tmp_path / "noise.npy", random.integers(0, 256, (60, 20, 20, 3)).astype(np.uint8))
    colours = random.integers(0, 256, (60, 1, 1, 3)).astype(np.uint8)
    np.save(tmp_path / "blank.npy", np.broadcast_to(colours, (60, 20, 20, 3)))

    def share(data: Path) -> float:
        return float(np.mean([row.unlike for row in run.cluster(data)]))

    np.save(tmp_path / "more.npy", pictures(300, side=20, seed=11)[0])
    assert share(tmp_path / "more.npy") < 0.04
    assert share(tmp_path / "noise.npy") > 0.9
    assert share(tmp_path / "blank.npy") > 0.9


def test_clusters_people_see_live_where_training_clustered():
    rows = blobs(300)
    seen = build(rows, CONFIG.replace(feature="after_relu"))
    wanted = build(rows.clamp(min=0), CONFIG)
    assert torch.equal(seen.clusters, wanted.clusters)
    assert torch.equal(seen.assign(rows).cluster, seen.clusters)
    # What search compares is the feature itself.
    assert torch.equal(seen.features, build(rows, CONFIG).features)


def test_batches_are_made_comparable_and_two_ways_agree():
    """A shift and a scale for each plate: kinds come apart once it is taken away, in training's call as in a later one."""
    rows, kind = blobs(400), torch.arange(400) % 5
    plate = torch.arange(400) // 100
    random = torch.Generator().manual_seed(5)
    shift, scale = torch.randn(4, 16, generator=random) * 25, 0.3 + 2 * torch.rand(4, 16, generator=random)
    seen = rows * scale[plate] + shift[plate]
    batch = [f"plate {k}" for k in plate.tolist()]
    plain = build(seen, CONFIG)
    made = build(seen, CONFIG, batch, sorted(set(batch)))
    assert nmi(plain.clusters, kind) < 0.3 < 0.9 < nmi(made.clusters, kind)
    assert torch.equal(made.assign(seen, batch).cluster, made.clusters)
    again = recluster(plain.features, CONFIG, batch)
    assert nmi(again.clusters, kind) > 0.9
    assert made.batches is not None and made.batches.unknown([*batch, "new"]) == ["new"]


def test_rows_without_direction_or_number_end_in_words():
    zeros = blobs(60)
    zeros[7] = 0
    made = build(zeros, CONFIG)
    assert made.features.isfinite().all() and made.scores.isfinite().all()
    assert build(blobs(60), CONFIG).assign(torch.zeros(1, 16)).novelty.isfinite().all()
    broken = blobs(60)
    broken[3, 2] = torch.nan
    with pytest.raises(UnlabeledError):
        build(broken, CONFIG)
    with pytest.raises(UnlabeledError, match="not finite"):
        made.nearest(torch.full((1, 16), torch.inf), 3)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_fewer_rows_than_clusters(count: int):
    made = build(blobs(count), CONFIG)
    assert len(made.clusters) == count and made.clusters.max() < count
    assert made.nearest(blobs(count), 10)[1].shape == (count, count)


def test_written_and_read_back_is_the_same(made: Catalogue, tmp_path: Path):
    made.save(tmp_path / "f.safetensors")
    again = Catalogue.load(tmp_path / "f.safetensors")
    for name in ("features", "clusters", "distances", "centroids", "scores"):
        assert torch.equal(getattr(again, name), getattr(made, name))
    assert torch.equal(again.assign(blobs(20, 2)).cluster, made.assign(blobs(20, 2)).cluster)
    assert list(tmp_path.iterdir()) == [tmp_path / "f.safetensors"]


def test_features_are_held_once_where_there_is_room_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """They are scaled part by part into the place `allocate` gives, a file here, and written from there: bits are the same."""
    rows = blobs(1000)
    monkeypatch.setattr(index, "ROWS_AT_ONCE", 77)
    monkeypatch.setattr("unlabeled.features.SPILL_BYTES", 1000)
    given: list[torch.Tensor] = []

    def remembered(count: int, dims: int) -> torch.Tensor:
        given.append(allocate(count, dims))
        return given[-1]

    monkeypatch.setattr(index, "allocate", remembered)
    written: list[int] = []
    monkeypatch.setattr(index, "save_file", lambda tensors, _: written.append(tensors["features"].data_ptr()))
    made = build(rows, CONFIG)
    made.save(tmp_path / "f.safetensors")
    assert torch.equal(made.features, normalize(rows, dim=1))
    assert [made.features.data_ptr()] == [one.data_ptr() for one in given] == written


def test_damage_is_named(made: Catalogue, tmp_path: Path):
    path = tmp_path / "f.safetensors"
    with pytest.raises(RunError, match="has not ended"):
        Catalogue.load(path)
    made.save(path)
    tensors = load_file(path)
    del tensors["centroids"]
    save_file(tensors, path)
    with pytest.raises(RunError, match="centroids"):
        Catalogue.load(path)
    path.write_bytes(b"\0" * 40)
    with pytest.raises(RunError, match="damaged"):
        Catalogue.load(path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="free some space"):
        made.save(tmp_path / "file" / "f.safetensors")


def test_the_tree_is_made_once(made: Catalogue):
    assert made.tree is made.tree
    assert made.merged(2).groups is not None and made.merged(2).tree is not made.tree


def test_clusters_merged_to_fewer(trained: Trained, tmp_path: Path):
    run = Run(trained.run, "cpu")
    whole, few = run.cluster(), run.cluster(num_clusters=3, out=tmp_path / "few.csv")
    assert {row.cluster for row in few} == {0, 1, 2} and len(few) == len(whole)
    # Every cluster went into one group as a whole, the largest group comes first, and distances stay.
    assert len({(a.cluster, b.cluster) for a, b in zip(whole, few, strict=True)}) == len({row.cluster for row in whole})
    sizes = [sum(row.cluster == group for row in few) for group in range(3)]
    assert sizes == sorted(sizes, reverse=True)
    assert [row.distance for row in few] == [row.distance for row in whole]
    # New images follow the cluster they are nearest to.
    groups = {a.cluster: b.cluster for a, b in zip(whole, few, strict=True)}
    new, merged = run.cluster(trained.new), run.cluster(trained.new, num_clusters=3)
    assert [row.cluster for row in merged] == [groups[row.cluster] for row in new]
    with pytest.raises(ConfigError, match="6 clusters can be merged into 1 to 6, got 7"):
        run.cluster(num_clusters=7)


def test_merged_clusters_are_held_against_k_means():
    """The program that measures the cut, on blobs: five kinds are found, and none holds most of the images."""
    from benchmarks.claims.cluster_cut import compare

    made = build(blobs(600), CONFIG.replace(num_clusters=30))
    row = compare(made, np.arange(600) % 5)
    assert row["kinds"] == 5 and row["cut_nmi"] > row["kmeans_nmi"] - 0.02 > 0.5 and row["cut_largest"] < 0.6
