from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from unlabeled.cluster import nearest_centroid
from unlabeled.cluster.kmeans import KMeans, assign, kmeans
from unlabeled.errors import ConfigError, DataError


def blobs(n: int, d: int, k: int, seed: int = 0, spread: float = 0.3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(k, d, generator=generator)
    return centres[torch.arange(n) % k] + spread * torch.randn(n, d, generator=generator)


def agree(x: Tensor, result: KMeans) -> None:
    labels, distances = assign(x, result.centroids)
    np.testing.assert_allclose(distances, result.distances, rtol=1e-3, atol=1e-5)
    own = (x - result.centroids[result.labels]).square().sum(1)
    np.testing.assert_allclose(own, result.distances, rtol=1e-3, atol=1e-5)
    assert (labels == result.labels).float().mean() > 0.999


def test_four_points_by_hand() -> None:
    x = torch.tensor([[0.0, 0.0], [0.0, 2.0], [10.0, 0.0], [10.0, 2.0]])
    result = kmeans(x, 2, seed=0, init=x[[0, 2]])
    assert result.centroids.tolist() == [[0.0, 1.0], [10.0, 1.0]]
    assert result.labels.tolist() == [0, 0, 1, 1]
    assert result.inertia == [8.0, 4.0]
    assert result.distances.tolist() == [1.0] * 4


@pytest.mark.parametrize("precision", ["auto", "int8", "bfloat16", "float32"])
def test_inertia_never_rises_and_results_agree(precision: str) -> None:
    x = torch.nn.functional.normalize(blobs(3000, 64, 40, spread=1.0))
    result = kmeans(x, 64, seed=1, iterations=25, precision=precision)
    assert sum(result.empty) == 0
    assert (np.diff(result.inertia) <= 1e-9 * result.inertia[0]).all()
    agree(x, result)
    assert float(result.distances.sum()) <= result.inertia[-1] * (1 + 1e-6)


def test_narrow_products_reach_the_same_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.nn.functional.normalize(torch.randn(6000, 128, generator=torch.Generator().manual_seed(0)))
    wide = kmeans(x, 200, seed=0, iterations=12, precision="float32").inertia[-1]
    for precision in ("int8", "bfloat16"):
        narrow = kmeans(x, 200, seed=0, iterations=12, precision=precision).inertia[-1]
        assert narrow == pytest.approx(wide, rel=1e-3)


def test_tight_clusters_far_apart_climb_to_wide_products() -> None:
    # Distances inside a cluster are a millionth of the spread: 8 bits cannot see them, the guard has to.
    x = blobs(2000, 32, 5, spread=1e-3)
    widths: list[nearest_centroid.Width] = []
    search = nearest_centroid.Nearest.labels

    def spy(self: nearest_centroid.Nearest, centroids: Tensor) -> Tensor:
        widths.append(self.widths[0])
        return search(self, centroids)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest_centroid.Nearest, "labels", spy)
        narrow = kmeans(x, 50, seed=0, precision="int8")
    wide = kmeans(x, 50, seed=0, precision="float32")
    assert widths[0] == "int8"
    assert widths[-1] == "float32"
    assert narrow.inertia[-1] == pytest.approx(wide.inertia[-1], rel=1e-3)


def test_a_common_offset_changes_nothing() -> None:
    x = blobs(1000, 16, 8)
    near, far = kmeans(x, 8, seed=3), kmeans(x + 1000, 8, seed=3)
    assert torch.equal(near.labels, far.labels)
    assert far.inertia[-1] == pytest.approx(near.inertia[-1], rel=1e-3)
    assert torch.allclose(far.centroids, near.centroids + 1000, atol=1e-3)


@pytest.mark.parametrize("rule", ["split", "copy", "halve"])
def test_an_emptied_cluster_is_refilled(rule: str) -> None:
    x = blobs(400, 6, 4)
    init = torch.cat([x[:3], torch.full((3, 6), 1e3)])
    result = kmeans(x, 6, seed=0, init=init, empty=rule, iterations=10)
    assert result.empty[0] == 3
    assert len(result.labels.unique()) == 6
    agree(x, result)
    assert torch.equal(result.labels, kmeans(x, 6, seed=0, init=init, empty=rule, iterations=10).labels)


