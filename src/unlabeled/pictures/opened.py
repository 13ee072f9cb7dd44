"""What several pictures need of a run: its images, small pictures of them, filters and rows named by text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from unlabeled.data.store import ImageStore
from unlabeled.errors import ConfigError

if TYPE_CHECKING:
    from unlabeled.run import Run

UNITS_SHOWN = 25
"""Filters of a stage that are drawn unless others are asked for."""


def opened(run: Run, data: str | Path | None) -> ImageStore:
    """The images given, or those of the training."""
    return run.record.open(data or run.record.data)


def thumbnail(store: ImageStore, i: int) -> NDArray[np.uint8]:
    """Image `i` as it is shown, uint8 [h, w, 1 or 3]."""
    return store.shown(i)


def channels_last(image: torch.Tensor) -> NDArray[np.uint8]:
    """uint8 [C, h, w] as [h, w, C]."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def parse_units(text: str | None, width: int, stage: str) -> list[int]:
    """Filters from text such as "0-24,40" or "all", rising; the first 25 for None.

    Raises:
        ConfigError: this is no such text, or the stage has fewer filters.
    """
    if text is None:
        return list(range(min(UNITS_SHOWN, width)))
    if text.strip() == "all":
        return list(range(width))
    units: set[int] = set()
    try:
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            units |= set(range(int(first), int(last if dash else first) + 1))
    except ValueError:
        units = set()
    if not units:
        raise ConfigError(f"--units are numbers of filters such as 0-24,40 or all, got '{text}'.")
    if max(units) >= width:
        raise ConfigError(f"{stage} has {width:,} filters, 0 to {width - 1:,}, and --units asks for {max(units):,}.")
    return sorted(units)


def at_least_one(**values: int) -> None:
    """Raise ConfigError for an option below 1."""
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {value}.")


def choice(name: str, value: str, known: Sequence[str]) -> None:
    """Raise ConfigError for a value that is none of those known."""
    if value not in known:
        raise ConfigError(f"--{name} is {' or '.join(known)}, got '{value}'.")


def json_text(value: Any) -> str:
    """JSON, readable and diffable."""
    return json.dumps(value, indent=2) + "\n"
