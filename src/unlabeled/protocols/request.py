"""What every protocol is asked with, whichever it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unlabeled.evaluation.partial import Partial


@dataclass(frozen=True)
class Request:
    """One `evaluate` call."""

    data: Path
    """Images to score on."""
    labels: str
    """Where their labels are: `folder`, a table or an array file."""
    test: Path | None
    """Images of the final score; None holds a part of `data` out."""
    quick: bool
    """Whether a minute or two on two cores is all there is: less data, fewer epochs, the same steps."""
    partial: Partial
    """Results of an earlier call that was stopped."""
