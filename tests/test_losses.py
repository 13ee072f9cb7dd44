from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unlabeled import losses
from unlabeled.errors import ConfigError, DataError
from unlabeled.losses import bank_softmax
from unlabeled.randomness import generator


def normal(*shape: int, key: str = "x") -> torch.Tensor:
    return torch.randn(*shape, generator=generator(0, key), dtype=torch.float64)


def unit(*shape: int, key: str = "x") -> torch.Tensor:
    return F.normalize(normal(*shape, key=key), dim=-1)


def finite_differences(function: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor) -> torch.Tensor:
    steps = torch.eye(at.numel(), dtype=torch.float64).view(-1, *at.shape) * 1e-6
    slopes = [(function(at + step) - function(at - step)) / 2e-6 for step in steps]
    return torch.stack(slopes).view(at.shape)


LABELS = torch.tensor([1, 4, 2, 1, 0])
BANK = unit(40, 7, key="bank")
NEGATIVE = torch.randint(40, (5, 11), generator=generator(0, "negative"))


def nce_of(z: torch.Tensor) -> torch.Tensor:
    positive = losses.similarities(z, BANK[LABELS][:, None])[:, 0]
    return losses.nce(
        positive, losses.similarities(z, BANK[NEGATIVE]), num_images=40, temperature=0.1, normaliser=500.0
    )


CASES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "cross_entropy": lambda z: losses.cross_entropy(z, LABELS),
    "weighted_cross_entropy": lambda z: losses.weighted_cross_entropy(z, LABELS, torch.arange(7).double()),
    "square_loss": lambda z: losses.square_loss(z, unit(5, 7, key="codes")),
    "square_loss_to_basis": lambda z: losses.square_loss_to_basis(z, LABELS),
    "restricted_cross_entropy": lambda z: losses.restricted_cross_entropy(z, LABELS, torch.tensor([0, 1, 2, 4])),
    "nonparametric_softmax": lambda z: losses.nonparametric_softmax(z, BANK, LABELS, 0.1),
    "bank_softmax": lambda z: bank_softmax(z, BANK, LABELS, 0.1),
    "nce": nce_of,
    "sampled_softmax": lambda z: losses.sampled_softmax(
        (z * BANK[LABELS]).sum(1), losses.similarities(z, BANK[5:20]), 0.1
    ),
    "proximal": lambda z: losses.proximal(z, BANK[LABELS]),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_finite_differences(name: str) -> None:
    z = unit(5, 7, key="z").requires_grad_()
    CASES[name](z).backward()
    torch.testing.assert_close(z.grad, finite_differences(CASES[name], z.detach()), atol=1e-7, rtol=1e-6)


def test_cross_entropy_is_the_formula() -> None:
    logits = normal(5, 7)
    x = logits.numpy()
    terms = np.log(np.exp(x).sum(axis=1)) - x[np.arange(5), LABELS]
    assert losses.cross_entropy(logits, LABELS).item() == pytest.approx(terms.mean())
    weights = np.array([3.0, 1, 0, 2, 5, 1, 1])
    weighted = losses.weighted_cross_entropy(logits, LABELS, torch.from_numpy(weights))
    assert weighted.item() == pytest.approx((weights[LABELS] * terms).sum() / 5)  # not over the sum of the weights
    with pytest.raises(DataError, match="every class needs one weight"):
        losses.weighted_cross_entropy(logits, LABELS, torch.ones(5))


def test_weighted_natural_draws_expect_what_uniform_draws_expect() -> None:
    logits, labels = normal(60, 3), torch.repeat_interleave(torch.arange(3), torch.tensor([45, 10, 5]))
    sizes = torch.bincount(labels).double()
    weighted = losses.weighted_cross_entropy(logits, labels, 60 / (3 * sizes))
    uniform = torch.stack([losses.cross_entropy(logits[labels == c], labels[labels == c]) for c in range(3)]).mean()
    assert weighted.item() == pytest.approx(uniform.item())


def test_square_loss_is_a_sum_and_its_basis_form_is_the_same() -> None:
    z = unit(5, 7)
    targets = torch.eye(7, dtype=torch.float64)[LABELS]
    wanted = float(((z.numpy() - targets.numpy()) ** 2).sum())
    assert losses.square_loss(z, targets).item() == pytest.approx(wanted)
    assert losses.square_loss_to_basis(z, LABELS).item() == pytest.approx(wanted)


def test_a_restricted_loss_grows_to_the_full_one() -> None:
    logits, random = normal(6, 30), generator(0, "subset")
    labels = torch.tensor([3, 3, 9, 20, 29, 0])
    values = []
    for size in (2, 5, 12, 25, 30, 99):
        subset = losses.class_subset(labels, 30, size, random)
        assert len(subset) == min(max(size, 5), 30)
        assert set(labels.tolist()) <= set(subset.tolist())
        assert subset.tolist() == sorted(set(subset.tolist()))
        values.append(losses.restricted_cross_entropy(logits, labels, subset).item())
    full = losses.cross_entropy(logits, labels).item()
    assert max(values) <= full + 1e-12
    assert values[-2:] == pytest.approx([full, full])
    with pytest.raises(DataError, match="class 29 is missing"):
        losses.restricted_cross_entropy(logits, labels, torch.tensor([0, 3, 9, 20]))


