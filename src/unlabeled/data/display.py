"""How images are shown to people: which channels as red, green and blue, and how bright. The network never sees this.

Deep images are scaled by the range of the whole set, which a few bright spots stretch: most are then dark on a screen.
Shapes: h×w×C pixels of one image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unlabeled.data.pixels import ValueRange
from unlabeled.data.resize import PixelSource
from unlabeled.errors import ConfigError, DataError

SAMPLED_IMAGES = 256
PIXELS_OF_ONE = 4096
DARKEST, BRIGHTEST = 1.0, 99.5
"""Percentiles of a channel that are shown black and full."""


class ShownImages(PixelSource, Protocol):
    """Images in eight bits, and which values became them."""

    value_range: ValueRange

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Display:
    """One or three channels, counted from 0, and the values of each, 0 to 255, that are shown black and full."""

    channels: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 h×w×(1 or 3) of uint8 h×w×C as they are in the store; an image with fewer channels shows its first."""
        count = pixels.shape[2]
        chosen = list(self.channels) if count > max(self.channels) else [0] * len(self.channels)
        found = pixels[:, :, chosen]
        if set(self.low) != {0.0} or set(self.high) != {255.0}:
            low, high = np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)
            found = np.rint(np.clip((found - low) / (high - low), 0, 1) * 255).astype(np.uint8)
        return np.ascontiguousarray(found)

    def sentence(self, channels: int) -> str:
        """What is shown of images of so many channels, for people who count from 1; empty where nothing is special."""
        words: list[str] = []
        if channels != len(self.channels) or self.channels != tuple(range(channels)):
            shown = ", ".join(str(channel + 1) for channel in self.channels)
            words.append(
                f"{shown} of {channels} as red, green and blue" if len(self.channels) == 3 else f"{shown} of {channels}"
            )
        if set(self.low) != {0.0} or set(self.high) != {255.0}:
            words.append("brightened for the screen")
        return ", ".join(words)


def display_of(store: ShownImages, channels: Sequence[int] | None = None) -> Display:
    """How the images of a store are shown: `channels` counted from 0, or the first three (of two the first).

    Images of 8 bits are shown as they are; others between two percentiles of each channel, over up to 256 images.

    Raises:
        ConfigError: a channel that the images do not have.
    """
    chosen = tuple(channels) if channels else tuple(range(3)) if store.channels >= 3 else (0,)
    if len(chosen) not in (1, 3) or not all(0 <= channel < store.channels for channel in chosen):
        named = ",".join(str(channel + 1) for channel in chosen)
        raise ConfigError(
            f"show_channels names one channel or three of 1 to {store.channels}, the channels of these images, got {named}."
        )
    if set(store.value_range.low) == {0.0} and set(store.value_range.high) == {255.0}:
        return Display(chosen, (0.0,) * len(chosen), (255.0,) * len(chosen))
    samples: list[NDArray[np.uint8]] = []
    for i in np.unique(np.linspace(0, len(store) - 1, min(len(store), SAMPLED_IMAGES)).round().astype(int)).tolist():
        flat = store.pixels(i).numpy()[:, :, list(chosen)].reshape(-1, len(chosen))
        samples.append(flat[:: max(1, len(flat) // PIXELS_OF_ONE)])
    low, high = np.percentile(np.concatenate(samples), [DARKEST, BRIGHTEST], axis=0)
    return Display(chosen, tuple(low.tolist()), tuple(np.maximum(high, low + 1).tolist()))


def parse_channels(given: str | Sequence[int] | None) -> list[int] | None:
    """Channels counted from 0, of text such as "4,3,2" or numbers that count from 1.

    Raises:
        ConfigError: this is no such text.
    """
    if given is None:
        return None
    parts = given.split(",") if isinstance(given, str) else given
    try:
        return [int(part) - 1 for part in parts]
    except ValueError:
        raise ConfigError(
            f"show_channels is one channel or three, counted from 1, for example 4,3,2; got '{given}'."
        ) from None


def from_record(values: Mapping[str, Any]) -> Display:
    """What `dataclasses.asdict` made of a display. Raises DataError for anything else."""
    try:
        found = Display(*(tuple(values[name]) for name in ("channels", "low", "high")))
        if len(found.channels) in (1, 3) and len(found.channels) == len(found.low) == len(found.high):
            return found
    except (KeyError, TypeError):
        pass
    raise DataError(
        f"display in data.json must hold channels, low and high of one channel or three, got {dict(values)}."
    )
