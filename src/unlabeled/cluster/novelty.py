"""How unlike the training images an image is, with a stated rate of false alarms.

Two distances of a feature x to the features of training, both zero in their middle:

    residual(x) = |x - mean - P Pᵀ (x - mean)|      P: the `SUBSPACE` directions of largest variance
    deviation(x) = |W (x - mean)|                   W: PCA-whitening (Mahalanobis distance; Mahalanobis 1936)

The first finds what lies outside the directions in which training images vary, the second what lies too far along any of
them. Each is measured in units of its own spread on held-out training images, (d - median) / (95th percentile - median),
and the novelty is the larger. The threshold for a rate α of false alarms is the quantile of the novelty of the held-out
images that a new image of the same kind exceeds with probability at most α (conformal prediction; Vovk, Gammerman and
Shafer 2005, section 2.2). Which distances: LOG.md, 2026-12-01.

Shapes: N training images, M asked about, D feature dimensions, unit rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from unlabeled.cluster.whitening import Whitening
from unlabeled.cluster.whitening import fit as fit_whitening
from unlabeled.distributed import alone
from unlabeled.errors import ConfigError, DataError
from unlabeled.randomness import generator

SUBSPACE = 32
"""Directions of largest variance in which training images are expected to differ; at most a quarter of all."""
WHITENED = 256
"""Directions that are whitened for the deviation."""
FIT_ROWS = 20_000
"""Training images, evenly spaced, that the distances are fitted and calibrated on."""
HELD_OUT = 5
"""One in so many of them is held out for the calibration."""
FALSE_ALARM_RATE = 0.01
"""Share of images of the kind seen in training that are flagged, where no other rate is asked for."""
_CHUNK = 8192
_ROUNDING = 1e-3
"""Distances of unit rows that differ by less differ by rounding."""


@dataclass(frozen=True)
class Novelty:
    """Fitted distances and the novelty of held-out training images."""

    whitening: Whitening
    center: torch.Tensor
    """[2] medians of residual and deviation on the held-out images."""
    unit: torch.Tensor
    """[2] their 95th percentiles less the medians."""
    calibration: torch.Tensor
    """[H] novelty of the held-out images, ascending."""

    def score(self, rows: torch.Tensor) -> torch.Tensor:
        """Novelty of unit rows [M, D], float32 [M]: about 0 for a typical image, 1 at the 95th percentile of training."""
        distances = _distances(self.whitening, rows)
        return ((distances - self.center) / self.unit).amax(1)

    def threshold(self, rate: float = FALSE_ALARM_RATE) -> float:
        """The novelty that a new image of the kind seen exceeds with probability at most `rate`; infinite for too few.

        Raises:
            ConfigError: a rate outside (0, 1).
        """
        if not 0 < rate < 1:
            raise ConfigError(f"the false-alarm rate must lie between 0 and 1, got {rate:g}; 0.01 is a good beginning.")
        count = len(self.calibration)
        if not count:
            return math.inf
        rank = math.ceil((1 - rate) * (count + 1))
        if rank <= count:
            return float(self.calibration[rank - 1])
        # Too few held-out images to know so small a rate: half as far again as the farthest of them.
        return 1.5 * max(float(self.calibration[-1]), 1.0)


def fit(rows: torch.Tensor, seed: int = 0) -> Novelty:
    """Fit on the unit rows [N, D] of the training images, at least one.

    Raises:
        DataError: no rows, or rows that are not finite.
    """
    if rows.ndim != 2 or not len(rows):
        raise DataError(
            f"a novelty score needs feature rows [N, D] of at least one image, got shape {tuple(rows.shape)}."
        )
    count = min(len(rows), FIT_ROWS)
    chosen = rows[torch.arange(count) * len(rows) // count].float()
    # At random: folders often alternate between kinds.
    held_out = torch.zeros(count, dtype=torch.bool)
    held_out[torch.randperm(count, generator=generator(seed, "novelty"))[: count // HELD_OUT]] = True
    fitted = chosen[~held_out]
    # A few images span few directions: all others would look infinitely far away.
    dims = max(1, min(WHITENED, chosen.shape[1], len(fitted) // 4))
    with alone():  # every rank has all rows, and only one may ask
        whitening = fit_whitening(fitted, dims, whiten=True, seed=seed)
    has_held_out = bool(held_out.any())
    distances = _distances(whitening, chosen[held_out] if has_held_out else fitted)
    center = distances.median(0).values
    unit = (distances.quantile(0.95, dim=0) - center).clamp(min=_ROUNDING)
    scores = ((distances - center) / unit).amax(1).sort().values
    return Novelty(whitening, center, unit, scores if has_held_out else torch.empty(0))


def _distances(whitening: Whitening, rows: torch.Tensor) -> torch.Tensor:
    """Residual and deviation, float32 [M, 2]."""
    scale = whitening.scale.clamp(min=1e-12)
    kept = min(SUBSPACE, max(1, rows.shape[1] // 4), len(scale))
    result = torch.empty(len(rows), 2)
    for begin in range(0, len(rows), _CHUNK):
        part = rows[begin : begin + _CHUNK].float()
        if not len(whitening.components):
            # Identical training images: the distance to them is all there is.
            gap = (part - whitening.mean).norm(dim=1)
            result[begin : begin + len(part)] = torch.stack((gap, gap), 1)
            continue
        white = whitening.apply(part, normalize_rows=False)
        plain = white[:, :kept] / scale[:kept]
        residual = (part - whitening.mean).square().sum(1) - plain.square().sum(1)
        result[begin : begin + len(part), 0] = residual.clamp(min=0).sqrt()
        result[begin : begin + len(part), 1] = white.norm(dim=1)
    return result
