"""Optimisers and schedules against torch's own SGD and against numbers by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from unlabeled.config import Config
from unlabeled.errors import RunError
from unlabeled.training.optim import (
    DampedSGD,
    MomentumSGD,
    Optimizer,
    cosine_decay,
    inverse_decay,
    learning_rate,
    step_decay,
)


def network(seed: int = 0) -> tuple[nn.Sequential, nn.Linear]:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)), nn.Linear(6, 3)


def loss_of(body: nn.Module, head: nn.Module, step: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(step)
    x, y = torch.randn(8, 4, generator=draw), torch.randint(3, (8,), generator=draw)
    return functional.cross_entropy(head(functional.relu(body(x))), y)


def test_body_and_head_are_two_sgd() -> None:
    """Against the update written out, one parameter after the other, with weights in two memory orders."""
    config = Config(lr=0.1, momentum=0.9, weight_decay=0.01, head_lr=0.3, head_momentum=0.5)
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(12, 6)).to(memory_format=torch.channels_last)
    head = nn.Linear(6, 3)
    optimizer = Optimizer(body, config)
    optimizer.adopt(head)
    expected = {weight: weight.detach().clone() for weight in [*body.parameters(), *head.parameters()]}
    buffers = {weight: torch.zeros_like(weight) for weight in expected}
    rates = dict.fromkeys(body.parameters(), (0.1, 0.9)) | dict.fromkeys(head.parameters(), (0.3, 0.5))
    for _ in range(4):
        x = torch.randn(5, 2, 3, 3)
        for weight, gradient in zip(
            expected, torch.autograd.grad(head(body(x)).square().sum(), list(expected)), strict=True
        ):
            lr, momentum = rates[weight]
            buffers[weight] = momentum * buffers[weight] + gradient + 0.01 * expected[weight]
            expected[weight] = expected[weight] - lr * buffers[weight]
        optimizer.step(head(body(x)).square().sum())
        for weight, value in expected.items():
            torch.testing.assert_close(weight, value)


def test_gradient_in_another_memory_order_than_its_weight() -> None:
    layer = nn.Conv2d(2, 3, 2, bias=False).to(memory_format=torch.channels_last)
    before, gradient = layer.weight.detach().clone(), torch.randn(3, 2, 2, 2)
    layer.weight.grad = gradient.clone()
    sgd = MomentumSGD(layer, momentum=0.9, weight_decay=0.0)
    sgd.lr = 0.5
    sgd.step()
    torch.testing.assert_close(layer.weight, before - 0.5 * gradient)
    assert layer.weight.grad is None


def test_a_new_head_starts_without_memory_and_the_same_head_keeps_its_own() -> None:
    config = Config(head_momentum=0.9)
    body, head = network()
    optimizer = Optimizer(body, config)
    optimizer.adopt(head)
    optimizer.step(loss_of(body, head, 0))
    before = optimizer.state_tensors()
    optimizer.adopt(head)
    assert optimizer.state_tensors().keys() == before.keys()
    optimizer.adopt(nn.Linear(6, 5))
    assert {name.split(".")[1] for name in optimizer.state_tensors() if "." in name} == {"backbone"}


def test_accumulated_steps_are_one_step_on_their_mean_loss() -> None:
    body, head = network()
    body2, head2 = copy.deepcopy(body), copy.deepcopy(head)
    accumulating, plain = Optimizer(body, Config(accumulate=3)), Optimizer(body2, Config())
    accumulating.adopt(head)
    plain.adopt(head2)
    start = head.weight.detach().clone()
    for step in range(2):
        accumulating.step(loss_of(body, head, step))
        assert torch.equal(head.weight, start)
    accumulating.step(loss_of(body, head, 2))
    plain.step(sum((loss_of(body2, head2, step) for step in range(3)), torch.tensor(0.0)) / 3)
    torch.testing.assert_close(head.weight, head2.weight)
    accumulating.step(loss_of(body, head, 3), last=True)
    assert not torch.equal(head.weight, head2.weight)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_resumed_equals_uninterrupted(accumulate: int) -> None:
    config = Config(head_momentum=0.9, accumulate=accumulate)

    def run(body: nn.Module, head: nn.Module, optimizer: Optimizer, steps: range) -> None:
        for step in steps:
            optimizer.set_lr(0.05 / (1 + step))
            optimizer.step(loss_of(body, head, step))

    body, head = network()
    optimizer = Optimizer(body, config)
    optimizer.adopt(head)
    run(body, head, optimizer, range(3))
    stored = {name: tensor.clone() for name, tensor in optimizer.state_tensors().items()}
    body2, head2 = copy.deepcopy(body), copy.deepcopy(head)
    for parameter in [*body2.parameters(), *head2.parameters()]:
        parameter.grad = None
    resumed = Optimizer(body2, config)
    resumed.adopt(head2)
    resumed.load_state_tensors(stored)
    run(body, head, optimizer, range(3, 7))
    run(body2, head2, resumed, range(3, 7))
    assert all(torch.equal(a, b) for a, b in zip(body.parameters(), body2.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(head.parameters(), head2.parameters(), strict=True))


def test_state_of_another_network_is_refused() -> None:
    body, head = network()
    optimizer = Optimizer(body, Config())
    optimizer.adopt(head)
    optimizer.step(loss_of(body, head, 0))
    stored = optimizer.state_tensors()
    with pytest.raises(RunError, match="has shape"):
        Optimizer(nn.Sequential(nn.Linear(4, 7)), Config()).load_state_tensors(stored)
    with pytest.raises(RunError, match="belongs to no parameter"):
        Optimizer(nn.Sequential(nn.Linear(4, 6)), Config()).load_state_tensors(stored)


def test_schedules() -> None:
    config = Config(lr=0.4, epochs=20, warmup=4.0, schedule="cosine")
    assert learning_rate(config, 0.0) == pytest.approx(0.004)
    assert learning_rate(config, 2.0) == pytest.approx(0.4 * 0.505)
    assert learning_rate(config, 4.0) == pytest.approx(0.4)
    assert learning_rate(config, 12.0) == pytest.approx(0.2)
    assert learning_rate(config, 20.0) == pytest.approx(0.0, abs=1e-12)
    steps = Config(lr=0.3, schedule="steps", schedule_steps=(5, 8))
    assert [learning_rate(steps, epoch) for epoch in (0, 4.9, 5, 7.9, 8)] == pytest.approx(
        [0.3, 0.3, 0.03, 0.03, 0.003]
    )
    # By hand: constant to epoch 10, then 0.6 / (1 + 0.5 t), within epochs too.
    inverse = Config(lr=0.6, schedule="inverse", inverse_start=10.0, inverse_gamma=0.5, warmup=1.0)
    assert [learning_rate(inverse, epoch) for epoch in (1, 10, 11, 12, 12.5, 14)] == pytest.approx(
        [0.6, 0.6, 0.4, 0.3, 0.6 / 2.25, 0.2]
    )
    assert learning_rate(inverse, 0.5) == pytest.approx(0.6 * 0.505)
    assert learning_rate(Config(lr=0.3), 17.0) == 0.3
    assert step_decay(1.0, 3, (1, 2), factor=0.5) == 0.25
    assert inverse_decay(1.0, 30, 20, 0.3) == 0.25
    assert inverse_decay(1.0, 10, 20, 0.3) == 1.0
    assert cosine_decay(2.0, 0.5) == pytest.approx(1.0)


def test_damped_sgd_by_hand() -> None:
    weight, bias = nn.Parameter(torch.tensor([[2.0]])), nn.Parameter(torch.tensor([2.0]))
    optimizer = DampedSGD([weight, bias], lr=0.5, momentum=0.75, decay=0.1)

    def step() -> None:
        for parameter in (weight, bias):
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()

    step()
    assert weight.item() == pytest.approx(2 * 0.9 - 0.5 * 0.25)
    assert bias.item() == pytest.approx(2 - 0.5 * 0.25)
    step()
    assert bias.item() == pytest.approx(2 - 0.5 * 0.25 - 0.5 * 0.4375)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_accumulated_steps_are_one_large_batch(reduction: str):
    """A summed loss adds up, a mean is averaged: two halves move the weights as the whole does."""
    settings: dict[str, Any] = {"method": "nat", "loss_reduction": reduction, "lr": 0.01, "accumulate": 2}
    rows = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    moved: list[torch.Tensor] = []
    for parts in ((rows,), rows.split(4)):
        body = nn.Linear(4, 2)
        nn.init.ones_(body.weight)
        nn.init.zeros_(body.bias)
        optimizer = Optimizer(body, Config(**settings | {"accumulate": len(parts)}))
        for part in parts:
            losses = body(part).square().sum(1)
            optimizer.step(losses.sum() if reduction == "sum" else losses.mean())
        moved.append(body.weight.detach().clone())
    torch.testing.assert_close(moved[0], moved[1])
