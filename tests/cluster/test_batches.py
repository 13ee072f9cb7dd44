"""Batch correction against plain formulas."""

from __future__ import annotations

import pytest
import torch

from unlabeled.cluster import batches
from unlabeled.errors import DataError


def normal(count: int, dims: int, seed: int) -> torch.Tensor:
    return torch.randn(count, dims, generator=torch.Generator().manual_seed(seed))


def test_every_batch_is_standardized_with_shrinkage():
    rows = normal(130, 6, 1) * 3 + 5
    batch = ["a"] * 100 + ["b"] * 27 + ["c"] * 3
    fitted = batches.fit(rows, batch, ["a", "b", "c"])
    for number, (begin, end) in enumerate(((0, 100), (100, 127), (127, 130))):
        part, count = rows[begin:end].double(), end - begin
        weight = count / (count + batches.SHRINKAGE)
        mean = weight * part.mean(0) + (1 - weight) * rows.double().mean(0)
        variance = weight * part.var(0, correction=0) + (1 - weight) * rows.double().var(0, correction=0)
        torch.testing.assert_close(fitted.mean[number].double(), mean, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(fitted.std[number].double(), variance.sqrt(), atol=1e-5, rtol=1e-5)
    wanted = (rows - fitted.mean[[0] * 100 + [1] * 27 + [2] * 3]) / fitted.std[[0] * 100 + [1] * 27 + [2] * 3]
    torch.testing.assert_close(fitted.apply(rows, batch), wanted)


def test_unknown_batches_get_statistics_of_their_own_where_they_are_large_enough():
    rows = normal(100, 4, 2)
    fitted = batches.fit(rows, ["a"] * 100, ["a"])
    new = normal(60, 4, 3) * 5 + 40
    names = ["large"] * 55 + ["small"] * 5
    more = fitted.extended(new, names)
    assert more.names == ("a", "large") and more.unknown(names) == ["small"]
    corrected = more.apply(new, names)
    assert corrected[:55].mean().abs() < 3 < corrected[55:].mean()
    assert torch.equal(more.apply(rows, ["a"] * 100), fitted.apply(rows, ["a"] * 100))
    assert fitted.extended(new[55:], names[55:]) is fitted


def test_constant_dimensions_and_storage():
    rows = torch.ones(30, 3)
    rows[:, 0] = torch.arange(30)
    fitted = batches.fit(rows, ["é"] * 30, ["é"])
    assert fitted.apply(rows, ["é"] * 30)[:, 1:].abs().max() == 0
    again = batches.BatchCorrection.from_tensors(fitted.to_tensors())
    assert again.names == fitted.names and torch.equal(again.std, fitted.std)
    with pytest.raises(DataError, match="30 rows and 2 batches"):
        batches.fit(rows, ["é", "é"], ["é"])
