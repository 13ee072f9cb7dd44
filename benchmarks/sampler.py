"""The uniform draw over pseudo-labels: ours against the loop one would write down first.

The loop appends each image to the list of its cluster, then draws from cluster after cluster and concatenates the draw
to what there is, so that it copies everything once per cluster, and shuffles at the end. One thread, process CPU time,
the two in turn, medians.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch

from unlabeled.data.samplers import uniform_over_clusters
from unlabeled.randomness import generator


def run(quick: bool) -> list[dict[str, Any]]:
    """A row for a small set and one for the size of ImageNet (`quick`: only the small one)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        sizes = [(50_000, 1_000)] if quick else [(50_000, 1_000), (1_281_167, 10_000)]
        return [measure(images, clusters) for images, clusters in sizes]
    finally:
        torch.set_num_threads(threads)


def measure(images: int, clusters: int, turns: int = 5) -> dict[str, Any]:
    """Clusters of unequal size, half of them smaller than their share of the draw."""
    random = generator(0, "benchmark")
    weights = torch.rand(clusters, generator=random).sqrt()
    labels = torch.multinomial(weights, images, replacement=True, generator=random)
    uniform_over_clusters(labels, images, random)  # libraries load outside the clock
    ours, reference, building = [], [], []
    for turn in range(turns):
        ours += [timed(lambda: uniform_over_clusters(labels, images, random))[0] for _ in range(3)]
        seconds, members = timed(lambda: lists_of_members(labels, clusters))
        building.append(seconds)
        reference.append(seconds + timed(lambda m=members, t=turn: plain_draw(m, images, t))[0])
    mine, theirs = statistics.median(ours), statistics.median(reference)
    return {
        "name": f"uniform draw, {images:,} images in {clusters:,} clusters",
        "ours": mine,
        "reference": theirs,
        "ratio": theirs / mine,
        "unit": "s",
        "detail": f"a loop over clusters with a growing array, {statistics.median(building):.2f} s of it for the lists",
    }


def lists_of_members(labels: torch.Tensor, clusters: int) -> list[list[int]]:
    """Images of each cluster."""
    members: list[list[int]] = [[] for _ in range(clusters)]
    for i, label in enumerate(labels.tolist()):
        members[label].append(i)
    return members


def plain_draw(members: list[list[int]], count: int, seed: int) -> np.ndarray:
    """Section 3.3 of the paper written down directly: int64 [count]."""
    random = np.random.RandomState(seed)
    share = count // sum(len(cluster) > 0 for cluster in members) + 1
    drawn = np.array([])
    for cluster in members:
        if cluster:
            drawn = np.concatenate((drawn, random.choice(cluster, share, replace=len(cluster) <= share)))
    random.shuffle(drawn)
    return drawn[:count].astype(np.int64)


def timed(function: Any) -> tuple[float, Any]:
    """CPU seconds of this process, and the result."""
    begun = time.process_time()
    result = function()
    return time.process_time() - begun, result
