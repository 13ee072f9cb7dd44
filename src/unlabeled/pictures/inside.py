"""What the report shows of the inside of a network: first filters, what excites the last ones, spectrum, edges in classes.

Shapes: N images of the run, n of them looked at, F filters of the last stage, D feature dimensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from unlabeled.data.labels import read_labels
from unlabeled.data.store import ImageStore
from unlabeled.device import resolve_precision
from unlabeled.errors import DataError, RunError
from unlabeled.evaluation.edge_ratio import NEIGHBORS, EdgeRatioProtocol
from unlabeled.features import embed
from unlabeled.images import make_loader
from unlabeled.pictures.numbers import clustered_rows, variance_shares
from unlabeled.pictures.opened import thumbnail
from unlabeled.protocols.neighbors import described
from unlabeled.visualize.activations import NONE, MeansAndFeature, TopImages, telling
from unlabeled.visualize.atlas import even_sample
from unlabeled.visualize.facts import Excited, Inside
from unlabeled.visualize.filters import first_filters
from unlabeled.visualize.sprites import square

if TYPE_CHECKING:
    from unlabeled.run import Run

MOST_IMAGES = 4000
"""Images looked at."""
MOST_PIXELS = 40_000_000
"""Pixels of all their views together: 800 views of 224 pixels, which two cores see in seconds."""
FILTERS_SHOWN = 12
SIDE = 64
"""Pixels of a thumbnail."""


def inside(run: Run, store: ImageStore, place: NDArray[np.int64]) -> Inside | None:
    """Look into the network of `run` with images of `store`, its training images; `place` [N] is where each is in the atlas.

    Both networks see the same images once: all, or an even sample of `looked_at`. None where the weights are gone: the
    report is of more than them. For one rank that works alone.
    """
    try:
        trained, untrained = run.backbone, run.untrained_backbone()
    except RunError:
        return None
    device = next(trained.parameters()).device
    loader = make_loader(store, run.config, device)
    rows = even_sample(len(store), looked_at(run.config.image_size))
    index, dtype = torch.from_numpy(rows), resolve_precision(run.config.precision, device)
    batch = 2 * run.config.batch_size
    both = embed(MeansAndFeature(trained), loader, index, dtype=dtype, batch_size=batch, title="inside, trained")
    means = both[:, : both.shape[1] - trained.feature_dim]
    features = {
        "trained": both[:, means.shape[1] :],
        "untrained": embed(untrained, loader, index, dtype=dtype, batch_size=batch, title="inside, untrained"),
    }
    found = TopImages(means.shape[1])
    found.update(torch.arange(len(rows)), means)
    first = first_filters(trained)
    ratios, chance = class_ratios(run, store, index, features)
    return Inside(
        filters=first.tiles(),
        untrained_filters=first_filters(untrained).tiles(),
        stem=run.config.stem if first.composed else "",
        stage=trained.stages[-1],
        num_filters=means.shape[1],
        num_dead=int((found.values[:, 0] <= 0).sum()),
        excited=[
            excited(store, unit, rows[[i for i in found.index[unit].tolist() if i != NONE]], place)
            for unit in telling(means, found, FILTERS_SHOWN)
        ],
        num_images=len(rows),
        spectrum={name: variance_shares(run.config, clustered_rows(run.config, one)) for name, one in features.items()},
        edge_ratios=ratios,
        edge_chance=chance,
        edge_neighbors=min(NEIGHBORS, len(rows) - 1),
    )


def looked_at(image_size: int) -> int:
    """How many images are looked at, of views of so many pixels a side."""
    return max(1, min(MOST_IMAGES, MOST_PIXELS // image_size**2))


def excited(store: ImageStore, unit: int, images: NDArray[np.int64], place: NDArray[np.int64]) -> Excited:
    """A filter with its images, rows of the store."""
    pixels = [thumbnail(store, int(i)) for i in images]
    return Excited(
        unit,
        [square(one, min(SIDE, *one.shape[:2])) for one in pixels],
        [store.names[i] for i in images],
        place[images].tolist(),
    )


def class_ratios(
    run: Run, store: ImageStore, index: torch.Tensor, features: dict[str, torch.Tensor]
) -> tuple[dict[str, list[float]], float]:
    """Edge ratio of every class among the images `index`, by network, and chance; nothing where the run has no labels."""
    if run.record.labels is None or len(index) < 2:
        return {}, 0.0
    try:
        ids = read_labels(run.record.source(), run.record.labels).ids[store.index_in_source]
    except DataError:
        return {}, 0.0  # they were optional at training, and the file may be gone
    target = torch.from_numpy(ids)[index]
    if len(target[target >= 0].unique()) < 2:
        return {}, 0.0
    found: dict[str, list[float]] = {}
    chance = 0.0
    for name, rows in features.items():
        protocol = EdgeRatioProtocol(described(run, rows), target)
        ratios, chance = protocol.per_class(), protocol.chance()
        found[name] = ratios[~np.isnan(ratios)].tolist()
    return found, chance
