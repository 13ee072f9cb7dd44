"""Golden numbers of the probes: pooled stages, the learning-rate rule, and ten crops made one answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from unlabeled.evaluation.crops import aggregate
from unlabeled.evaluation.linear import Setting
from unlabeled.evaluation.stages import pool_of
from unlabeled.metrics import topk_accuracy

CHANNELS = {"conv1": 96, "conv2": 256, "conv3": 384, "conv4": 384, "conv5": 256}


@pytest.mark.parametrize("stage", CHANNELS)
def test_pooled_stages(golden: Path, stage: str) -> None:
    data = np.load(golden / "linear_probe.npz")
    maps = torch.from_numpy(data[f"x_{stage}"].astype(np.float32))
    pool = pool_of(CHANNELS[stage], maps.shape[2])
    np.testing.assert_allclose(pool(maps), data[f"pooled_{stage}"], atol=1e-5, rtol=0)
    assert CHANNELS[stage] * pool.side(maps.shape[2]) ** 2 == int(data[f"dim_{stage}"])


def test_learning_rate(golden: Path) -> None:
    data = np.load(golden / "linear_probe.npz")
    setting = Setting(float(data["lr0"]), float(data["lr_wd"]))
    rates = [setting.rate(int(step)) for step in data["lr_t"]]
    np.testing.assert_allclose(rates, data["lr"], rtol=1e-12)


@pytest.mark.parametrize("how", ["mean_softmax", "sum_logits"])
def test_ten_crops(golden: Path, how: str) -> None:
    data = np.load(golden / "tencrop.npz")
    scores = aggregate(torch.from_numpy(data["logits"]), "mean_softmax" if how == "mean_softmax" else "sum_logits")
    np.testing.assert_allclose(scores, data[how], atol=1e-5, rtol=0)
    found = [100 * topk_accuracy(scores, data["target"], k) for k in (1, 5)]
    np.testing.assert_allclose(found, data[f"acc_{how}"], atol=1e-5, rtol=0)
