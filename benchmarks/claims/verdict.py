"""When a difference between configurations is one: the rule that all claims share.

A direction holds if the difference of the means over at least three seeds is larger than the spread over seeds, and does not
hold if it is as large the other way; between the two it is not resolved. The spread of a comparison is the larger of the two
ranges, largest minus smallest seed: with three seeds a stricter measure than the standard deviation, which is about 0.6 of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Verdict = Literal["holds", "does not hold", "not resolved"]

LEAST_SEEDS = 3
"""Fewer seeds have no spread worth the name."""


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)


def spread(values: Sequence[float]) -> float:
    """Largest minus smallest."""
    return max(values) - min(values)


def judge(gap: float, *groups: Sequence[float]) -> Verdict:
    """`gap` is positive where the means lie as the claim says; `groups` are the values over seeds that were compared."""
    if min(map(len, groups)) < LEAST_SEEDS:
        return "not resolved"
    noise = max(map(spread, groups))
    return "holds" if gap > noise else "does not hold" if gap < -noise else "not resolved"


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """A claim of several parts: it holds if all do, and fails if one does."""
    if "does not hold" in verdicts:
        return "does not hold"
    return "holds" if set(verdicts) == {"holds"} else "not resolved"
