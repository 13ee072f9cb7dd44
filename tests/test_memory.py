from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from unlabeled.errors import ConfigError, DataError
from unlabeled.losses import similarities
from unlabeled.memory import MemoryBank, alias_draw, alias_table, negatives
from unlabeled.randomness import generator


def unit(*shape: int, key: str = "z") -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=generator(0, key)), dim=-1)


def test_a_new_bank_is_unit_vectors_or_what_the_released_code_draws() -> None:
    sphere = MemoryBank(2000, 128, seed=1)
    torch.testing.assert_close(sphere.bank.norm(dim=1), torch.ones(2000))
    uniform = MemoryBank(2000, 128, seed=1, init="uniform")
    assert uniform.bank.abs().max() <= math.sqrt(3 / 128)
    lengths = uniform.bank.norm(dim=1)
    assert lengths.mean().item() == pytest.approx(1.0, abs=0.01)
    assert lengths.std().item() == pytest.approx(0.04, abs=0.01)
    assert torch.equal(sphere.bank, MemoryBank(2000, 128, seed=1).bank)
    assert not torch.equal(sphere.bank, MemoryBank(2000, 128, seed=2).bank)


@pytest.mark.parametrize("momentum", [0.5, 0.0, 0.9])
def test_an_update_is_the_formula_and_touches_nothing_else(momentum: float) -> None:
    memory = MemoryBank(50, 8, seed=0, momentum=momentum)
    before, index, z = memory.bank.clone(), torch.tensor([7, 3, 49]), unit(3, 8)
    memory.update(index, z)
    for row, output in zip(index, z, strict=True):
        mixed = momentum * before[row].double() + (1 - momentum) * output.double()
        torch.testing.assert_close(memory.bank[row].double(), mixed / mixed.norm(), atol=1e-6, rtol=0)
    others = torch.ones(50, dtype=torch.bool)
    others[index] = False
    assert torch.equal(memory.bank[others], before[others])  # bit for bit
    if momentum == 0:
        torch.testing.assert_close(memory.bank[index], z)


def test_rows_of_any_shape_are_copies() -> None:
    memory = MemoryBank(20, 4, seed=0)
    rows = memory.rows(torch.tensor([[1, 2, 3], [4, 4, 19]]))
    assert rows.shape == (2, 3, 4)
    assert torch.equal(rows[1, 2], memory.bank[19])
    rows.zero_()
    assert memory.bank.norm(dim=1).min() > 0.9


def test_duplicates_are_refused_and_leave_the_bank_alone() -> None:
    memory = MemoryBank(20, 4, seed=0)
    before = memory.bank.clone()
    with pytest.raises(DataError, match="got 1 repeats;"):
        memory.update(torch.tensor([1, 5, 1]), unit(3, 4))
    assert torch.equal(memory.bank, before)


def test_no_step_waits_for_the_device() -> None:
    """A tensor of the meta device has no values, so anything that reads one, as a GPU's would be read, raises."""
    memory = MemoryBank(20, 4, seed=0).to("meta")
    index, z = torch.zeros(3, dtype=torch.int64, device="meta"), torch.zeros(3, 4, device="meta")
    memory.update(index, z)
    memory.observe_normaliser(z[:, 0], z, 0.1, "ema")
    with pytest.raises(RuntimeError):
        memory.check()


def test_what_was_not_looked_at_in_the_step_is_found_later() -> None:
    memory = MemoryBank(20, 4, seed=0)
    memory.check()
    memory.repeats += 2
    with pytest.raises(DataError, match="got 2 repeats;"):
        memory.check()
    memory.check()
    assert "repeats" not in memory.state_dict()


