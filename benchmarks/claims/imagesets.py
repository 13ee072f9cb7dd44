"""The image sets by name, written once under --out as arrays that `unlabeled train` reads.

Every set says what is trained on, which labelled images are the neighbours of the kNN vote (the gallery), and which are
scored. They depend on the size alone, never on the seed of a run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.claims.data import Images, balanced, cifar10, coloured_shapes, most_skewed, photographs, zipf
from benchmarks.claims.sizes import Size, share_of
from unlabeled.randomness import numpy_generator
from unlabeled.writing import replacing

FRACTIONS = {"main-1%": 0.01, "main-10%": 0.1, "main-30%": 0.3}
MOST_SHAPES = 8_192
"""More of them teach nothing new."""


@dataclass(frozen=True)
class ImageSet:
    """Files of one set, and the labels that score it."""

    train: Path
    gallery: Path
    queries: Path
    gallery_labels: torch.Tensor
    """int64 [G]."""
    query_labels: torch.Tensor
    """int64 [Q]."""
    gallery_colours: torch.Tensor | None
    """The nuisance, int64 [G]; None for photographs."""


class ImageSets:
    """Makes the sets of a size in a folder when they are first asked for."""

    def __init__(self, folder: Path, data: Path, size: Size) -> None:
        self.folder, self.data, self.size = folder, data, size
        self._made: dict[str, ImageSet] = {}

    def __getitem__(self, name: str) -> ImageSet:
        """The set called `name`; KeyError where there is none."""
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> ImageSet:
        scored = "shapes" if name == "shapes" else self.size.source
        parts = {part: self._images(scored, part) for part in ("train", "test")}
        files = {part: self._write(f"{scored}-{part}", images) for part, images in parts.items()}
        train = files["train"]
        if name in SELECTIONS:
            train = self._write(name, parts["train"][SELECTIONS[name](parts["train"].labels)])
        elif name not in ("main", "shapes"):
            raise KeyError(name)
        colours = parts["train"].colours
        return ImageSet(
            train,
            files["train"],
            files["test"],
            torch.from_numpy(parts["train"].labels),
            torch.from_numpy(parts["test"].labels),
            None if colours is None else torch.from_numpy(colours),
        )

    def _images(self, name: str, part: str) -> Images:
        count = self.size.images if part == "train" else self.size.queries
        if name == "shapes":
            return coloured_shapes(min(count, MOST_SHAPES), seed=["train", "test"].index(part))
        return cifar10(self.data, part, count) if name == "cifar" else photographs(part, count)

    def _write(self, name: str, images: Images) -> Path:
        path = self.folder / f"{name}.npy"
        if not path.exists():
            with replacing(path) as partial, partial.open("wb") as file:
                np.save(file, images.pixels)
        return path


def _level(labels: np.ndarray) -> np.ndarray:
    """As many images as the skewed set, all classes alike."""
    return balanced(labels, most_skewed(labels))


def _skewed(labels: np.ndarray) -> np.ndarray:
    """As many images as a Zipf distribution can have before its largest class runs out."""
    return zipf(labels, most_skewed(labels))


def _fraction(share: float) -> Callable[[np.ndarray], np.ndarray]:
    def select(labels: np.ndarray) -> np.ndarray:
        count = share_of(len(labels), share)
        return np.sort(numpy_generator(0, "fraction").permutation(len(labels))[:count])

    return select


SELECTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "level": _level,
    "skewed": _skewed,
    **{name: _fraction(share) for name, share in FRACTIONS.items()},
}
"""Parts of the main set, by name."""
