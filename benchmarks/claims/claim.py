"""What a claim is: configurations, the number they are compared by, and which way it must go.

A claim is a value, made for a size (`sizes.py`) by a function of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from benchmarks.claims.verdict import Verdict, judge, mean

Values = Mapping[str, Mapping[str, Sequence[float]]]
"""Configuration -> score -> its value for each seed."""


@dataclass(frozen=True)
class Arm:
    """One configuration: a base (`sizes.py`) with single fields of `Config` changed, trained on an image set (`imagesets.py`)."""

    base: str
    changes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    images: str = "main"

    def slug(self) -> str:
        """Name of its folder: equal arms of different claims share it, and so share their runs."""
        changes = ",".join(f"{name}={_plain(value)}" for name, value in sorted(self.changes.items()))
        return f"{self.images}/{self.base}/{changes or 'base'}"


class Check(Protocol):
    """One direction."""

    @property
    def sentence(self) -> str:
        """What is claimed."""
        ...

    def outcome(self, values: Values) -> Outcome:
        """What came of it; KeyError where a configuration was not run."""
        ...


@dataclass(frozen=True)
class Outcome:
    """`gap` is positive where the means lie as claimed."""

    gap: float
    verdict: Verdict


@dataclass(frozen=True)
class Above:
    """The mean of `high` is more than that of `low`, by more than `by`; a negative `by` allows it to be that much less.

    Both are names of configurations; `low_score` where the lower one is another number, perhaps of the same runs.
    """

    high: str
    low: str
    score: str
    by: float = 0.0
    low_score: str | None = None

    @property
    def sentence(self) -> str:
        """For example `a > b (knn)`."""
        low = self.low if self.low_score is None else f"{self.low_score} of {self.low}"
        margin = f" by {self.by:g}" if self.by > 0 else f", or at most {-self.by:g} below it" if self.by else ""
        return f"{self.score} of {self.high} > {low}{margin}"

    def outcome(self, values: Values) -> Outcome:
        """Difference of the means beyond `by`."""
        high, low = values[self.high][self.score], values[self.low][self.low_score or self.score]
        gap = mean(high) - mean(low) - self.by
        return Outcome(gap, judge(gap, high, low))


@dataclass(frozen=True)
class Within:
    """The means of two configurations differ by less than `tolerance`."""

    one: str
    other: str
    score: str
    tolerance: float

    @property
    def sentence(self) -> str:
        """For example `knn of a within 0.02 of b`."""
        return f"{self.score} of {self.one} within {self.tolerance:g} of {self.other}"

    def outcome(self, values: Values) -> Outcome:
        """What is left of the tolerance."""
        one, other = values[self.one][self.score], values[self.other][self.score]
        gap = self.tolerance - abs(mean(one) - mean(other))
        return Outcome(gap, judge(gap, one, other))


@dataclass(frozen=True)
class Claim:
    """One row of the table of contents."""

    number: int
    name: str
    sentence: str
    source: str
    """Paper, table or figure."""
    arms: Mapping[str, Arm]
    measures: tuple[str, ...]
    """Of `measures.py`; each gives one or more scores."""
    shown: tuple[str, ...]
    """Scores in the table."""
    checks: tuple[Check, ...]
    note: str = ""
    """What a reader of the table must know."""
    computed: Mapping[str, Callable[[int], dict[str, float]]] = field(
        default_factory=dict[str, "Callable[[int], dict[str, float]]"]
    )
    """Configurations that need no training: scores as a function of the seed."""


def _plain(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
