from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from unlabeled.cluster import whitening
from unlabeled.cluster.whitening import Whitening, fit
from unlabeled.errors import ConfigError, DataError


def features(n: int, d: int, seed: int = 0, mean: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator) * torch.logspace(0, -1.5, d)
    return torch.randn(n, d, generator=generator) @ mix.t() + mean


def test_whitened_covariance_is_identity() -> None:
    out = fit(features(4000, 40, mean=5), 12).apply(features(4000, 40, mean=5), normalize_rows=False)
    assert torch.allclose(torch.cov(out.T, correction=0), torch.eye(12), atol=1e-3)
    assert torch.allclose(out.mean(0), torch.zeros(12), atol=1e-4)


@pytest.mark.parametrize("shape", [(300, 20), (400, 1100)], ids=["full", "subspace"])
def test_equals_singular_value_decomposition(shape: tuple[int, int]) -> None:
    x = features(*shape)
    got = fit(x, 8)
    _, singular, right = np.linalg.svd((x - x.mean(0)).double().numpy(), full_matrices=False)
    np.testing.assert_allclose(got.eigenvalues, singular[:8] ** 2 / len(x), rtol=1e-3)
    cosines = np.abs((got.components.numpy() * right[:8]).sum(1))
    assert cosines.min() > 0.999
    assert got.total_variance == pytest.approx((singular**2).sum() / len(x), rel=1e-3)


def test_stream_equals_at_once(tmp_path: Path) -> None:
    x = features(1000, 30, mean=100)
    whole = fit(x, 10).apply(x)
    streamed = fit(iter(x.split(77)), 10).apply(x)
    np.save(tmp_path / "x.npy", x.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert torch.allclose(whole, streamed, atol=1e-4)
    assert torch.allclose(whole, fit(mapped, 10).apply(mapped), atol=1e-6)


@pytest.mark.parametrize("dims", [0, 10])
def test_features_after_a_relu_are_those_features(dims: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Narrow products too, whose rounding is mended by a second look at the features.
    monkeypatch.setattr(whitening, "has_fast_bfloat16", lambda device: True)
    x = features(1000, 600)
    before = x.clone()
    fitted, wanted = fit(x, dims, rectify=True), fit(x.clamp(min=0), dims)
    assert torch.equal(fitted.apply(x), wanted.apply(x.clamp(min=0)))
    assert torch.equal(x, before)
    stored = fitted.to_tensors()
    assert torch.equal(Whitening.from_tensors(stored).apply(x), fitted.apply(x))
    stored.pop("rectify")
    assert not Whitening.from_tensors(stored).rectify


@pytest.mark.parametrize(("decay", "dims"), [(0.0, 4), (-1.0, 60), (-2.5, 500)], ids=["harmless", "refined", "refused"])
def test_narrow_products_never_show(decay: float, dims: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # The smaller the last wanted variance beside the first, the more bfloat16 noise would drown it.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 600, generator=generator) * torch.logspace(0, decay, 600)
    x = x @ torch.linalg.qr(torch.randn(600, 600, generator=generator)).Q
    monkeypatch.setattr(whitening, "has_fast_bfloat16", lambda device: True)
    got = fit(x, dims)
    out = got.apply(x, normalize_rows=False)
    assert torch.allclose(torch.cov(out.T, correction=0), torch.eye(dims), atol=1e-2)
    exact = torch.linalg.eigvalsh(torch.cov(x.double().T, correction=0)).flip(0)[:dims]
    np.testing.assert_allclose(got.eigenvalues, exact, rtol=2e-3)


def test_directions_are_the_same_every_time() -> None:
    x = features(500, 1100)
    first, second = fit(x, 5, seed=1), fit(x, 5, seed=2)
    assert torch.allclose(first.components, second.components, atol=1e-3)
    assert (first.components.gather(1, first.components.abs().argmax(1, keepdim=True)) > 0).all()


def test_too_few_rows_reduce_the_dimensions_and_say_so() -> None:
    x = features(20, 64)
    got = fit(x, 32)
    assert got.dims == 10
    assert "20 rows" in got.note
    assert torch.isfinite(got.apply(x)).all()


def test_dead_dimensions_are_dropped() -> None:
    x = features(200, 16)
    x[:, 4:] = 3.0
    got = fit(x, 8)
    assert got.dims == 4
    assert "4 directions" in got.note
    assert torch.isfinite(got.apply(x)).all()


def test_wide_features_with_few_live_directions() -> None:
    x = torch.zeros(300, 1100)
    x[:, :3] = features(300, 3)
    got = fit(x, 16)
    assert got.dims == 3
    assert torch.isfinite(got.apply(x)).all()


def test_equal_rows_become_zero_not_nan() -> None:
    for rows in (torch.zeros(50, 8), torch.full((50, 8), 7.25), torch.ones(1, 8)):
        assert (fit(rows, 4).apply(rows) == 0).all()


def test_zero_dimensions_only_centre() -> None:
    x = features(100, 6, mean=2)
    got = fit(x, 0)
    assert torch.allclose(got.apply(x, normalize_rows=False), x - x.mean(0), atol=1e-5)
    assert torch.allclose(got.apply(x).norm(dim=1), torch.ones(100))
    assert got.dims == 6


def test_without_whitening_only_rotates() -> None:
    x = features(300, 10)
    out = fit(x, 10, whiten=False).apply(x, normalize_rows=False)
    assert torch.allclose(torch.cdist(out, out), torch.cdist(x, x), atol=1e-2)


def test_survives_storage() -> None:
    for dims in (0, 30):
        x = features(40, 12)
        got = fit(x, dims)
        again = Whitening.from_tensors(got.to_tensors())
        assert torch.equal(got.apply(x), again.apply(x))
        assert (again.note, again.total_variance) == (got.note, got.total_variance)
    with pytest.raises(DataError, match="scale missing"):
        Whitening.from_tensors({name: t for name, t in got.to_tensors().items() if name != "scale"})


def test_mistakes_are_sentences() -> None:
    x = features(50, 8)
    broken = x.clone()
    broken[3, 2] = float("nan")
    with pytest.raises(DataError, match="1 of 50 feature rows"):
        fit(broken, 4)
    with pytest.raises(ConfigError, match="-1"):
        fit(x, -1)
    with pytest.raises(DataError, match="8 and 7"):
        fit([x, x[:, :7]], 4)
    with pytest.raises(DataError, match="at least one row"):
        fit([], 4)
    with pytest.raises(DataError, match="8 wide"):
        fit(x, 4).apply(x[:, :5])
