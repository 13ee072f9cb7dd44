from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from unlabeled import losses as module
from unlabeled.errors import DataError
from unlabeled.losses import bank_softmax, nonparametric_softmax
from unlabeled.randomness import generator


def problem(
    n: int = 3000, b: int = 32, d: int = 64, near: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = generator(0, "bank")
    bank = F.normalize(torch.randn(n, d, generator=random), dim=1)
    index = torch.randperm(n, generator=random)[:b]
    z = F.normalize(near * bank[index] + torch.randn(b, d, generator=random) / d**0.5, dim=1)
    return z, bank, index


def loss_and_gradient(function, z: torch.Tensor, *rest, **named) -> tuple[float, torch.Tensor]:
    z = z.clone().requires_grad_()
    loss = function(z, *rest, **named)
    (3 * loss).backward()
    assert z.grad is not None
    return loss.item(), z.grad


@pytest.mark.parametrize("temperature", [0.07, 0.01, 0.003, 1.0])
@pytest.mark.parametrize("near", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("scores", [32, 32 * 7, 2**30])
def test_it_is_the_plain_softmax(monkeypatch: pytest.MonkeyPatch, temperature: float, near: float, scores: int) -> None:
    z, bank, index = problem(n=300, near=near)
    monkeypatch.setattr(module, "SCORES_CPU", scores)  # chunks of 1, 7 and all rows
    wanted, gradient = loss_and_gradient(nonparametric_softmax, z.double(), bank.double(), index, temperature)
    found, ours = loss_and_gradient(bank_softmax, z, bank, index, temperature, precision="float32")
    assert found == pytest.approx(wanted, rel=1e-5, abs=2e-5)
    # The rounding of a score grows with 1 / t, and so does the gradient of one.
    rounding = 1e-5 * max(1, (0.01 / temperature) ** 2)
    torch.testing.assert_close(ours.double(), gradient, rtol=1e-4, atol=rounding)


@pytest.mark.parametrize("near", [0.0, 1.0, 10.0])
def test_bfloat16_is_near_enough_to_train(near: float) -> None:
    z, bank, index = problem(near=near)
    wanted, gradient = loss_and_gradient(nonparametric_softmax, z.double(), bank.double(), index, 0.07)
    found, ours = loss_and_gradient(bank_softmax, z, bank, index, 0.07, precision="bfloat16")
    assert found == pytest.approx(wanted, rel=1e-3, abs=1e-3)
    assert float((ours - gradient).norm() / gradient.norm()) < 5e-3


def test_without_gradient_only_the_loss_is_made() -> None:
    z, bank, index = problem(n=100)
    with torch.no_grad():
        loss = bank_softmax(z, bank, index, 0.1)
    assert not loss.requires_grad


def test_an_image_may_appear_twice_in_the_batch() -> None:
    z, bank, index = problem(n=50)
    index = index.remainder(3)
    found, ours = loss_and_gradient(bank_softmax, z, bank, index, 0.1, precision="float32")
    wanted, gradient = loss_and_gradient(nonparametric_softmax, z, bank, index, 0.1)
    assert found == pytest.approx(wanted, rel=1e-5)
    torch.testing.assert_close(ours, gradient, rtol=1e-4, atol=1e-6)


def test_shapes_must_fit() -> None:
    with pytest.raises(DataError, match=r"\(2, 3\), \(5, 4\) and \(2,\)"):
        bank_softmax(torch.ones(2, 3), torch.ones(5, 4), torch.tensor([0, 1]), 0.1)
