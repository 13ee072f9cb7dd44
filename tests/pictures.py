"""Small pictures with visible kinds of things, for tests that train."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import unlabeled
from runs import SMALL


def pictures(count: int, side: int = 16, kinds: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [count, side, side, 3] and kinds int64 [count]: stripes whose angle is the kind, of random colour and phase."""
    random = np.random.default_rng(seed)
    kind = np.arange(count) % kinds
    y, x = np.mgrid[:side, :side] / side
    angle = np.pi * kind / kinds
    phase = random.uniform(0, 2 * np.pi, count)
    wave = np.sin(
        4 * np.pi * (np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y) + phase[:, None, None]
    )
    colour = random.uniform(40, 120, (count, 1, 1, 3))
    noise = random.normal(0, 8, (count, side, side, 3))
    return np.clip(128 + wave[..., None] * colour + noise, 0, 255).astype(np.uint8), kind.astype(np.int64)


@dataclass(frozen=True)
class Trained:
    """A finished run: `photos` are 120 pictures in the folders kind0 to kind3, `run` is the run, `new` 40 more of them."""

    photos: Path
    new: Path
    run: Path
    cache: Path


SETTINGS: dict[str, Any] = SMALL | {"epochs": 2, "lr": 0.05}
"""A run of two seconds."""


def write_pictures(folder: Path, count: int, seed: int = 0, side: int = 20) -> Path:
    """`pictures` as PNG files in class folders."""
    for number, (pixels, kind) in enumerate(zip(*pictures(count, side, seed=seed), strict=True)):
        path = folder / f"kind{kind}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


def make_trained(folder: Path) -> Trained:
    """Write pictures, train on them."""
    made = Trained(
        write_pictures(folder / "photos", 120),
        write_pictures(folder / "new", 40, seed=7),
        folder / "run",
        folder / "cache",
    )
    unlabeled.train(made.photos, made.run, cache=made.cache, **SETTINGS)
    return made


def flags(**changes: object) -> list[str]:
    """`SETTINGS` as flags of the command line."""
    return [
        part for name, value in (SETTINGS | changes).items() for part in (f"--{name.replace('_', '-')}", str(value))
    ]
