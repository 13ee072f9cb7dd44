from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from unlabeled import recipes
from unlabeled.config import Config, DataFacts
from unlabeled.models.heads import linear_head
from unlabeled.training.optim import Optimizer


def features(scale: float) -> torch.Tensor:
    """[64, 32] with a strong common direction, like those of an untrained ResNet."""
    return scale * (2 + torch.randn(64, 32, generator=torch.Generator().manual_seed(1)))


def test_the_stable_rate_is_outputs_over_mean_square():
    head = linear_head(32, 10)
    assert float(head.stable_lr) == math.inf
    head.expect(features(1.0))
    seen = features(1.0).clamp(min=0)
    assert float(head.stable_lr) == pytest.approx(10 / (1 + float(seen.square().sum(1).mean())), rel=1e-5)


@pytest.mark.parametrize("scale", [0.05, 1.0, 30.0])
def test_gradient_descent_at_the_stable_rate_only_falls_and_far_above_it_does_not(scale: float):
    labels = torch.randint(0, 10, (64,), generator=torch.Generator().manual_seed(2))

    def losses(factor: float) -> list[float]:
        head = linear_head(32, 10, generator=torch.Generator().manual_seed(0))
        head.expect(features(scale))
        found: list[float] = []
        for _ in range(30):
            loss = nn.functional.cross_entropy(head(features(scale)), labels)
            found.append(loss.item())
            gradients = torch.autograd.grad(loss, list(head.parameters()))
            with torch.no_grad():
                for weight, gradient in zip(head.parameters(), gradients, strict=True):
                    weight -= factor * head.stable_lr * gradient
        return found

    falling = losses(1.0)
    assert all(later <= earlier + 1e-6 for earlier, later in pairwise(falling))
    assert max(losses(50.0)) > 3 * falling[0]


def test_only_a_rate_of_its_own_is_lowered():
    """With `head_lr` the head stays where it is stable; the papers' heads take the body's rate as it is."""
    for own, expected in ((1.0, "stable"), (None, "the body's"), (1e-6, "its own")):
        head = linear_head(32, 10)
        head.expect(features(30.0))
        optimizer = Optimizer(nn.Linear(3, 32), Config(lr=0.05, head_lr=own))
        optimizer.adopt(head)
        rate = {"stable": float(head.stable_lr), "the body's": 0.05, "its own": 1e-6}[expected]
        assert optimizer._parts["head"].lr == pytest.approx(rate, rel=1e-5)


def test_paper_recipes_leave_the_head_at_the_bodys_rate():
    facts = DataFacts(50_000, 3, 224, 224, True)
    papers = [recipe(facts) for name, recipe in recipes.RECIPES.items() if name.startswith("paper_")]
    assert papers and all(config.head_lr is None for config in papers)
