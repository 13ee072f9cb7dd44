"""Instance retrieval: regional maximum activations of convolutions (R-MAC), whitened, compared by their dot product.

Shapes: C channels of the last map, h×w its size, R regions, d dimensions after whitening, M images searched, Q queries.

Tolias, Sicre, Jégou, "Particular object retrieval with integral max-pooling of CNN activations" (ICLR 2016), section 3,
as DeepCluster uses it for its Table 5 (spec E12): VGG-16's last convolution after its ReLU and without the final pool,
three levels of regions, images of 1024 pixels. A region becomes the maximum of each channel, is normalised, whitened by
what was learned on **another** set, and normalised again; the sum over regions, normalised, describes the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate, normalize

from unlabeled.errors import DataError
from unlabeled.metrics import retrieval_ap
from unlabeled.randomness import numpy_generator

OVERLAP = 0.4
"""Share of a region of the first level that its neighbor covers, as nearly as whole numbers of regions allow."""
MOST_REGIONS = 7
"""Regions of the first level along the longer side at most."""
SMALLEST_EIGENVALUE = 1e-5
"""Eigenvalues below this share of the largest are raised to it."""
DIMS = 512
"""Dimensions kept by the whitening, where the map has as many channels."""
CHANCE_ROUNDS = 20
"""Random rankings whose mean says what guessing reaches."""


def regions(height: int, width: int, levels: int = 3) -> NDArray[np.int64]:
    """Squares (left, top, width, height) [R, 4] on a map of `height`×`width`, from the largest to the smallest.

    On level l they have the side ⌊2·min(h, w)/(l + 1)⌋; l stand along the shorter side and l + e along the longer, evenly
    spread, where e makes those of the first level overlap by 40 % as nearly as it can (Tolias et al., section 3.2).
    """
    if min(height, width, levels) < 1:
        raise DataError(f"regions need a map and a level, got a map of {height} x {width} and {levels} levels.")
    short, long = min(height, width), max(height, width)
    extra = 0
    if long > short:
        steps = np.arange(1, MOST_REGIONS)
        # Neighbors that are `gap` apart overlap by 1 - gap / side.
        extra = int(steps[np.argmin(np.abs(1 - (long - short) / steps / short - OVERLAP))])
    found: list[tuple[int, int, int, int]] = []
    for level in range(1, levels + 1):
        side = max(2 * short // (level + 1), 1)
        lefts = _starts(width, side, level + (extra if width > height else 0))
        tops = _starts(height, side, level + (extra if height > width else 0))
        found += [(left, top, side, side) for top in tops for left in lefts]
    return np.array(found, np.int64)


def _starts(extent: int, side: int, count: int) -> list[int]:
    return [i * (extent - side) // max(count - 1, 1) for i in range(count)]


def region_descriptors(maps: torch.Tensor, levels: int = 3) -> torch.Tensor:
    """Maximum of every channel in every region, unit rows: [B, C, h, w] to [B, R, C]."""
    boxes = regions(maps.shape[2], maps.shape[3], levels).tolist()
    pooled = [maps[:, :, y : y + high, x : x + wide].amax((2, 3)) for x, y, wide, high in boxes]
    return normalize(torch.stack(pooled, dim=1).float(), dim=2)


@dataclass
class Moments:
    """Count, sum [C] and scatter [C, C] of region descriptors, float64: all that a whitening needs, in any order."""

    count: torch.Tensor
    total: torch.Tensor
    scatter: torch.Tensor

    @classmethod
    def zero(cls, channels: int) -> Moments:
        """Of no descriptors."""
        count, total = torch.zeros((), dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)
        return cls(count, total, torch.zeros((channels, channels), dtype=torch.float64))

    def add(self, rows: torch.Tensor) -> None:
        """Take rows [n, C] in."""
        values = rows.double().cpu()
        self.count += len(values)
        self.total += values.sum(0)
        self.scatter += values.T @ values


@dataclass(frozen=True)
class Projection:
    """x to (x - mean) · matrixᵀ; `mean` [C], `matrix` [d, C], float32."""

    mean: torch.Tensor
    matrix: torch.Tensor

    def apply(self, rows: torch.Tensor) -> torch.Tensor:
        """[…, C] to unit rows […, d]."""
        matrix = self.matrix.to(rows.device)
        return normalize((rows - self.mean.to(rows.device)) @ matrix.T, dim=-1)


def learn_projection(moments: Moments, dims: int = DIMS) -> Projection:
    """PCA-whitening to at most `dims` dimensions; small eigenvalues of the scatter are raised to 1e-5 of the largest (E12).

    Raises:
        DataError: all descriptors are equal, so there is nothing to whiten.
    """
    mean = moments.total / moments.count.clamp(min=1)
    values, vectors = torch.linalg.eigh(moments.scatter - moments.count * mean[:, None] * mean)
    values, vectors = values.flip(0), vectors.flip(1)
    # Rounding leaves something even where all rows are equal.
    if not float(values[0]) > 1e-9 * float(moments.count):
        raise DataError(
            f"the {int(moments.count):,} regions of the images for --pca all look the same to the network; give other images."
        )
    values = values.clamp(min=SMALLEST_EIGENVALUE * float(values[0]))[:dims]
    matrix = vectors[:, :dims].T / values.sqrt()[:, None]
    return Projection(mean.float(), matrix.float())


def rmac(descriptors: torch.Tensor, projection: Projection) -> torch.Tensor:
    """Region descriptors [B, R, C], whitened and summed: unit rows [B, d]."""
    return normalize(projection.apply(descriptors).sum(1), dim=1)


def prepare(image: torch.Tensor, side: int, box: Sequence[float] | None = None) -> torch.Tensor:
    """uint8 [h, w, C] to a view [1, C, h', w'] whose larger side was made `side` pixels, bilinear; no crop (spec P13).

    Smaller images are enlarged. `box` (left, top, right, bottom in pixels of `image`) is cut out after that and not
    resized again; what lies outside the image is not there.

    Raises:
        DataError: the box has no part in the image.
    """
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = max(round(height * scale), 1), max(round(width * scale), 1)
    view = image.permute(2, 0, 1)[None]
    if size != (height, width):
        view = view.contiguous(memory_format=torch.channels_last)
        view = interpolate(view, size, mode="bilinear", antialias=True)
    if box is None:
        return view
    left, top, right, bottom = (round(value * scale) for value in box)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, size[1]), min(bottom, size[0])
    if left >= right or top >= bottom:
        raise DataError(
            f"the box {' '.join(f'{value:g}' for value in box)} lies outside the image of {width} x {height} pixels."
        )
    return view[:, :, top:bottom, left:right]


def expand_queries(queries: torch.Tensor, gallery: torch.Tensor, count: int) -> torch.Tensor:
    """Average query expansion: the unit mean of each query [Q, d] and its `count` best images of [M, d].

    Chum et al., "Total Recall" (ICCV 2007), section 4, without the spatial check; one round. 0 leaves the queries alone.
    """
    count = min(count, len(gallery))
    best = (queries @ gallery.T).topk(count, dim=1).indices
    return normalize(queries + gallery[best].sum(1), dim=1)


@dataclass(frozen=True)
class RetrievalProtocol:
    """Every query against all images: mean average precision by the rule of the Oxford Buildings program.

    Corresponds to DeepCluster's Table 5 (VGG-16: random 6.9 % on Oxford5k and 22.0 % on Paris6k, DeepCluster 61.0 % and
    72.0 %, ImageNet labels 72.4 % and 81.5 %). Images in a junk list are taken out of the ranking of that query; the
    query's own image stays in, as the lists have it.
    """

    gallery: torch.Tensor
    """Descriptors of the images, unit rows [M, d]; a row that is not finite is an image nobody can find."""
    queries: torch.Tensor
    """Descriptors of the queries, unit rows [Q, d]."""
    positive: Sequence[NDArray[np.int64]]
    """What each should find; numbers from M on are images that are not there."""
    junk: Sequence[NDArray[np.int64]]
    """What is neither right nor wrong for each."""
    expand: int = 0
    """Images averaged into a query before the final ranking."""

    def per_query(self) -> list[float]:
        """Average precision of each query."""
        readable = self.gallery.isfinite().all(1).nonzero()[:, 0]
        found = self.gallery[readable]
        similarity = expand_queries(self.queries, found, self.expand) @ found.T
        ranking = readable[similarity.argsort(dim=1, descending=True, stable=True)]
        return [retrieval_ap(*asked) for asked in zip(ranking, self.positive, self.junk, strict=True)]

    def run(self) -> Iterator[tuple[str, float]]:
        """Yield `mean_ap`."""
        yield "mean_ap", float(np.mean(self.per_query()))

    def chance(self, seed: int) -> float:
        """Mean average precision of random rankings."""
        random = numpy_generator(seed, "retrieval chance")
        rounds = [
            retrieval_ap(random.permutation(len(self.gallery)), *asked)
            for _ in range(CHANCE_ROUNDS)
            for asked in zip(self.positive, self.junk, strict=True)
        ]
        return float(np.mean(rounds))
