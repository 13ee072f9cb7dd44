from __future__ import annotations

import sys
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from unlabeled.cluster.assignment import assign_batch, assign_free, assign_full
from unlabeled.errors import DataError


@pytest.mark.parametrize("size", range(1, 8))
def test_equals_the_best_of_all_permutations(size: int) -> None:
    scores = torch.randn(size, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    best = max(permutations(range(size)), key=lambda p: sum(float(scores[i, j]) for i, j in enumerate(p)))
    assert assign_batch(scores).tolist() == list(best)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_value_of_scipy_on_a_batch(dtype: torch.dtype) -> None:
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        codes = torch.nn.functional.normalize(torch.randn(64, 16, generator=generator))
        alike = torch.nn.functional.normalize(codes[:1] + 0.05 * torch.randn(64, 16, generator=generator))
        scores = (alike @ codes.t()).to(dtype)
        table = scores.double().numpy()
        got = table[np.arange(64), assign_batch(scores).numpy()].sum()
        assert got == pytest.approx(table[linear_sum_assignment(table, maximize=True)].sum(), abs=1e-5)


def test_stays_a_permutation_for_ever() -> None:
    generator = torch.Generator().manual_seed(0)
    owners = torch.randperm(100, generator=generator)
    for _ in range(50):
        batch = torch.randperm(100, generator=generator)[:32]
        owners[batch] = owners[batch][assign_batch(torch.randn(32, 32, generator=generator))]
    assert owners.sort().values.tolist() == list(range(100))


def test_ties_and_constant_scores_give_a_permutation() -> None:
    for scores in (torch.zeros(20, 20), torch.ones(5, 5), torch.randint(0, 2, (30, 30)).float()):
        assert assign_batch(scores).sort().values.tolist() == list(range(len(scores)))


@pytest.mark.parametrize("shape", [(5, 9), (1, 4), (12, 13), (0, 3)])
def test_more_codes_than_outputs(shape: tuple[int, int]) -> None:
    cost = torch.rand(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 10
    columns = assign_full(cost).numpy()
    rows, expected = linear_sum_assignment(cost.numpy())
    assert len(set(columns.tolist())) == shape[0]
    assert cost.numpy()[rows, columns].sum() == pytest.approx(cost.numpy()[rows, expected].sum())


def test_scipy_takes_over_where_lapx_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randn(20, 20, generator=torch.Generator().manual_seed(0))
    expected = assign_batch(scores)
    monkeypatch.setitem(sys.modules, "lap", None)
    assert torch.equal(assign_batch(scores), expected)


def test_free_assignment_may_share() -> None:
    assert assign_free(torch.tensor([[0.1, 0.9], [0.2, 0.8]])).tolist() == [1, 1]


def test_mistakes_are_sentences() -> None:
    with pytest.raises(DataError, match=r"square.*\(2, 3\)"):
        assign_batch(torch.zeros(2, 3))
    with pytest.raises(DataError, match="3 outputs and 2 codes"):
        assign_full(torch.zeros(3, 2))
    with pytest.raises(DataError, match="NaN or infinity"):
        assign_batch(torch.full((2, 2), float("nan")))
