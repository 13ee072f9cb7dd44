"""Instance discrimination: the bank, what each loss compares with, and the memory of a stopped run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import unlabeled
from runs import SMALL, assert_same_run, final_tensors, knn_gain, photograph_crops, train_with_stops
from unlabeled.config import Config
from unlabeled.errors import DataError
from unlabeled.methods import build_method
from unlabeled.methods.instance import InstanceDiscrimination

COUNT = 40
INSTANCE: dict[str, Any] = SMALL | {
    "method": "instance", "embedding_dims": 16, "lr": 0.01, "head_lr": 0.01, "head_momentum": 0.9, "image_size": 24, "resize": 24,
    "num_negatives": 32,
}  # fmt: skip


def make(**changes: Any) -> InstanceDiscrimination:
    config = Config(
        backbone="alexnet_small", image_size=16, resize=16, store_size=16, method="instance", embedding_dims=8,
        num_negatives=12, temperature=0.2, precision="float32",
    ).replace(**changes)  # fmt: skip
    method = build_method(config, COUNT, 3)
    assert isinstance(method, InstanceDiscrimination)
    return method


def outputs(count: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)), dim=1)


def reference(method: InstanceDiscrimination, z: torch.Tensor, index: torch.Tensor) -> float:
    """The papers' formulas, image by image in float64."""
    config, bank = method.config, method.memory.bank.double().numpy()
    drawn = None if config.objective == "softmax" else method.negatives(len(z)).numpy()
    total = 0.0
    for row, (output, i) in enumerate(zip(z.double().numpy(), index.tolist(), strict=True)):
        similarity = np.exp(bank @ output / config.temperature)
        if config.objective == "softmax":
            total -= math.log(similarity[i] / similarity.sum())
        elif config.objective == "sampled":
            total -= math.log(similarity[i] / (similarity[i] + similarity[drawn].sum()))
        else:
            constant = float(method.memory.normaliser) if config.normaliser != "exact" else similarity.sum()
            noise = config.num_negatives / COUNT
            total -= math.log(similarity[i] / constant / (similarity[i] / constant + noise))
            total -= np.log(noise / (similarity[drawn[row]] / constant + noise)).sum()
        if config.memory == "proximal":
            total += config.proximal_weight * ((output - bank[i]) ** 2).sum()
    return total / len(z)


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "softmax"},
        {"objective": "sampled"},
        {"objective": "nce", "normaliser": "first"},
        {"objective": "nce", "normaliser": "ema"},
        {"objective": "nce", "normaliser": "exact"},
        {"objective": "nce", "memory": "proximal", "proximal_weight": 3.0},
        {"objective": "softmax", "memory": "proximal"},
    ],
)
def test_losses_are_the_formulas_in_float64(changes: dict[str, Any]) -> None:
    method = make(**changes)
    for step in range(3):
        index, z = torch.arange(step * 5, step * 5 + 5), outputs(5, seed=step)
        target = method.targets(index, z)
        assert float(method.loss(z, target)) == pytest.approx(reference(method, z, index), rel=2e-5)
        method.after_step(index, z)


def test_rows_not_seen_stay_bit_equal_and_rows_seen_follow_the_rule() -> None:
    for changes, kept in (({"memory": "momentum", "memory_momentum": 0.5}, 0.5), ({"memory": "proximal"}, 0.0)):
        method = make(**changes)
        before = method.memory.bank.clone()
        index, z = torch.tensor([7, 3, 30, 12]), outputs(4)
        method.after_step(index, z)
        others = torch.ones(COUNT, dtype=torch.bool)
        others[index] = False
        assert torch.equal(method.memory.bank[others], before[others])
        expected = F.normalize(kept * before[index] + (1 - kept) * z, dim=1)
        torch.testing.assert_close(method.memory.bank[index], expected)
        torch.testing.assert_close(method.memory.bank.norm(dim=1), torch.ones(COUNT))


def test_the_bank_begins_as_asked() -> None:
    features = torch.randn(COUNT, make().backbone.feature_dim, generator=torch.Generator().manual_seed(0))
    for init in ("sphere", "uniform", "outputs"):
        method = make(memory_init=init)
        before = method.memory.bank.clone()
        method.before_epoch(0, lambda index=None: features)
        lengths = method.memory.bank.norm(dim=1)
        if init == "outputs":
            torch.testing.assert_close(method.memory.bank, method.outputs(features))
            method.after_step(torch.arange(4), outputs(4))
            before = method.memory.bank.clone()
        elif init == "sphere":
            torch.testing.assert_close(lengths, torch.ones(COUNT))
        else:
            # Coordinates up to sqrt(3 / D): lengths near one, but not one (the released code).
            assert method.memory.bank.abs().max() <= math.sqrt(3 / 8)
            assert float(lengths.std()) > 0.05
        method.before_epoch(1, lambda index=None: features)
        assert torch.equal(method.memory.bank, before)


