"""Supervised training of the protocols: against torch's own loop, and stopped against unbroken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from unlabeled.evaluation import fitting
from unlabeled.evaluation.fitting import Damped, Fit, Group, Sgd, fit
from unlabeled.evaluation.result_cache import Partial
from unlabeled.training.optim import DampedSGD

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


def test_groups_have_rates_of_their_own():
    """Two layers in one fit, each with its rate, are two fits."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(8, 3), nn.Linear(8, 3)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([layer(x) for layer in self.layers], 1)

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return sum((nn.functional.cross_entropy(part, target) for part in output.unbind(1)), torch.zeros(()))

    both, rates = Two(), [(0.1, 0.0), (0.02, 0.01)]
    alone = [nn.Sequential(nn.Linear(8, 3)) for _ in rates]
    for layer, module in zip(both.layers, alone, strict=True):
        module[0].load_state_dict(layer.state_dict())
    groups = [
        Group(list(layer.parameters()), lambda step, lr=lr: lr / (1 + step), decay)
        for layer, (lr, decay) in zip(both.layers, rates, strict=True)
    ]
    fit(both, batches, loss, HOW_PLAIN, title="fit", mover=Sgd(groups, 0.9))
    for layer, module, (lr, decay) in zip(both.layers, alone, rates, strict=True):
        how = Fit(6, 3, lambda step, lr=lr: lr / (1 + step), weight_decay=decay)
        fit(module, batches, nn.functional.cross_entropy, how, title="fit")
        torch.testing.assert_close(layer.weight, module[0].weight)


HOW_PLAIN = Fit(epochs=6, steps=3, lr=lambda step: 0.0)


@pytest.mark.parametrize("kind", ["sgd", "damped"])
def test_any_mover_goes_on_bit_for_bit(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fitting, "SAVE_SECONDS", -1.0)

    def run(partial: Partial | None, last: int) -> nn.Module:
        module = network()
        weights = list(module.parameters())
        mover = (
            Damped(weights, lambda step: 0.1 / (1 + step), 0.9, 1e-3)
            if kind == "damped"
            else Sgd([Group(weights[:2], lambda _: 0.1), Group(weights[2:], lambda _: 0.01, 1e-3)], 0.9)
        )

        def stop(epoch: int) -> None:
            if epoch == last:
                raise KeyboardInterrupt

        return fit(
            module,
            batches,
            nn.functional.cross_entropy,
            HOW,
            title="fit",
            partial=partial,
            after_epoch=stop,
            mover=mover,
        )

    whole, partial = run(None, 99), Partial(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(partial, 3)
    again = run(partial, 99)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


def test_damped_steps_are_those_of_the_optimiser():
    ours, plain = nn.Sequential(nn.Linear(8, 3)), nn.Sequential(nn.Linear(8, 3))
    ours.load_state_dict(plain.state_dict())
    mover = Damped(list(ours.parameters()), lambda step: 0.1 / (1 + step), 0.9, 1e-2)
    fit(ours, batches, nn.functional.cross_entropy, HOW_PLAIN, title="fit", mover=mover)
    optimizer, step = DampedSGD(plain.parameters(), 0.1, 0.9, 1e-2), 0
    for epoch in range(6):
        for view, target in batches(epoch):
            optimizer.lr = 0.1 / (1 + step)
            nn.functional.cross_entropy(plain(view), target).backward()
            optimizer.step()
            step += 1
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))


def test_accumulated_steps_are_those_of_the_whole_batch():
    whole, pieces = nn.Sequential(nn.Linear(8, 3)), nn.Sequential(nn.Linear(8, 3))
    pieces.load_state_dict(whole.state_dict())

    def small(epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return ((x[rows], y[rows]) for x, y in batches(epoch) for rows in torch.arange(20).split(5))

    fit(whole, batches, nn.functional.cross_entropy, HOW, title="fit")
    fit(pieces, small, nn.functional.cross_entropy, replace(HOW, accumulate=4), title="fit")
    torch.testing.assert_close(pieces[0].weight, whole[0].weight)
