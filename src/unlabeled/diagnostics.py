"""Numbers that tell whether features and clusters are sound: spread, rank, sizes, agreement.

Shapes: N images, n rows, D feature dimensions, K clusters.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from unlabeled import metrics
from unlabeled.errors import DataError

PAIRED_ROWS = 1024
"""Rows whose distances to each other are looked at: half a million pairs."""


DEAD = 1e-4
"""A dimension with less than this share of the mean variance of all is dead."""


def cluster_statistics(
    labels: torch.Tensor, num_clusters: int, previous: torch.Tensor | None = None
) -> dict[str, float]:
    """Sizes of the clusters of `labels` [N] (-1 = none), and how far they agree with `previous` [N], the labels before.

    `size_entropy` is the entropy of the sizes over ln K (1 = all equal); `chance_loss` the log of the number of
    non-empty clusters; `nmi_previous` the geometric NMI with `previous`; `moved_share` the share of images outside the
    part of their new cluster that comes from one and the same old one. The last two are there if `previous` is given.
    """
    kept = labels[labels >= 0].long().cpu()
    if not len(kept) or int(kept.max()) >= num_clusters:
        largest = int(kept.max()) if len(kept) else "none"
        raise DataError(
            f"labels must hold an id in 0..{num_clusters - 1} and none beyond, got {largest} as the largest."
        )
    sizes = torch.bincount(kept, minlength=num_clusters)
    occupied = int((sizes > 0).sum())
    result: dict[str, float] = {
        "num_clusters": num_clusters,
        "empty_clusters": num_clusters - occupied,
        "singletons": int((sizes == 1).sum()),
        "largest_share": float(sizes.max() / len(kept)),
        "size_entropy": metrics.relative_entropy_of_sizes(sizes),
        "chance_loss": math.log(occupied),
    }
    if previous is not None and bool(((labels >= 0) & (previous >= 0)).any()):
        result["nmi_previous"] = metrics.nmi(labels, previous)
        result["moved_share"] = 1 - metrics.purity(labels, previous)
    return result


def feature_statistics(features: torch.Tensor) -> dict[str, float]:
    """Spread of features [n, D], each scaled to length one; a few thousand rows are enough.

    `feature_std` is the root of the total variance: 0 if all are the same, 1 if they cancel out as on a uniform sphere;
    `mean_cosine` the mean over pairs of different rows; `effective_rank` the exponential of the entropy of the
    eigenvalue shares of the covariance (Roy and Vetterli 2007), between 1 and min(n - 1, D), and 0 if there is no
    variance; `uniformity` the log of the mean over pairs of exp(-2 |x - y|^2) (Wang and Isola 2020), 0 if all are the same
    and about -4 on the uniform sphere of many dims; `dead_dims` the share of dims that hardly vary.
    """
    if features.ndim != 2 or len(features) < 2:
        raise DataError(f"feature statistics need at least 2 rows of features, got shape {tuple(features.shape)}.")
    if not bool(features.isfinite().all()):
        return dict.fromkeys(("feature_std", "mean_cosine", "effective_rank", "uniformity", "dead_dims"), math.nan)
    rows = F.normalize(features.detach().double(), dim=1)
    count = len(rows)
    centred = rows - rows.mean(dim=0)
    variance = float(centred.square().sum() / count)
    # The sum over all ordered pairs is |sum of rows|^2; what rows have with themselves is taken out.
    own = float(rows.square().sum())
    cosine = (float(rows.sum(dim=0).square().sum()) - own) / (count * (count - 1))
    small = centred.T @ centred if rows.shape[1] <= count else centred @ centred.T
    eigenvalues = torch.linalg.eigvalsh(small).clamp(min=0)
    # Below this the variance is rounding of features that are all the same.
    rank = math.exp(metrics.entropy(eigenvalues)) if variance > 1e-12 else 0.0
    spreads = centred.square().mean(dim=0)
    return {
        "feature_std": math.sqrt(variance),
        "mean_cosine": cosine,
        "effective_rank": rank,
        "uniformity": _uniformity(rows[:PAIRED_ROWS]),
        "dead_dims": float((spreads <= max(DEAD * variance / len(spreads), 1e-15)).double().mean()),
    }


def _uniformity(rows: torch.Tensor) -> float:
    # Of rows of length one |x - y|^2 = 2 - 2 cos; what a row has with itself, exp(0), is taken out.
    potential = (4 * (rows @ rows.T).clamp(max=1) - 4).exp()
    pairs = len(rows) * (len(rows) - 1)
    return math.log((float(potential.sum()) - float(potential.diagonal().sum())) / pairs)
