"""A map of the features: every image a point, images that the network finds alike beside each other.

Shapes: N images, D feature dimensions, n of the images in the sample, L landmarks. t-SNE (van der Maaten and Hinton, JMLR
2008; Barnes-Hut, 2014) places at most 2,500 images drawn at random, started from their principal components; every other
image goes to the mean of its nearest landmarks, weighted by how near they are. So the time is bounded, and the map of a run
is the same every time. Axes and landmarks come from a sample where one is given: the map of a million images then has those
of the sample where the map of the sample alone has them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unlabeled.errors import DataError
from unlabeled.randomness import numpy_generator, seed_from

LANDMARKS = 2500
DIMS = 50
"""Principal components that distances are measured in: the rest is mostly noise, and it costs time."""
PERPLEXITY = 30
ITERATIONS = 500
NEAREST = 3
"""Landmarks that place another image."""
BLOCK = 1024


def project(
    features: NDArray[np.float32],
    seed: int = 0,
    *,
    sample: NDArray[np.int64] | None = None,
    placed: NDArray[np.float32] | None = None,
    update: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Places [N, 2] of rows [N, D] on a map, each coordinate from 0 to 1; equal input and seed give equal places.

    Args:
        sample: int64 [n], the rows that axes and landmarks are made of; all where not given.
        placed: [n, 2], what this function gave for the sample alone; the landmarks are then not arranged again.
        update: told how many images have their place, block by block.

    Raises:
        DataError: no rows, one that is not finite, or places that do not belong to the sample.
    """
    if features.ndim != 2 or not len(features) or not all(np.isfinite(part).all() for part in _blocks(features)):
        raise DataError(f"a map needs finite features [N, D] of at least one image, got shape {features.shape}.")
    known = features if sample is None else features[sample]
    if not len(known) or (placed is not None and placed.shape != (len(known), 2)):
        shape = None if placed is None else placed.shape
        raise DataError(
            f"a map needs a sample of at least one row and a place [n, 2] for each, got {len(known)}, {shape}."
        )
    axes = _Axes.of(known)
    chosen = np.sort(numpy_generator(seed, "landmarks").permutation(len(known))[:LANDMARKS])
    landmarks = axes.apply(known[chosen])
    arranged = _embedded(landmarks, seed) if placed is None else placed[chosen]
    places = np.empty((len(features), 2), np.float32)
    done = 0
    for part in _blocks(features):
        places[done : done + len(part)] = _beside(axes.apply(part), landmarks, arranged)
        done += len(part)
        if update:
            update(done)
    places[chosen if sample is None else sample[chosen]] = arranged
    low, high = places.min(0), places.max(0)
    return ((places - low) / np.maximum(high - low, 1e-12)).astype(np.float32)


def _blocks(rows: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    # Views: a million features stay in memory once.
    return [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]


@dataclass(frozen=True)
class _Axes:
    """At most DIMS principal axes [D, d], that of the largest variance first, and the mean [D]."""

    mean: NDArray[np.float32]
    axes: NDArray[np.float64]

    @staticmethod
    def of(rows: NDArray[np.float32]) -> _Axes:
        mean = rows.mean(0, dtype=np.float64).astype(np.float32)
        centred = rows - mean
        _, vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64))
        axes = vectors[:, ::-1][:, :DIMS]
        # The sign of an axis is arbitrary, so it is fixed.
        return _Axes(mean, axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])]))

    def apply(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return ((rows - self.mean) @ self.axes).astype(np.float32)


def _embedded(rows: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    # t-SNE of the landmarks [L, d]; so few or so equal that there is nothing to arrange: their first two components.
    plain = np.pad(rows[:, :2], ((0, 0), (0, max(2 - rows.shape[1], 0))))
    if len(rows) < 8 or float(rows.std(0).max()) < 1e-9:
        return plain
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    start = plain / max(float(plain[:, 0].std()), 1e-12) * 1e-4  # as scikit-learn's init="pca", of components we have
    tsne = TSNE(
        2,
        perplexity=min(PERPLEXITY, (len(rows) - 1) / 3),
        init=start,  # pyright: ignore[reportArgumentType]  (its stubs know names only)
        max_iter=ITERATIONS,
        random_state=seed_from(seed, "map") % 2**31,
    )
    # Sums of several threads depend on how many there are, and small differences grow.
    with threadpool_limits(1):
        return np.asarray(tsne.fit_transform(rows), np.float32)


def _beside(
    rows: NDArray[np.float32], landmarks: NDArray[np.float32], placed: NDArray[np.float32]
) -> NDArray[np.float32]:
    # Places of rows [n, d] from those of the landmarks nearest to them.
    squared = rows @ landmarks.T
    squared *= -2
    squared += (landmarks**2).sum(1)
    count, every = min(NEAREST, len(landmarks)), np.arange(len(rows))
    nearest = np.empty((len(rows), count), np.int64)
    distance = np.empty((len(rows), count), np.float32)
    # Three times the least is a third of the time of a partition.
    for place in range(count):
        nearest[:, place] = squared.argmin(1)
        distance[:, place] = squared[every, nearest[:, place]]
        squared[every, nearest[:, place]] = np.inf
    distance = np.maximum(distance + (rows**2).sum(1)[:, None], 0)
    # Twice as far counts a fiftieth: a mean of distant places would lie between islands, where nothing is.
    weight = np.exp(-(distance / np.maximum(distance.min(1, keepdims=True), 1e-12) - 1) * 4 / 3)
    return ((weight / weight.sum(1, keepdims=True))[:, :, None] * placed[nearest]).sum(1)
