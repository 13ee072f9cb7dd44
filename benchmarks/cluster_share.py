"""The share of an epoch of DeepCluster that is clustering, at the sizes of the paper.

Caron et al. (ECCV 2018, section 3.4) say a third, most of it the pass over all images. AlexNet with Sobel at 224 pixels, as
`training_step` builds it: CPU time of one thread for an image's training step and for its features, for whitening 4,096
features to 256, and for k-means. Per image k-means costs iterations × clusters × dims, so its time at 1,000 clusters is
taken ten times for the paper's 10,000. The share is (features + whitening + k-means) / (the same + step), and 500 epochs
of 1,281,167 images follow from it by multiplication: an extrapolation, for one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.timing import time_in_turn
from benchmarks.training_step import CLASSES, build_ours
from unlabeled.cluster import whitening
from unlabeled.cluster.kmeans import kmeans

IMAGENET, EPOCHS, CLUSTERS, DIMS, ITERATIONS = 1_281_167, 500, 10_000, 256, 20


def run(quick: bool) -> list[dict[str, Any]]:
    """One row: milliseconds an image of the clustering phase, and of the whole epoch."""
    batch, rows, clusters = (16, 2_000, 200) if quick else (64, 20_000, 1_000)
    draw = torch.Generator().manual_seed(0)
    views = torch.randint(256, (batch, 3, 224, 224), dtype=torch.uint8, generator=draw)
    step, features, _ = build_ours("alexnet", 224, "sobel", views, torch.randint(CLASSES, (batch,), generator=draw))
    few = min(rows, 4_000)
    wide, narrow = (torch.randn(n, d, generator=draw) for n, d in ((few, 4096), (rows, DIMS)))
    whitened = torch.nn.functional.normalize(narrow, dim=1)

    def whiten() -> None:
        whitening.fit(wide, DIMS, whiten=True, seed=0).apply(wide, normalize_rows=True)

    def cluster() -> None:
        kmeans(whitened, clusters, seed=0, iterations=ITERATIONS)

    works: dict[str, Callable[[], None]] = {"step": step, "features": features, "whitening": whiten, "k-means": cluster}
    seconds = time_in_turn(works, 2 if quick else 3)
    counts = {"step": batch, "features": batch, "whitening": few, "k-means": rows * clusters / CLUSTERS}
    each = {name: 1e3 * seconds[name] / counts[name] for name in works}
    phase, epoch = sum(each.values()) - each["step"], sum(each.values())
    days = EPOCHS * IMAGENET * epoch / 1e3 / 86_400
    return [
        {
            "name": f"DeepCluster, AlexNet 224 px, clustering of {CLUSTERS:,} against the whole epoch",
            "ours": phase,
            "reference": epoch,
            "ratio": epoch / phase,
            "unit": "ms an image",
            "detail": f"share {100 * phase / epoch:.0f} %: "
            + ", ".join(f"{name} {value:.2f} ms" for name, value in each.items())
            + f"; {EPOCHS} epochs of ImageNet would take {days:,.0f} days of this thread",
        }
    ]