def test_an_image_twice_in_a_batch_is_refused() -> None:
    with pytest.raises(DataError, match="once in a batch"):
        make().after_step(torch.tensor([1, 1]), outputs(2))


def test_gradients_reach_the_outputs_and_never_the_bank() -> None:
    for objective in ("softmax", "nce", "sampled"):
        method = make(objective=objective)
        z = outputs(4).requires_grad_()
        method.loss(z, method.targets(torch.arange(4), z.detach())).backward()
        assert z.grad is not None
        assert float(z.grad.abs().sum()) > 0
        assert not method.memory.bank.requires_grad


def test_negatives_are_fresh_every_step_and_known_again_after_a_stop() -> None:
    method = make(objective="nce")
    first = method.negatives(6)
    assert first.shape == (6, 12)
    assert torch.equal(first, method.negatives(6))
    method.after_step(torch.arange(6), outputs(6))
    second = method.negatives(6)
    assert not torch.equal(first, second)
    resumed = make(objective="nce")
    resumed.load_state_dict(method.state_dict())
    assert torch.equal(resumed.negatives(6), second)
    assert make(objective="sampled").negatives(6).shape == (12,)


def test_the_normaliser_is_kept_moved_or_exact() -> None:
    batches = [(torch.arange(5 * step, 5 * step + 5), outputs(5, seed=step)) for step in range(3)]
    seen: dict[str, list[float]] = {}
    for kind in ("first", "ema", "exact"):
        method = make(objective="nce", normaliser=kind)
        for index, z in batches:
            method.targets(index, z)
            seen.setdefault(kind, []).append(float(method.memory.normaliser))
            method.after_step(index, z)
    assert seen["first"][0] == seen["first"][1] == seen["first"][2] > 0
    assert seen["ema"][0] == seen["first"][0]
    assert len(set(seen["ema"])) == 3
    assert seen["exact"] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("changes", [{"objective": "softmax"}, {"objective": "nce", "normaliser": "exact"}])
def test_guessing_is_the_loss_of_equal_rows(changes: dict[str, Any]) -> None:
    method = make(**changes)
    assert "chance_loss" not in method.summary()
    for step in range(3 * COUNT // method.config.batch_size + 1):
        method.after_step(torch.arange(20), outputs(20, seed=step))
    method.memory.bank.copy_(torch.eye(8)[:1].expand(COUNT, 8))
    z = outputs(6)
    loss = float(method.loss(z, method.targets(torch.arange(6), z)))
    assert method.summary()["chance_loss"] == pytest.approx(loss, rel=1e-5)


def test_stopped_and_resumed_is_the_same_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = INSTANCE | {"objective": "nce", "normaliser": "ema", "epochs": 2}
    unlabeled.train(data, tmp_path / "whole", cache=tmp_path / "cache", **settings)
    train_with_stops(data, tmp_path / "stopped", 2, monkeypatch, settings)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")
    assert int(final_tensors(tmp_path / "whole")["method._extra_state"]) == 2 * 3


def test_hooks_come_in_order(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    for name in ("before_epoch", "draw", "targets", "loss", "after_step", "summary"):
        original = getattr(InstanceDiscrimination, name)

        def record(self: object, *args: object, _name: str = name, _original: Any = original) -> object:
            seen.append(_name)
            return _original(self, *args)

        monkeypatch.setattr(InstanceDiscrimination, name, record)
    unlabeled.train(data, tmp_path / "run", cache=tmp_path / "cache", **INSTANCE | {"epochs": 1})
    assert seen == ["before_epoch", "draw", *3 * ["targets", "loss", "after_step"], "summary"]


def test_learns_on_photographs(tmp_path: Path) -> None:
    data, labels = photograph_crops(tmp_path)
    settings = INSTANCE | {"epochs": 6, "batch_size": 36, "embedding_dims": 64, "temperature": 0.1, "hue": 0.1}
    run = unlabeled.train(data, tmp_path / "run", cache=tmp_path / "cache", labels=labels, **settings)
    assert knn_gain(run, labels) > 0.03
    last = run.history[-1]
    assert last["loss"] < last["chance_loss"] == pytest.approx(math.log(12 * 18))
    assert {"knn", "knn_bank", "knn_output"} <= last.keys()
    assert all(record["status"] in ("healthy", "warming up") for record in run.history)