def test_the_first_normaliser_is_kept_and_a_moving_one_moves() -> None:
    positive, negative = torch.tensor([0.3, 0.1]), torch.tensor([[0.2, -0.1], [0.0, 0.4]])
    wanted = 50 * sum(math.exp(s / 0.1) for s in (0.3, 0.1, 0.2, -0.1, 0.0, 0.4)) / 6
    first, moving = MemoryBank(50, 4, seed=0), MemoryBank(50, 4, seed=0)
    assert float(first.observe_normaliser(positive, negative, 0.1)) == pytest.approx(wanted, rel=1e-6)
    assert float(first.observe_normaliser(positive * 0, negative * 0, 0.1)) == pytest.approx(wanted, rel=1e-6)
    assert float(moving.observe_normaliser(positive, negative, 0.1, "ema")) == pytest.approx(wanted, rel=1e-6)
    then = float(moving.observe_normaliser(positive * 0, negative * 0, 0.1, "ema"))
    assert then == pytest.approx(0.99 * wanted + 0.01 * 50, rel=1e-6)
    with pytest.raises(ConfigError, match="exact_normaliser"):
        first.observe_normaliser(positive, negative, 0.1, "exact")


@pytest.mark.parametrize(("temperature", "ratio"), [(0.07, 2.22), (0.1, 1.48)])
def test_the_estimate_is_near_its_expectation(temperature: float, ratio: float) -> None:
    # For unit vectors in 128 dims, Z / N is about exp(1 / (2 d t^2)).
    memory, z = MemoryBank(4000, 128, seed=0), unit(64, 128)
    negative = similarities(z, memory.rows(negatives(4000, (64, 1024), generator(0, "n"))))
    estimate = memory.observe_normaliser(negative[:, 0], negative, temperature)
    assert float(estimate) / 4000 == pytest.approx(ratio, rel=0.04)
    assert memory.exact_normaliser(z, temperature).mean().item() / 4000 == pytest.approx(ratio, rel=0.04)


def test_the_exact_normaliser_is_the_sum_over_all_rows() -> None:
    memory, z = MemoryBank(300, 16, seed=0), unit(5, 16)
    wanted = (z.double() @ memory.bank.double().T / 0.1).exp().sum(dim=1)
    torch.testing.assert_close(memory.exact_normaliser(z, 0.1, chunk=7), wanted, rtol=1e-5, atol=0)


def test_the_state_is_the_whole_story() -> None:
    memory, other = MemoryBank(30, 4, seed=0), MemoryBank(30, 4, seed=9)
    memory.observe_normaliser(torch.ones(2), torch.zeros(2, 3), 0.1)
    memory.update(torch.tensor([3]), unit(1, 4))
    other.load_state_dict(memory.state_dict())
    assert torch.equal(other.bank, memory.bank)
    assert torch.equal(other.normaliser, memory.normaliser)


def test_negatives_are_uniform_with_replacement() -> None:
    drawn = negatives(10, (200, 100), generator(0, "negatives"))
    assert drawn.shape == (200, 100)
    counts = torch.bincount(drawn.flatten(), minlength=10).double()
    assert float(((counts - 2000) ** 2 / 2000).sum()) < 27.9  # chi-squared with 9 degrees of freedom, p = .001
    assert torch.equal(drawn, negatives(10, (200, 100), generator(0, "negatives")))


@pytest.mark.parametrize("weights", [[1.0], [1, 1, 1], [0, 5, 0, 1], [0.1] * 10 + [100], [3, 1e-9, 2]])
def test_an_alias_table_implies_the_distribution(weights: list[float]) -> None:
    values = torch.tensor(weights, dtype=torch.float64)
    keep, alias = alias_table(values)
    implied = keep.clone().scatter_add_(0, alias, 1 - keep) / len(values)
    torch.testing.assert_close(implied, values / values.sum(), atol=1e-12, rtol=0)
    drawn = alias_draw(keep, alias, (20_000,), generator(0, "alias"))
    shares = torch.bincount(drawn, minlength=len(values)) / 20_000
    torch.testing.assert_close(shares.double(), values / values.sum(), atol=0.02, rtol=0)


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -1.0], [math.inf, 1.0]])
def test_weights_must_make_a_distribution(weights: list[float]) -> None:
    with pytest.raises(DataError, match="weights of a distribution"):
        alias_table(torch.tensor(weights))


def test_impossible_banks_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one image"):
        MemoryBank(0, 4, seed=0)
    with pytest.raises(ConfigError, match=r"\[0, 1\), got 1"):
        MemoryBank(3, 4, seed=0, momentum=1.0)
