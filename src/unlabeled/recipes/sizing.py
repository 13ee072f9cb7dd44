"""How many clusters, epochs and images in a batch go with how many images."""

from __future__ import annotations

from unlabeled.config import DataFacts


def clusters_for(count: int, least: int = 20) -> int:
    """More clusters than kinds of things, and enough images in each: one for every thirty images, `least` to 1,000."""
    # Of very few images, `least` clusters would hold one or two each.
    return 1 if count < 2 else max(2, min(least, count // 3), min(1000, count // 30))


def epochs_for(facts: DataFacts) -> int:
    """About as many as show 200,000 views on a CPU (minutes) or 5,000,000 on a GPU, 20 to 200."""
    views = 5_000_000 if facts.device == "cuda" else 200_000
    return max(20, min(200, round(views / max(facts.count, 1))))


def batch_for(count: int, batch_size: int) -> int:
    """This batch size, or half of the images where they are so few: an epoch needs a step or two."""
    return max(1, min(batch_size, count // 2))


def epochs_per_assignment(count: int, batch_size: int) -> int:
    """A fresh head needs about a hundred steps before its gradient says something: small sets reassign less often."""
    return max(1, min(10, round(120 * batch_size / max(count, 1))))
