"""Small pictures with visible kinds of things, for tests that train."""

from __future__ import annotations

import numpy as np


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
