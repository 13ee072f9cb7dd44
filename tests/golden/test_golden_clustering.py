"""Clustering and assignment against the golden numbers: faiss, the released PIC and the released assignment solver."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from unlabeled.cluster.assignment import assign_batch
from unlabeled.cluster.kmeans import kmeans
from unlabeled.cluster.pic import pic
from unlabeled.cluster.whitening import fit


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = set(zip(a.tolist(), b.tolist(), strict=True))
    return len(pairs) == len(set(a.tolist())) == len(set(b.tolist()))


def test_pca_whiten(golden: Path) -> None:
    data = np.load(golden / "pca_whiten.npz")
    x = torch.from_numpy(data["x"])
    whitening = fit(x, int(data["pca"]))
    out = whitening.apply(x).numpy()
    assert np.abs(out[:64] @ out[:64].T - data["gram"]).max() <= 2e-5
    signs = np.sign((out * data["out"]).sum(0))
    assert np.abs(out * signs - data["out"]).max() <= 5e-5
    np.testing.assert_allclose(whitening.mean, data["mean"], atol=1e-5)
    np.testing.assert_allclose(whitening.eigenvalues * len(x), data["eigenvalues"], rtol=1e-4)


def test_kmeans_given_init(golden: Path) -> None:
    data = np.load(golden / "kmeans_given_init.npz")
    x, init = torch.from_numpy(data["x"]), torch.from_numpy(data["init"])
    result = kmeans(x, len(init), seed=0, init=init, iterations=20)
    # Both end early when nothing moves; the library needs one more look to notice.
    expected, got = data["objective_per_iter"], np.array(result.inertia)
    common = min(len(expected), len(got))
    np.testing.assert_allclose(got[:common], expected[:common], rtol=1e-5)
    np.testing.assert_allclose(expected[common:], got[-1], rtol=1e-5)
    assert abs(len(expected) - len(got)) <= 1
    assert (result.labels.numpy() == data["final_assign"]).all()
    np.testing.assert_allclose(result.distances, data["final_sqdist"], atol=1e-5)
    for iterations in (1, 2, 5, 20):
        centroids = kmeans(x, len(init), seed=0, init=init, iterations=iterations).centroids
        np.testing.assert_allclose(centroids, data[f"centroids_after_{iterations}"], atol=1e-5)


def test_kmeans_random_init(golden: Path) -> None:
    data = np.load(golden / "kmeans_random_init.npz")
    x = torch.from_numpy(data["x"])
    results = [kmeans(x, int(data["k"]), seed=seed, iterations=20) for seed in range(20)]
    objectives = np.array([result.inertia[-1] for result in results])
    assert np.median(objectives) <= 1.03 * np.median(data["faiss_last_objective"])
    assert objectives.min() <= 1.02 * data["faiss_last_objective"].min()
    assert all(len(result.labels.unique()) == int(data["k"]) for result in results)


def test_kmeans_empty_split(golden: Path) -> None:
    data = np.load(golden / "kmeans_empty_split.npz")
    x, init = torch.from_numpy(data["x"]), torch.from_numpy(data["init"])
    for iterations in (1, 2):
        result = kmeans(x, 2, seed=0, init=init, iterations=iterations, empty="split")
        expected = data[f"after_{iterations}"]
        got = result.centroids.numpy()
        assert min(np.abs(got - expected).max(), np.abs(got[::-1] - expected).max()) <= 1e-5
    assert result.empty == [1, 0]


@pytest.mark.parametrize("name", ["pic_tight", "pic_loose_sigma05", "pic_singletons"])
def test_pic(golden: Path, name: str) -> None:
    data = np.load(golden / f"{name}.npz")
    assert (data["I"][:, 0] == np.arange(len(data["I"]))).all()
    graph = torch.from_numpy(data["I"][:, 1:]), torch.from_numpy(data["D"][:, 1:])
    settings = {"bandwidth": float(data["sigma"]), "damping": float(data["alpha"]), "iterations": int(data["niter"])}
    plain = pic(*graph, singletons="keep", **settings)
    attached = pic(*graph, singletons="attach", **settings)
    assert (plain.labels.numpy() == data["pic_ids"]).all()
    assert same_partition(attached.labels.numpy(), data["ids_with_redistribution"])
    assert (plain.num_clusters, plain.num_singletons) == (int(data["n_clusters"]), int(data["n_singletons"]))
    assert attached.num_clusters == int(data["n_clusters_after"])
    if "v_final" in data:
        np.testing.assert_allclose(plain.v, data["v_final"], rtol=1e-15)


def test_hungarian(golden: Path) -> None:
    data = np.load(golden / "hungarian.npz")
    for size in data["sizes"]:
        score = data[f"score_{size}"]
        permutation = assign_batch(torch.from_numpy(score)).numpy()
        assert (permutation == data[f"assign_scipy_{size}"]).all()
        value = score[np.arange(size), permutation].sum(dtype=np.float64)
        assert value >= data[f"value_scipy_{size}"] - data[f"quantisation_bound_{size}"]
