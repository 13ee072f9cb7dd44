"""Sets too large for memory: subsets per epoch, features on disk, and two million rows inside a stated limit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unlabeled
from pictures import pictures
from runs import SMALL, assert_same_run, train_with_stops
from unlabeled import features
from unlabeled.config import Config
from unlabeled.methods.deepcluster import DeepCluster
from unlabeled.models import build_backbone
from unlabeled.randomness import generator

LIMIT = 384 * 2**20
"""Bytes that clustering two million rows and drawing an epoch from them may allocate; the features alone are 244 MiB."""


class Features:
    def __init__(self, count: int) -> None:
        self.rows = torch.randn(count, 12, generator=generator(0, "rows"))
        self.asked: list[torch.Tensor | None] = []

    def __call__(self, index: torch.Tensor | None = None, *, as_trained: bool = False) -> torch.Tensor:
        if not as_trained:
            self.asked.append(index)
        return self.rows.clone() if index is None else self.rows[index]


def method(count: int, **changes: Any) -> DeepCluster:
    config = Config(**(SMALL | changes))
    backbone = build_backbone(config.backbone, image_size=config.image_size, generator=generator(0))
    return DeepCluster(backbone, count, config)


@pytest.mark.parametrize("mode", ["same", "resampled", "mismatched"])
def test_an_epoch_sees_its_subset_only(mode: str):
    trained, rows = method(200, subset=50, subset_mode=mode), Features(200)
    seen: list[set[int]] = []
    for epoch in range(3):
        trained.before_epoch(epoch, rows)
        asked, order = rows.asked[-1], trained.draw(epoch)
        assert len(order) == 50
        seen.append(set(order.tolist()))
        labelled = trained.labels >= 0
        if mode == "mismatched":
            # All are clustered, few are shown.
            assert asked is None
            assert bool(labelled.all())
        else:
            assert asked is not None
            assert asked.tolist() == labelled.nonzero()[:, 0].tolist()
            assert len(asked) == 50
            assert seen[-1] <= set(asked.tolist())
    pools = [set(index.tolist()) for index in rows.asked if index is not None]
    if mode == "same":
        assert pools[0] == pools[1] == pools[2]
    elif mode == "resampled":
        assert pools[0] != pools[1]
    else:
        assert len(set.union(*seen)) > 60


def test_a_mismatched_subset_limits_natural_draws_too():
    trained = method(200, subset=50, subset_mode="mismatched", sampling="natural")
    trained.before_epoch(0, Features(200))
    assert len(set(trained.draw(0).tolist())) == 50
    assert set(trained.draw(0).tolist()) != set(trained.draw(1).tolist())


def test_labels_of_a_subset_are_those_of_its_rows_alone():
    trained, rows = method(200, subset=50), Features(200)
    trained.before_epoch(0, rows)
    alone = method(50)
    alone.before_epoch(0, Features(50) if rows.asked[0] is None else _fixed(rows.rows[rows.asked[0]]))
    assert torch.equal(trained.labels[rows.asked[0]], alone.labels)


def _fixed(rows: torch.Tensor) -> Any:
    return lambda index=None, as_trained=False: rows.clone()


def test_features_beyond_the_limit_go_to_disk_and_nothing_changes(monkeypatch: pytest.MonkeyPatch):
    one, two, rows = method(500), method(500), Features(500)
    one.before_epoch(0, rows)
    monkeypatch.setattr(features, "SPILL_BYTES", 1000)
    spilled = features.allocate(500, 12)
    spilled.copy_(rows.rows)
    two.before_epoch(0, _fixed(spilled))
    assert torch.equal(one.labels, two.labels)


def test_a_run_on_subsets_stopped_and_resumed_is_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    np.save(tmp_path / "d.npy", pictures(120, side=20)[0])
    settings = SMALL | {"subset": 48, "image_size": 24, "resize": 24, "loss_subset": 4, "epochs": 2}
    run = unlabeled.train(tmp_path / "d.npy", tmp_path / "whole", cache=tmp_path / "cache", **settings)
    assert run.history[-1]["labelled_share"] == pytest.approx(48 / 120)
    assert len(run.cluster()) == 120
    train_with_stops(tmp_path / "d.npy", tmp_path / "run", 1, monkeypatch, settings)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


MILLIONS = f"""
import resource, sys, threading, time
import torch
torch.set_num_threads(1)
from unlabeled import features
from unlabeled.config import Config
from unlabeled.methods.deepcluster import DeepCluster
from unlabeled.models import build_backbone

count, dims, limit = 2_000_000, 32, {LIMIT}
config = Config(backbone="alexnet_small", image_size=16, resize=16, num_clusters=50, pca_dims=8, kmeans_iterations=3)
# Whatever is imported and started lazily counts as the program, not as the work.
backbone = build_backbone("alexnet_small", image_size=16)
DeepCluster(backbone, 4000, config).before_epoch(0, lambda index=None, as_trained=False: torch.randn(4000, dims))
method = DeepCluster(backbone, count, config)
features.SPILL_BYTES = 2**24


def embed(index=None, as_trained=False):
    if as_trained:
        return torch.randn(len(index), dims)
    rows = features.allocate(count, dims)
    random = torch.Generator().manual_seed(0)
    for start in range(0, count, 100_000):
        part = rows[start : start + 100_000]
        part.copy_(torch.randn(len(part), dims, generator=random))
        part[:, :2] += 5 * (torch.arange(len(part)) % 7)[:, None]
    return rows


def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))


resource.setrlimit(resource.RLIMIT_DATA, (status("VmData") + limit,) * 2)
begun = time.monotonic()
method.before_epoch(0, embed)
order = method.draw(0)
assert len(order) == count and int(method.labels.min()) >= 0
sizes = torch.bincount(method.labels[order])
assert int(sizes.max()) - int(sizes.min()) <= 0.2 * count / 50
print(round(time.monotonic() - begun, 1))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is one of Linux")
def test_two_million_rows_stay_within_the_limit(tmp_path: Path):
    """The kernel refuses memory beyond the limit (files that are mapped do not count: they can be written back)."""
    (tmp_path / "millions.py").write_text(MILLIONS)
    result = subprocess.run(
        [sys.executable, tmp_path / "millions.py"], capture_output=True, text=True, check=False, timeout=500
    )
    assert result.returncode == 0, result.stderr[-2000:]
