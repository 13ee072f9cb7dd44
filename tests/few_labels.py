"""An easy labelled set, grey images whose level is the class, and a backbone that already separates it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from unlabeled.config import Config
from unlabeled.data.augment import Views
from unlabeled.data.loading import Loader
from unlabeled.data.sources import open_source
from unlabeled.data.store import open_store
from unlabeled.evaluation.few_labels import Contest, FewShotImages
from unlabeled.evaluation.result_cache import Partial
from unlabeled.models import Backbone

LEVELS = (0, 60, 120, 180)


class Separating(Backbone):
    """How near the mean grey of a view is to each of four levels, [B, 4]; `useful` False forgets what was seen."""

    def __init__(self, useful: bool = True) -> None:
        super().__init__()
        self.feature_dim, self.image_size = 4, 32
        self.scale = nn.Parameter(torch.tensor(10.0 if useful else 0.0))

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        grey = view.float().flatten(1).mean(1) / (255 if view.dtype == torch.uint8 else 1)
        distance = (grey[:, None] - torch.tensor(LEVELS) / 255).abs()
        return self.scale * (1 - 8 * distance)


def contest(folder: Path, count: int = 80, *, write: bool = True) -> Contest:
    """Half of the images to learn from, half to be scored on; `write` makes the file they are in."""
    random = np.random.default_rng(0)
    kinds = np.arange(count) % 4
    levels = np.array(LEVELS)[kinds][:, None, None, None] + random.integers(0, 12, (count, 32, 32, 3))
    if write:
        np.save(folder / "images.npy", levels.astype(np.uint8))
    store = open_store(open_source(folder / "images.npy"), short_side=32, cache=None)
    config = Config(image_size=32, resize=32, store_size=32, brightness=0, contrast=0, saturation=0, hue=0, grey=0)
    loader = Loader(store, Views.from_config(config, True), device="cpu", seed=0)
    labels = torch.from_numpy(kinds)
    train, test = torch.arange(count // 2), torch.arange(count // 2, count)
    networks: dict[str, Backbone] = {"trained": Separating(), "scratch": Separating(useful=False)}
    return Contest(networks, FewShotImages(loader, labels, train), FewShotImages(loader, labels, test), 4, Partial())
