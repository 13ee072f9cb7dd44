"""Supervised training of the protocols: against torch's own loop, and stopped against unbroken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from unlabeled.evaluation import fitting
from unlabeled.evaluation.fitting import Fit, fit
from unlabeled.evaluation.partial import Partial

X, Y = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))


def batches(epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    order = torch.randperm(60, generator=torch.Generator().manual_seed(epoch)).split(20)
    return ((X[rows], Y[rows]) for rows in order)


HOW = Fit(epochs=6, steps=3, lr=lambda step: 0.1 / (1 + 0.1 * step), weight_decay=1e-3, clip=1.0)


def test_steps_are_those_of_torch():
    plain = nn.Sequential(nn.Linear(8, 3))
    ours = nn.Sequential(nn.Linear(8, 3))
    ours.load_state_dict(plain.state_dict())
    fit(ours, batches, nn.functional.cross_entropy, HOW, title="fit")
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    step = 0
    for epoch in range(6):
        for view, target in batches(epoch):
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + 0.1 * step)
            optimizer.zero_grad()
            nn.functional.cross_entropy(plain(view), target).backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
            optimizer.step()
            step += 1
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))


def test_a_stopped_fit_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fitting, "SAVE_SECONDS", -1.0)
    whole = fit(network(), batches, nn.functional.cross_entropy, HOW, title="fit")

    def stop(epoch: int) -> None:
        if epoch == 3:
            raise KeyboardInterrupt

    partial = Partial(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(network(), batches, nn.functional.cross_entropy, HOW, title="fit", partial=partial, after_epoch=stop)
    seen: list[int] = []
    again = fit(
        network(), batches, nn.functional.cross_entropy, HOW, title="fit", partial=partial, after_epoch=seen.append
    )
    assert seen == [3, 4, 5]  # the epoch that was not kept is repeated
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


def test_frozen_statistics_stay():
    module = network()
    before = module[1].running_mean.clone()
    fit(module, batches, nn.functional.cross_entropy, Fit(2, 3, lambda step: 0.1, freeze_norm=True), title="fit")
    assert torch.equal(module[1].running_mean, before)
    fit(module, batches, nn.functional.cross_entropy, Fit(2, 3, lambda step: 0.1), title="fit")
    assert not torch.equal(module[1].running_mean, before)


def test_parts_come_back_and_go(tmp_path: Path):
    partial = Partial(tmp_path / "parts")
    assert partial.read("a") is None
    assert partial.load("a") is None
    partial.write("a", {"score": 0.5})
    partial.save("a", {"w": torch.ones(3)})
    assert partial.read("a") == {"score": 0.5}
    assert torch.equal((partial.load("a") or {})["w"], torch.ones(3))
    (tmp_path / "parts" / "a.json").write_text("{damaged")
    assert partial.read("a") is None
    partial.finish()
    assert not (tmp_path / "parts").exists()
    nothing = Partial()
    nothing.write("a", 1)
    assert nothing.read("a") is None
