"""What the report shows of the inside of a network: first filters, what excites the last ones, spectrum, edges in classes.

Shapes: N images of the run, n of them looked at, F filters of the last stage, D feature dimensions.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from unlabeled import __version__
from unlabeled.data.labels import read_labels
from unlabeled.data.store import ImageStore
from unlabeled.device import resolve_precision
from unlabeled.errors import DataError, RunError
from unlabeled.evaluation.edge_ratio import NEIGHBORS, EdgeRatioProtocol
from unlabeled.features import embed
from unlabeled.images import digest, make_loader
from unlabeled.models import Backbone
from unlabeled.pictures.numbers import clustered_rows, variance_shares
from unlabeled.pictures.opened import thumbnail
from unlabeled.protocols.neighbors import whitened
from unlabeled.runfolder import write_json
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


@dataclass(frozen=True)
class _Seen:
    """What takes long to find out, in plain values: kept in RUN/inside.json."""

    num_filters: int
    num_dead: int
    excited: list[tuple[int, list[int]]]
    """Filters, each with the rows of the store that excite it most."""
    spectrum: dict[str, list[float]]
    edge_ratios: dict[str, list[float]]
    edge_chance: float


def inside(run: Run, store: ImageStore, place: NDArray[np.int64]) -> Inside | None:
    """Look into the network of `run` with images of `store`, its training images; `place` [N] is where each is in the atlas.

    Both networks see the same images once: all, or an even sample of `looked_at`. What they saw is kept in RUN/inside.json
    for these weights, settings, images and labels, so that a second report does not look again. None where the weights
    are gone: the report is of more than them. For one rank that works alone.
    """
    try:
        networks = {"trained": run.backbone, "untrained": run.untrained_backbone()}
    except RunError:
        return None
    rows = even_sample(len(store), looked_at(run.config.image_size))
    target = labels(run, store, rows)
    asked = _asked(run, networks, store, rows, target)
    seen = _read(run.folder.inside, asked)
    if seen is None:
        seen = _look(run, networks, store, rows, target)
        # A run that cannot be written gets its report all the same.
        with suppress(RunError):
            write_json(run.folder.inside, {"asked": asked, **asdict(seen)})
    trained, untrained = (first_filters(one) for one in networks.values())
    return Inside(
        filters=trained.tiles(),
        untrained_filters=untrained.tiles(),
        stem=run.config.stem if trained.composed else "",
        stage=run.backbone.stages[-1],
        num_filters=seen.num_filters,
        num_dead=seen.num_dead,
        excited=[excited(store, unit, np.array(images, np.int64), place) for unit, images in seen.excited],
        num_images=len(rows),
        spectrum=seen.spectrum,
        edge_ratios=seen.edge_ratios,
        edge_chance=seen.edge_chance,
        edge_neighbors=min(NEIGHBORS, len(rows) - 1),
    )


def _look(
    run: Run, networks: dict[str, Backbone], store: ImageStore, rows: NDArray[np.int64], target: torch.Tensor | None
) -> _Seen:
    """Show the images `rows` of the store to both networks; `target` [n] are their labels, where there are some."""
    trained, untrained = networks.values()
    device = next(trained.parameters()).device
    loader = make_loader(store, run.config, device)
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
    ratios, chance = ({}, 0.0) if target is None else class_ratios(run, target, features)
    return _Seen(
        num_filters=means.shape[1],
        num_dead=int((found.values[:, 0] <= 0).sum()),
        excited=[
            (unit, rows[[i for i in found.index[unit].tolist() if i != NONE]].tolist())
            for unit in telling(means, found, FILTERS_SHOWN)
        ],
        spectrum={name: variance_shares(run.config, clustered_rows(run.config, one)) for name, one in features.items()},
        edge_ratios=ratios,
        edge_chance=chance,
    )


def _asked(
    run: Run,
    networks: dict[str, Backbone],
    store: ImageStore,
    rows: NDArray[np.int64],
    target: torch.Tensor | None,
) -> str:
    """Digest of all that `_look` depends on."""
    first = next(run.backbone.parameters())
    dtype = resolve_precision(run.config.precision, first.device)
    settings = (__version__, run.config.model_dump_json(), str(dtype), FILTERS_SHOWN, digest(store.names))
    words = blake2b(repr(settings).encode(), digest_size=16)
    tensors = [value for one in networks.values() for value in one.state_dict().values()]
    tensors += [store.sizes, torch.from_numpy(rows)] + ([] if target is None else [target])
    for one in tensors:
        words.update(one.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return words.hexdigest()


def _read(kept: Path, asked: str) -> _Seen | None:
    """What was seen, where the file `kept` holds the answer to this question."""
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        found = json.loads(kept.read_text())
        if found.pop("asked") == asked:
            return _Seen(**found)
    return None


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


def labels(run: Run, store: ImageStore, rows: NDArray[np.int64]) -> torch.Tensor | None:
    """Labels of the images `rows`, int64 [n], -1 for none; None where the run has none of two classes among them."""
    if run.record.labels is None or len(rows) < 2:
        return None
    try:
        ids = read_labels(run.record.source(), run.record.labels).ids[store.index_in_source]
    except DataError:
        return None  # they were optional at training, and the file may be gone
    target = torch.from_numpy(ids[rows])
    return target if len(target[target >= 0].unique()) > 1 else None


def class_ratios(
    run: Run, target: torch.Tensor, features: dict[str, torch.Tensor]
) -> tuple[dict[str, list[float]], float]:
    """Edge ratio of every class among images of these labels [n], by network, and chance."""
    found: dict[str, list[float]] = {}
    chance = 0.0
    for name, rows in features.items():
        protocol = EdgeRatioProtocol(whitened(run, rows), target)
        ratios, chance = protocol.per_class(), protocol.chance()
        found[name] = ratios[~np.isnan(ratios)].tolist()
    return found, chance
