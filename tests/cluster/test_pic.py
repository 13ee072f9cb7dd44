from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from unlabeled.cluster.graph import knn_graph
from unlabeled.cluster.pic import pic
from unlabeled.errors import ConfigError, DataError


def blobs(n: int, k: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.nn.functional.normalize(torch.randn(k, 16, generator=generator))
    return torch.nn.functional.normalize(centres[torch.arange(n) % k] + 0.05 * torch.randn(n, 16, generator=generator))


def affinity(neighbors: Tensor, distances: Tensor, bandwidth: float) -> np.ndarray:
    dense = np.zeros((len(neighbors), len(neighbors)))
    for i, (row, values) in enumerate(zip(neighbors.tolist(), distances.double().tolist(), strict=True)):
        for j, value in zip(row, values, strict=True):
            dense[i, j] += np.exp(-value / bandwidth**2)
            dense[j, i] += np.exp(-value / bandwidth**2)
    return dense


def plain(neighbors: Tensor, distances: Tensor, bandwidth: float, damping: float, iterations: int) -> list[int]:
    graph = affinity(neighbors, distances, bandwidth)
    total = len(graph)
    v = np.full(total, 1 / total)
    for _ in range(iterations):
        v = damping * graph @ v + (1 - damping) / total
        v /= v.sum()
    labels = []
    for i in range(total):
        while True:
            gains = graph[i] * (v - v[i])
            if gains.max() <= 0:
                break
            i = int(gains.argmax())
        labels.append(i)
    return labels


def test_equals_a_plain_loop_over_all_iterations() -> None:
    graph = knn_graph(blobs(150, 6), 5)
    result = pic(*graph, singletons="keep", bandwidth=0.3)
    roots = plain(*graph, bandwidth=0.3, damping=0.001, iterations=200)
    assert result.labels.tolist() == np.unique(roots, return_inverse=True)[1].tolist()
    assert result.iterations < 30


def test_vector_solves_the_linear_system() -> None:
    neighbors, distances = knn_graph(blobs(80, 4), 5)
    result = pic(neighbors, distances, bandwidth=0.3, damping=0.01)
    graph = affinity(neighbors, distances, 0.3)
    # v = (a G v + (1 - a)/N) / s with s the sum of the right side: a fixed point of the normalised step.
    step = 0.01 * graph @ result.v.numpy() + 0.99 / 80
    np.testing.assert_allclose(step / step.sum(), result.v, rtol=1e-12)
    solved = np.linalg.solve(step.sum() * np.eye(80) - 0.01 * graph, np.full(80, 0.99 / 80))
    np.testing.assert_allclose(solved, result.v, rtol=1e-10)


def test_two_cliques_joined_by_a_weak_edge() -> None:
    neighbors = torch.tensor([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 4], [3, 5, 6], [4, 6, 7], [4, 5, 7], [4, 5, 6]])
    distances = torch.full((8, 3), 0.01)
    distances[3, 2] = distances[4, 0] = 0.5
    labels = pic(neighbors, distances).labels
    assert labels[:4].unique().numel() == 1
    assert labels[4:].unique().numel() == 1
    assert labels[0] != labels[4]


@pytest.mark.parametrize(
    ("how", "expected"), [("keep", [0, 0, 0, 1]), ("attach", [0, 0, 0, 0]), ("drop", [0, 0, 0, -1])]
)
def test_singletons(how: str, expected: list[int]) -> None:
    neighbors = torch.tensor([[1, 2], [0, 2], [0, 1], [0, 1]])
    # The last row is so far that its affinity underflows to zero: it points nowhere and nobody points to it.
    distances = torch.tensor([[0.01, 0.01], [0.01, 0.02], [0.01, 0.02], [90.0, 91.0]])
    result = pic(neighbors, distances, singletons=how)
    assert result.labels.tolist() == expected
    assert result.num_singletons == 1
    assert result.num_clusters == len({label for label in expected if label >= 0})


def test_all_alike_and_all_far() -> None:
    neighbors = torch.tensor([[1, 2], [2, 0], [0, 1]])
    same = pic(neighbors, torch.zeros(3, 2), singletons="keep")
    far = pic(neighbors, torch.full((3, 2), 1e4))
    # Nothing rises anywhere: every row is a local maximum, and no neighbour is in company.
    assert same.num_clusters == far.num_clusters == 3
    assert torch.isfinite(same.v).all()


def test_mistakes_are_sentences() -> None:
    neighbors, distances = torch.tensor([[1], [0]]), torch.ones(2, 1)
    with pytest.raises(ConfigError, match="did you mean 'attach'"):
        pic(neighbors, distances, singletons="atach")
    with pytest.raises(ConfigError, match="bandwidth > 0"):
        pic(neighbors, distances, bandwidth=0)
    with pytest.raises(DataError, match="own neighbour"):
        pic(torch.tensor([[0], [1]]), distances)
    with pytest.raises(DataError, match="below 2"):
        pic(torch.tensor([[1], [2]]), distances)
    with pytest.raises(DataError, match="one shape"):
        pic(neighbors, torch.ones(2, 2))
    with pytest.raises(DataError, match="not NaN"):
        pic(neighbors, distances * float("nan"))
