"""The section of the report on the network itself: filters, what excites them, spectrum and edges, as its template wants them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unlabeled.data.labels import read_labels
from unlabeled.data.store import ImageStore
from unlabeled.device import resolve_precision
from unlabeled.errors import DataError, RunError
from unlabeled.evaluation.edge_ratio import NEIGHBORS, EdgeRatioProtocol
from unlabeled.features import embed
from unlabeled.models import Backbone
from unlabeled.protocols.neighbors import whitened
from unlabeled.report.atlas import even_sample
from unlabeled.report.facts import Excited, Inside
from unlabeled.runs.images import digest, make_loader
from unlabeled.runs.opened import OpenedRun
from unlabeled.version import __version__
from unlabeled.visualize import charts, plots, thumbnails
from unlabeled.visualize.activations import NONE, MeansAndFeature, TopImages, telling
from unlabeled.visualize.network import first_filters
from unlabeled.visualize.scores import clustered_rows, variance_shares
from unlabeled.visualize.thumbnails import square, thumbnail
from unlabeled.writing import write_json

_TIMES = {"trained": "after training", "untrained": "before training"}
_STEMS = {"sobel": "Sobel filters", "sobel_nat": "Sobel filters", "highpass": "high-pass filter"}
_TELLING = 5
"""Pixels a side from which a filter has room for a stripe."""
_SATURATED = 0.99
_LEAST_DIRECTIONS = 10
"""The spectrum is drawn to where all curves have this share of the variance, and at least so far."""
_NAMED = 3
"""Files named to those who do not see the pictures; the others are the same kind of thing, and names are long."""


def section(found: Inside, pictures: list[np.ndarray], num_images: int | None) -> dict[str, Any]:
    """What the template needs; thumbnails are appended to `pictures` and referred to by their place."""
    height, width = found.filters.shape[1:3]
    count = len(found.filters)
    columns = 16 if count >= 64 else 12 if count >= 24 else 8
    tiles = ((found.filters, "after training"), (found.untrained_filters, "before training"))
    return {
        "looked_at": _looked_at(found.num_images, num_images or found.num_images),
        "filters_note": _filters_note(found),
        "filters": [
            (
                f"{time[:1].upper()}{time[1:]}",
                thumbnails.mosaic(one, columns),
                f"The {count} filters of the first layer {time}, {height} by {width} pixels each, in rows of "
                f"{min(columns, count)}.",
            )
            for one, time in tiles
        ],
        "excited_note": _excited_note(found),
        "excited": [_excited(found, i, pictures) for i in range(len(found.excited))],
        "charts": [*_spectrum(found.spectrum), *_edges(found)],
    }


def _looked_at(looked_at: int, total: int) -> str:
    if looked_at < total:
        return f"{looked_at:,} of the {total:,} images were looked at for this, evenly spaced."
    return f"All {total:,} images were looked at for this."


def _filters_note(found: Inside) -> str:
    height, width = found.filters.shape[1:3]
    stretched = "Each is stretched from its smallest to its largest value; both pictures have them in the same order."
    if min(height, width) < _TELLING:
        stretched = f"At {height} × {width} pixels a filter shows little: a colour, or on which side it wants light. {stretched}"
    if found.stem:
        return (
            f"What each looks for in the grey image: the filter together with the fixed {_STEMS.get(found.stem, found.stem)} in "
            f"front of it, {height} × {width} pixels. {stretched}"
        )
    if min(height, width) < _TELLING:
        return stretched
    return f"Edges, stripes and colours where it learned something, noise where it did not. {stretched}"


def _excited_note(found: Inside) -> str:
    dead = f" {found.num_dead:,} answer to none of the images." if found.num_dead else ""
    return (
        f"{len(found.excited)} of the {found.num_filters:,} filters of `{found.stage}`, those that are choosiest about images. For "
        "each the images on which it answers most, by the mean of its map. Where they share something you can name, the "
        f"network has a detector for it.{dead}"
    )


def _excited(found: Inside, number: int, pictures: list[np.ndarray]) -> dict[str, Any]:
    one, first = found.excited[number], len(pictures)
    pictures.extend(one.thumbnails)
    more = len(one.names) - _NAMED
    words = ", ".join(one.names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
    places = range(first, first + len(one.thumbnails))
    return {"unit": one.unit, "images": list(zip(places, one.names, one.rows, strict=True)), "words": words}


def _spectrum(spectrum: Mapping[str, Sequence[float]]) -> list[tuple[str, str, Any]]:
    """Heading, note and chart; nothing where there were too few images for a direction."""
    from markupsafe import Markup

    known = {name: shares for name, shares in spectrum.items() if shares}
    if not known:
        return []
    full = max(next((i for i, share in enumerate(one) if share >= _SATURATED), len(one)) for one in known.values())
    end = max(full + 1, _LEAST_DIRECTIONS)
    telling = _telling([shares[:end] for shares in known.values()])
    lines = [
        charts.Line(name, [k + 1.0 for k in range(len(shares[:end]))], list(shares[:end]), mark=telling)
        for name, shares in known.items()
    ]
    first = " and ".join(f"{100 * (one.y[0] or 0):.0f} % {_TIMES.get(one.label, one.label)}" for one in lines)
    note = (
        "Share of the features' variance in their first k principal directions. The first one alone holds "
        f"{first}: the lower the curve, the more directions the network uses. The dots: the share of the first {telling}."
    )
    chart = charts.svg(
        lines, title="Spectrum of the features", description=note, x_label="principal directions k", y_range=(0, 1),
        percent=True,
    )  # fmt: skip
    return [("How many directions does it use?", note, Markup(chart))]


def _telling(shares: Sequence[Sequence[float]]) -> int:
    """The number of directions, from two, that hold half the variance of every network."""
    lowest = [min(values) for values in zip(*shares, strict=False)]
    return next((k for k, share in enumerate(lowest, 1) if k > 1 and share >= 0.5), len(lowest))


def _edges(found: Inside) -> list[tuple[str, str, Any]]:
    """Heading, note and box plot; nothing without labels."""
    from markupsafe import Markup

    if not found.edge_ratios:
        return []
    classes = len(next(iter(found.edge_ratios.values())))
    middles = ", ".join(f"{name} {100 * float(np.median(values)):.1f} %" for name, values in found.edge_ratios.items())
    note = (
        f"For each of {classes} classes, the share of the {found.edge_neighbors} nearest neighbours of its images that are of the "
        "same class. Orange: the middle class; box: the middle half; circles: classes far from the others."
    )
    chart = plots.boxes(list(found.edge_ratios.items()), chance=found.edge_chance)
    words = f"Box plot over {classes} classes; the middle class: {middles}, by chance {100 * found.edge_chance:.1f} %."
    picture = Markup('<div class="boxes" role="img" aria-label="{}">{}</div>').format(words, Markup(chart))
    return [("Do neighbours share a label?", note, picture)]


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


def inside(run: OpenedRun, store: ImageStore, place: NDArray[np.int64]) -> Inside | None:
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
    run: OpenedRun,
    networks: dict[str, Backbone],
    store: ImageStore,
    rows: NDArray[np.int64],
    target: torch.Tensor | None,
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
    run: OpenedRun,
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


def labels(run: OpenedRun, store: ImageStore, rows: NDArray[np.int64]) -> torch.Tensor | None:
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
    run: OpenedRun, target: torch.Tensor, features: dict[str, torch.Tensor]
) -> tuple[dict[str, list[float]], float]:
    """Edge ratio of every class among images of these labels [n], by network, and chance."""
    found: dict[str, list[float]] = {}
    chance = 0.0
    for name, rows in features.items():
        protocol = EdgeRatioProtocol(whitened(run, rows), target)
        ratios, chance = protocol.per_class(), protocol.chance()
        found[name] = ratios[~np.isnan(ratios)].tolist()
    return found, chance
