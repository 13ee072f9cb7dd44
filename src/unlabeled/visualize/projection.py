"""A map of the features: every image a point, images that the network finds alike beside each other.

Shapes: N images, D feature dimensions, L landmarks. t-SNE (van der Maaten and Hinton, JMLR 2008; Barnes-Hut, 2014) places
at most 2,500 images drawn at random, started from their principal components; every other image goes to the mean of its
nearest landmarks, weighted by how near they are. So the time is bounded, and the map of a run is the same every time.
"""

from __future__ import annotations

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


def project(features: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
    """Places [N, 2] of rows [N, D] on a map, each coordinate from 0 to 1; equal input and seed give equal places.

    Raises:
        DataError: no rows, or one that is not finite.
    """
    if features.ndim != 2 or not len(features) or not np.isfinite(features).all():
        raise DataError(f"a map needs finite features [N, D] of at least one image, got shape {features.shape}.")
    reduced = _principal(features)
    chosen = np.sort(numpy_generator(seed, "landmarks").permutation(len(reduced))[:LANDMARKS])
    landmarks = reduced[chosen]
    placed = _embedded(landmarks, seed)
    places = np.empty((len(reduced), 2), np.float32)
    for start in range(0, len(reduced), BLOCK):
        places[start : start + BLOCK] = _beside(reduced[start : start + BLOCK], landmarks, placed)
    places[chosen] = placed
    low, high = places.min(0), places.max(0)
    return ((places - low) / np.maximum(high - low, 1e-12)).astype(np.float32)


def _principal(features: NDArray[np.float32]) -> NDArray[np.float32]:
    # At most DIMS principal components, [N, d], largest first; the sign of each is fixed.
    centred = features - features.mean(0, dtype=np.float64).astype(np.float32)
    _, vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    axes = vectors[:, ::-1][:, :DIMS]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    return (centred @ axes).astype(np.float32)


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
    squared = (rows**2).sum(1)[:, None] - 2 * rows @ landmarks.T + (landmarks**2).sum(1)
    count = min(NEAREST, len(landmarks))
    nearest = np.argpartition(squared, count - 1, axis=1)[:, :count]
    distance = np.maximum(np.take_along_axis(squared, nearest, 1), 0)
    # Twice as far counts a fiftieth: a mean of distant places would lie between islands, where nothing is.
    weight = np.exp(-(distance / np.maximum(distance.min(1, keepdims=True), 1e-12) - 1) * 4 / 3)
    return ((weight / weight.sum(1, keepdims=True))[:, :, None] * placed[nearest]).sum(1)
