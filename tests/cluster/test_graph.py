from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unlabeled.cluster import graph
from unlabeled.cluster.graph import knn_graph
from unlabeled.errors import ConfigError, DataError


def rows(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)))


def brute_force(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    wide = x.double()
    distances = (wide[:, None] - wide[None]).square().sum(2) if len(x) < 500 else torch.cdist(wide, wide).square()
    distances.fill_diagonal_(torch.inf)
    order = distances.sort(dim=1, stable=True)
    return order.indices[:, :k], order.values[:, :k]


def use(monkeypatch: pytest.MonkeyPatch, *widths: str) -> None:
    monkeypatch.setattr(graph, "_widths", lambda device, total, dims: list(widths))


@pytest.mark.parametrize("widths", [("float32",), ("bfloat16",), ("int8", "bfloat16")])
@pytest.mark.parametrize(("n", "d", "k"), [(2, 3, 1), (40, 8, 5), (300, 16, 10), (1500, 4, 7), (2500, 64, 10)])
def test_equals_brute_force(n: int, d: int, k: int, widths: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, *widths)
    x = rows(n, d)
    neighbors, distances = knn_graph(x, k)
    expected, expected_distances = brute_force(x, k)
    assert torch.allclose(distances.double(), expected_distances, atol=1e-6)
    assert (neighbors == expected).float().mean() > 0.999  # float32 may swap what float64 sees 1e-8 apart
    assert torch.allclose((x[neighbors] - x[:, None]).square().sum(2), distances, atol=1e-6)


def test_blocks_equal_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    x = rows(2300, 24)
    whole = knn_graph(x, 6)
    monkeypatch.setattr(graph, "_SCORES_AT_ONCE", 1)
    small = knn_graph(x, 6)
    assert torch.equal(whole[0], small[0])
    assert torch.equal(whole[1], small[1])


def test_the_row_itself_is_left_out_even_among_duplicates() -> None:
    x = rows(2200, 16)
    x[100:160] = x[5]
    neighbors, distances = knn_graph(x, 5)
    assert (neighbors != torch.arange(len(x))[:, None]).all()
    copies = torch.tensor([5, *range(100, 160)])
    assert (distances[copies] == 0).all()
    assert torch.isin(neighbors[copies], copies).all()
    assert all(len(set(row)) == 5 for row in neighbors.tolist())


def test_crowds_that_bfloat16_cannot_tell_apart_are_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "int8", "bfloat16")
    # Two thousand rows within 1e-3 of one place: every narrow score ties, the proof fails, float64 decides.
    x = torch.randn(1, 32, generator=torch.Generator().manual_seed(1)) * 10 + 1e-3 * rows(2100, 32)
    x = torch.cat([x, rows(50, 32) * 20])
    neighbors, distances = knn_graph(x, 5)
    expected, expected_distances = brute_force(x, 5)
    assert torch.allclose(distances[:2100].double(), expected_distances[:2100], rtol=1e-2)
    assert (neighbors[2100:] == expected[2100:]).float().mean() > 0.9


def test_an_offset_does_not_matter() -> None:
    x = rows(500, 8)
    assert (knn_graph(x + 100, 3)[0] == knn_graph(x, 3)[0]).float().mean() > 0.98


def test_mistakes_are_sentences() -> None:
    x = rows(10, 4)
    with pytest.raises(ConfigError, match="less one, 9, got 10"):
        knn_graph(x, 10)
    with pytest.raises(DataError, match="matrix"):
        knn_graph(x[0], 1)
    x[3, 0] = torch.inf
    with pytest.raises(DataError, match="1 of 10"):
        knn_graph(x, 2)
