"""Novelty against plain formulas, its false alarms on images of the kind seen, and junk of other kinds."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from unlabeled.cluster import novelty
from unlabeled.errors import ConfigError, DataError

DIMS = 40


def familiar(count: int, seed: int) -> torch.Tensor:
    """Unit rows of six kinds in a subspace, with noise."""
    shape = torch.Generator().manual_seed(1)
    random = torch.Generator().manual_seed(seed)
    basis, centers = torch.randn(10, DIMS, generator=shape), torch.randn(6, 10, generator=shape) * 2
    kind = torch.randint(6, (count,), generator=random)
    inner = centers[kind] + torch.randn(count, 10, generator=random)
    return normalize(inner @ basis + 0.3 * torch.randn(count, DIMS, generator=random), dim=1)


def test_distances_are_those_of_the_formulas():
    fitted = novelty.fit(familiar(500, 0))
    asked = familiar(30, 7)
    white = fitted.whitening
    kept = DIMS // 4
    centered = asked.double() - white.mean.double()
    projection = centered @ white.components[:kept].double().T
    residual = (centered - projection @ white.components[:kept].double()).norm(dim=1)
    deviation = (centered @ white.components.double().T * white.scale.double()).norm(dim=1)
    wanted = ((torch.stack((residual, deviation), 1) - fitted.center) / fitted.unit).amax(1)
    torch.testing.assert_close(fitted.score(asked).double(), wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_images_of_the_kind_seen_are_flagged_as_often_as_stated(rate: float):
    shares = []
    for seed in range(8):
        fitted = novelty.fit(familiar(2000, seed), seed)
        shares.append(float((fitted.score(familiar(2000, 100 + seed)) > fitted.threshold(rate)).float().mean()))
    assert sum(shares) / 8 < 1.5 * rate + 0.004


def test_what_is_unlike_training_is_flagged():
    fitted = novelty.fit(familiar(2000, 0))
    elsewhere = normalize(torch.randn(200, DIMS, generator=torch.Generator().manual_seed(3)), dim=1)
    one_direction = normalize(torch.eye(DIMS)[:20] + 0.01, dim=1)
    for strange in (elsewhere, one_direction):
        assert (fitted.score(strange) > fitted.threshold(0.01)).float().mean() > 0.9


def test_few_and_identical_images_end_in_numbers():
    same = normalize(torch.ones(1, DIMS), dim=1).repeat(30, 1)
    fitted = novelty.fit(same)
    assert (fitted.score(same) <= fitted.threshold()).all()
    assert (fitted.score(-same[:2]) > fitted.threshold()).all()
    for count in (1, 2, 6):
        assert novelty.fit(familiar(count, 0)).score(familiar(3, 1)).isfinite().all()
    with pytest.raises(DataError, match="at least one image"):
        novelty.fit(torch.empty(0, DIMS))
    with pytest.raises(ConfigError, match="between 0 and 1, got 1"):
        fitted.threshold(1)
