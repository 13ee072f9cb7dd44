"""Random numbers keyed by what they are for.

A generator is made from (seed, key...) whenever randomness is needed and thrown away afterwards, so there is no
generator state to save and a resumed run draws exactly what the uninterrupted run would have drawn. Keys name the purpose
and the time, for example `generator(seed, "augment", epoch, step)`.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def seed_from(seed: int, *key: int | str) -> int:
    """A 63-bit seed that depends on every part of the key; the same on every machine and in every process."""
    digest = hashlib.blake2b(repr((int(seed), *key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, *key: int | str, device: str | torch.device = "cpu") -> torch.Generator:
    """A fresh torch generator for this purpose, on `device`."""
    import torch

    return torch.Generator(device=device).manual_seed(seed_from(seed, *key))


def numpy_generator(seed: int, *key: int | str) -> np.random.Generator:
    """A fresh NumPy generator for this purpose."""
    import numpy as np

    return np.random.default_rng(seed_from(seed, *key))