@pytest.mark.parametrize("rule", ["split", "copy", "halve"])
def test_no_cluster_is_empty_where_there_are_enough_distinct_points(rule: str) -> None:
    for seed in range(5):
        x = torch.randn(60, 3, generator=torch.Generator().manual_seed(seed))
        result = kmeans(x, 50, seed=seed, empty=rule, iterations=3)
        assert len(result.labels.unique()) == 50
        agree(x, result)


@pytest.mark.parametrize("rule", ["split", "copy"])
def test_fewer_distinct_points_than_clusters_end(rule: str) -> None:
    x = torch.randn(10, 4, generator=torch.Generator().manual_seed(0)).repeat(30, 1)
    result = kmeans(x, 40, seed=0, empty=rule)
    assert len(result.labels.unique()) == 10
    assert float(result.distances.max()) < 1e-4
    assert len(kmeans(torch.zeros(50, 4), 8, seed=0, empty=rule).labels.unique()) == 1


def test_halving_shares_out_even_equal_points() -> None:
    labels = kmeans(torch.zeros(64, 4), 8, seed=0, empty="halve").labels
    assert torch.bincount(labels, minlength=8).tolist() == [8] * 8


def test_initial_centroids_are_distinct_data_points_and_seeded() -> None:
    x = blobs(300, 5, 5).repeat(2, 1)
    first = kmeans(x, 250, seed=7, iterations=1)
    assert first.inertia == kmeans(x, 250, seed=7, iterations=1).inertia
    assert first.inertia != kmeans(x, 250, seed=8, iterations=1).inertia
    assert first.empty == [0]


def test_stops_when_nothing_moves() -> None:
    x = blobs(500, 8, 3, spread=0.01)
    result = kmeans(x, 3, seed=0, init=x[:3], iterations=50)
    assert len(result.inertia) == 2


def test_as_many_clusters_as_points() -> None:
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    result = kmeans(x, 30, seed=0)
    assert result.labels.sort().values.tolist() == list(range(30))
    assert float(result.distances.max()) == pytest.approx(0, abs=1e-10)


def test_against_scikit_learn_and_faiss() -> None:
    import faiss
    from sklearn.cluster import KMeans as Reference

    x = torch.nn.functional.normalize(blobs(4000, 32, 30, spread=0.8))
    init = x[torch.randperm(4000, generator=torch.Generator().manual_seed(0))[:30]]
    ours = kmeans(x, 30, seed=0, init=init, iterations=15)
    reference = Reference(30, init=init.numpy(), n_init=1, max_iter=15, tol=0).fit(x.numpy())
    assert float(ours.distances.sum()) == pytest.approx(reference.inertia_, rel=1e-4)
    clustering = faiss.Clustering(32, 30)
    clustering.niter, clustering.max_points_per_centroid = 15, 10**7
    faiss.copy_array_to_vector(init.numpy().ravel(), clustering.centroids)
    clustering.train(x.numpy(), faiss.IndexFlatL2(32))
    last = clustering.iteration_stats.at(clustering.iteration_stats.size() - 1).obj
    assert ours.inertia[-1] == pytest.approx(last, rel=1e-4)


def test_mistakes_are_sentences() -> None:
    x = blobs(20, 4, 2)
    broken = x.clone()
    broken[5] = float("nan")
    with pytest.raises(DataError, match="1 of 20 feature rows"):
        kmeans(broken, 2, seed=0)
    with pytest.raises(ConfigError, match=r"between 1 and the number of images, 20, got 21"):
        kmeans(x, 21, seed=0)
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        kmeans(x, 2, seed=0, iterations=0)
    with pytest.raises(ConfigError, match="did you mean 'split'"):
        kmeans(x, 2, seed=0, empty="splitt")
    with pytest.raises(DataError, match=r"\(2, 4\)"):
        kmeans(x, 2, seed=0, init=x[:3])
    with pytest.raises(DataError, match="matrix"):
        kmeans(x[0], 2, seed=0)
    with pytest.raises(DataError, match="equal width"):
        assign(x, x[:, :3])
