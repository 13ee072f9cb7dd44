"""The section of the report on the network itself: filters, what excites them, spectrum and edges, as its template wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unlabeled.visualize import curves, plots, sprites
from unlabeled.visualize.facts import Inside

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
                sprites.mosaic(one, columns),
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
        curves.Line(name, [k + 1.0 for k in range(len(shares[:end]))], list(shares[:end]), mark=telling)
        for name, shares in known.items()
    ]
    first = " and ".join(f"{100 * (one.y[0] or 0):.0f} % {_TIMES.get(one.label, one.label)}" for one in lines)
    note = (
        "Share of the features' variance in their first k principal directions. The first one alone holds "
        f"{first}: the lower the curve, the more directions the network uses. The dots: the share of the first {telling}."
    )
    chart = curves.svg(
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
