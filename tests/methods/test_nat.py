"""Noise As Targets: who holds which code, always one each, and what happens when that is not asked."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

import unlabeled
from runs import SMALL, assert_same_run, final_tensors, knn_gain, photograph_crops, train_with_stops
from unlabeled.config import Config
from unlabeled.errors import ConfigError, DataError, RunError
from unlabeled.methods import build_method, nat
from unlabeled.methods.nat import NoiseAsTargets

COUNT = 30
NAT: dict[str, Any] = SMALL | {
    "method": "nat", "embedding_dims": 16, "permute_every": 2, "lr": 0.01, "head_lr": 0.01, "momentum": 0.0, "weight_decay": 0.0,
    "image_size": 24, "resize": 24, "schedule": "constant",
}  # fmt: skip


def make(count: int = COUNT, **changes: Any) -> NoiseAsTargets:
    config = Config(
        backbone="alexnet_small", image_size=16, resize=16, store_size=16, method="nat", embedding_dims=8
    ).replace(**changes)
    method = build_method(config, count, 3)
    assert isinstance(method, NoiseAsTargets)
    method.before_epoch(0, never)
    return method


def never(index: torch.Tensor | None = None) -> torch.Tensor:
    raise AssertionError("features are asked for only where all images are matched at once")


def outputs(count: int, dims: int = 8, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(count, dims, generator=torch.Generator().manual_seed(seed)), dim=1)


def is_permutation(places: torch.Tensor) -> bool:
    return torch.equal(places.sort().values, torch.arange(len(places)))


def test_codes_are_spread_over_the_sphere_and_fixed() -> None:
    method = make(4000, embedding_dims=64)
    torch.testing.assert_close(method.codes.norm(dim=1), torch.ones(4000))
    products = method.codes[:2000] @ method.codes[2000:].T
    # Inner products of random directions have standard deviation 1 / sqrt(d) (paper, section 3.1).
    assert float(products.std()) == pytest.approx(64**-0.5, rel=0.01)
    assert torch.equal(method.codes, make(4000, embedding_dims=64).codes)
    assert not torch.equal(method.codes, make(4000, embedding_dims=64, seed=1).codes)
    assert is_permutation(method.code_index)
    assert not torch.equal(method.code_index, torch.arange(4000))


@pytest.mark.parametrize("targets", ["sphere", "onehot"])
def test_a_batch_trades_its_codes_as_scipy_would(targets: str) -> None:
    dims = 8
    method = make(targets=targets, num_codes=dims if targets == "onehot" else 0)
    index, z = torch.tensor([3, 17, 4, 29, 11, 8]), outputs(6, dims)
    before = method.code_index.clone()
    held = before[index]
    codes = torch.eye(dims)[held % dims] if targets == "onehot" else method.codes[held]
    rows, columns = linear_sum_assignment(-(z @ codes.T).numpy())
    after = method.targets(index, z)
    best = (z @ codes.T).numpy()[rows, columns].sum()
    rewritten = torch.eye(dims)[after % dims] if targets == "onehot" else method.codes[after]
    assert float((z * rewritten).sum()) == pytest.approx(float(best), abs=1e-5)
    if targets == "sphere":
        assert torch.equal(after, held[torch.from_numpy(columns)])
    others = torch.ones(COUNT, dtype=torch.bool)
    others[index] = False
    assert torch.equal(method.code_index[others], before[others])
    assert is_permutation(method.code_index)


def test_always_a_permutation_also_when_images_are_left_out() -> None:
    """Five epochs of batches of 7 from 30 images: two are left over each time."""
    method = make(permute_every=2)
    for epoch in range(5):
        method.before_epoch(epoch, never)
        before = method.code_index.clone()
        for step, index in enumerate(method.draw(epoch)[:28].split(7)):
            z = outputs(7, seed=10 * epoch + step)
            method.targets(index, z)
            method.after_step(index, z)
        assert is_permutation(method.code_index)
        assert torch.equal(before, method.code_index) == (epoch % 2 == 1)
        moved = float((before != method.code_index).double().mean())
        assert method.summary()["moved_share"] == pytest.approx(moved)


def test_never_matching_leaves_the_table() -> None:
    method = make(permute_every=0)
    before = method.code_index.clone()
    assert torch.equal(method.targets(torch.arange(6), outputs(6)), before[:6])
    assert torch.equal(method.code_index, before)


def test_fewer_codes_than_images_are_shared_evenly() -> None:
    method = make(num_codes=7)
    assert torch.bincount(method.code_index % 7).tolist() == [5, 5, 4, 4, 4, 4, 4]
    for index in torch.arange(COUNT).split(10):
        method.targets(index, outputs(10))
    assert torch.bincount(method.code_index % 7).tolist() == [5, 5, 4, 4, 4, 4, 4]


def test_more_codes_than_images_need_all_images_at_once() -> None:
    with pytest.raises(ConfigError, match=r"num_codes \(40\) must be at most the number of images \(30\)"):
        make(num_codes=40)
    method = make(num_codes=40, permute_every=0, assignment="full")
    features = torch.randn(COUNT, method.backbone.feature_dim, generator=torch.Generator().manual_seed(1))
    method.config = method.config.replace(permute_every=1)
    method.before_epoch(0, lambda index=None: features)
    z = method.outputs(features)
    cost = (z[:, None] - method.codes[None]).square().sum(dim=2).double()
    best = cost.numpy()[linear_sum_assignment(cost.numpy())].sum()
    assert len(method.code_index.unique()) == COUNT
    assert float(cost[torch.arange(COUNT), method.code_index].sum()) == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("num_codes", [0, 20, 45])
def test_more_images_than_fit_are_matched_in_groups(num_codes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nat, "FULL_SCORES", 10 * max(COUNT, num_codes) // 3)
    method = make(num_codes=num_codes, permute_every=0, assignment="full")
    features = torch.randn(COUNT, method.backbone.feature_dim, generator=torch.Generator().manual_seed(1))
    z = method.outputs(features)

    def similarity() -> float:
        return float((z * method.rows(method.code_index)).sum())

    # What is best over all images at once: no code more often than its places.
    cost = -(z @ method.rows(torch.arange(method.places)).T).double().numpy()
    best = -cost[linear_sum_assignment(cost)].sum()
    held = [set(method.code_index.tolist())]
    reached = [similarity()]
    method.config = method.config.replace(permute_every=1)
    for epoch in range(40):
        method.before_epoch(epoch, lambda index=None: features)
        assert len(method.code_index.unique()) == COUNT
        reached.append(similarity())
        held.append(set(method.code_index.tolist()))
    # A group offers what its images hold, so a match never makes things worse; it needs several to come near the best.
    assert all(later >= sooner - 1e-4 for sooner, later in pairwise(reached))
    assert reached[1] < best - 1e-3
    assert reached[-1] > reached[0] + 0.95 * (best - reached[0])
    assert (len(set.union(*held)) > COUNT) == (num_codes > COUNT)


def test_an_image_twice_in_a_batch_is_refused() -> None:
    with pytest.raises(DataError, match="1 repeats among 3"):
        make().targets(torch.tensor([1, 2, 1]), outputs(3))


@pytest.mark.parametrize("targets", ["sphere", "onehot"])
def test_loss_is_the_squared_distance_summed_in_float64(targets: str) -> None:
    method = make(targets=targets, num_codes=8 if targets == "onehot" else 0)
    z, place = outputs(6), torch.tensor([0, 9, 3, 5, 29, 14])
    codes = np.eye(8)[place.numpy() % 8] if targets == "onehot" else method.codes[place].double().numpy()
    expected = float(((z.double().numpy() - codes) ** 2).sum())
    assert float(method.loss(z, place)) == pytest.approx(expected, rel=1e-6)
    method.config = method.config.replace(loss_reduction="mean")
    assert float(method.loss(z, place)) == pytest.approx(expected / 6, rel=1e-6)


def test_statistics_say_how_near_and_how_spread() -> None:
    method = make(permute_every=0)
    z, index = outputs(12), torch.arange(12)
    for part in (slice(0, 5), slice(5, 12)):
        method.after_step(index[part], z[part])
    summary = method.summary()
    near = (z - method.codes[method.code_index[:12]]).square().sum(dim=1).mean()
    assert summary["mean_distance"] == pytest.approx(float(near), rel=1e-5)
    assert summary["feature_std"] == pytest.approx(float((z - z.mean(dim=0)).square().sum() / 12) ** 0.5, rel=1e-5)
    pairs = (z @ z.T).fill_diagonal_(0).sum() / (12 * 11)
    assert summary["mean_cosine"] == pytest.approx(float(pairs), abs=1e-6)


def test_other_codes_than_the_run_began_with_are_refused() -> None:
    method = make()
    assert len(method.codes) == COUNT
    other = make(seed=1)
    other.load_state_dict(method.state_dict())
    with pytest.raises(RunError, match="cannot be drawn again"):
        len(other.codes)


def test_stopped_and_resumed_is_the_same_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tmp_path / "whole"
    unlabeled.train(data, whole, cache=tmp_path / "cache", **NAT)
    train_with_stops(data, tmp_path / "stopped", 4, monkeypatch, NAT)
    assert_same_run(tmp_path / "stopped", whole)
    assert is_permutation(final_tensors(whole)["method.code_index"])


def test_learns_on_photographs_and_collapses_without_the_permutation(tmp_path: Path) -> None:
    data, labels = photograph_crops(tmp_path)
    settings = NAT | {"epochs": 4, "permute_every": 1, "batch_size": 36, "embedding_dims": 64, "hue": 0.1}
    good = unlabeled.train(data, tmp_path / "good", cache=tmp_path / "cache", **settings)
    assert knn_gain(good, labels) > 0.03
    assert good.history[-1]["status"] in ("healthy", "warming up")
    assert good.history[-1]["feature_std"] > 0.8
    assert good.history[-1]["mean_distance"] < good.history[0]["mean_distance"]
    free = unlabeled.train(data, tmp_path / "free", cache=tmp_path / "cache", **settings | {"assignment": "free"})
    last = free.history[-1]
    # Every output sits on its code, and nearly all images on the same few: nothing is left to learn.
    assert last["mean_distance"] < 0.2
    assert last["code_share"] > 0.5
    assert last["status"] == "collapsing"
    assert math.isfinite(last["loss"])