def test_equal_rows_of_the_bank_give_the_log_of_their_number() -> None:
    z = unit(3, 8)
    bank = unit(1, 8, key="row").expand(50, 8)
    for loss in (losses.nonparametric_softmax, bank_softmax):
        assert loss(z, bank, torch.tensor([0, 49, 7]), 0.07).item() == pytest.approx(math.log(50))


def test_nce_is_the_formula_of_the_paper_with_a_summed_noise_term() -> None:
    z = unit(5, 7)
    x, bank = z.numpy(), BANK.numpy()
    total = 0.0
    for i in range(5):
        p = math.exp(x[i] @ bank[LABELS[i]] / 0.1) / 500
        total -= math.log(p / (p + 11 / 40 + 1e-7))
        for j in NEGATIVE[i]:
            p = math.exp(x[i] @ bank[j] / 0.1) / 500
            total -= math.log(11 / 40 / (p + 11 / 40 + 1e-7))
    assert nce_of(z).item() == pytest.approx(total / 5, rel=1e-12)


def test_nce_takes_one_normaliser_per_row_and_shared_negatives() -> None:
    z, positive = unit(5, 7), normal(5) / 5
    negative = losses.similarities(z, BANK[:9])
    repeated = losses.similarities(z, BANK[:9].expand(5, 9, 7))
    torch.testing.assert_close(negative, repeated)
    constants = torch.tensor([100.0, 200, 300, 400, 500], dtype=torch.float64)
    given = {"num_images": 40, "temperature": 0.2}
    together = losses.nce(positive, negative, normaliser=constants, **given)
    alone = [
        losses.nce(positive[i : i + 1], negative[i : i + 1], normaliser=float(constants[i]), **given) for i in range(5)
    ]
    assert together.item() == pytest.approx(torch.stack(alone).mean().item())


def test_nce_cannot_overflow() -> None:
    loss = losses.nce(torch.ones(2), torch.ones(2, 3), num_images=10, temperature=0.001, normaliser=1.0)
    assert loss.isfinite()
    assert loss.item() == pytest.approx(3 * (1000 - math.log(0.3)), rel=1e-5)


def test_exact_nce_with_all_negatives_ranks_as_the_softmax_does() -> None:
    # With Z exact, the data term is a rising function of the softmax's probability.
    z = unit(30, 7, key="many")
    scores = z @ BANK.T / 0.1
    normaliser = scores.exp().sum(dim=1)
    positive = z @ BANK[3]
    terms = [
        losses.nce(
            positive[i : i + 1], positive.new_zeros(1, 1), num_images=40, temperature=0.1, normaliser=normaliser[i]
        )
        - losses.nce(
            positive.new_tensor([9.0]),
            positive.new_zeros(1, 1),
            num_images=40,
            temperature=0.1,
            normaliser=normaliser[i],
        )
        for i in range(30)
    ]
    softmax = F.cross_entropy(scores, torch.full((30,), 3), reduction="none")
    assert torch.stack(terms).argsort().tolist() == softmax.argsort().tolist()


def test_sampled_softmax_over_everything_is_the_softmax() -> None:
    z = unit(4, 7)
    own = (z * BANK[0]).sum(dim=1)
    sampled = losses.sampled_softmax(own, losses.similarities(z, BANK[1:]), 0.1)
    full = losses.nonparametric_softmax(z, BANK, torch.zeros(4, dtype=torch.int64), 0.1)
    assert sampled.item() == pytest.approx(full.item())


def test_no_gradient_reaches_the_bank() -> None:
    z, bank = unit(5, 7).requires_grad_(), BANK.clone().requires_grad_()
    total = losses.nonparametric_softmax(z, bank, LABELS, 0.1) + losses.proximal(z, bank[LABELS])
    (total + losses.similarities(z, bank[NEGATIVE]).sum() + bank_softmax(z, bank, LABELS, 0.1)).backward()
    assert bank.grad is None


def test_the_proximal_gradient() -> None:
    z = unit(5, 7).requires_grad_()
    (10 * losses.proximal(z, BANK[LABELS])).backward()
    torch.testing.assert_close(z.grad, 2 * 10 * (z.detach() - BANK[LABELS]) / 5)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_must_be_positive(temperature: float) -> None:
    for name in ("nonparametric_softmax", "bank_softmax"):
        function = losses.nonparametric_softmax if name == "nonparametric_softmax" else bank_softmax
        with pytest.raises(ConfigError, match="temperature must be above 0"):
            function(unit(5, 7), BANK, LABELS, temperature)
