"""What a supervised network takes an image for: its classes of highest probability (Wu et al. 2018, figure 1; spec A29)."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from unlabeled.data.labels import Labels, read_labels
from unlabeled.data.store import ImageStore
from unlabeled.errors import ConfigError, DataError
from unlabeled.pictures.images import drawn
from unlabeled.pictures.opened import at_least_one, thumbnail
from unlabeled.runfolder import csv_text
from unlabeled.visualize import plots
from unlabeled.visualize.gallery import square
from unlabeled.visualize.plots import Panel, figure

if TYPE_CHECKING:
    from unlabeled.run import Run

OTHERS_SHOWN = 5
SIDE = 96
"""Pixels of an image beside its bars."""


def softmax(
    run: Run,
    data: str | Path | None = None,
    *,
    queries: int = 8,
    images: str | None = None,
    labels: str | None = None,
    seed: int | None = None,
) -> dict[str, bytes | str]:
    """The classes that a network trained with labels finds most likely for single images (A29).

    `images` names some of DATA, which may be a single file; else `queries` of them are drawn by `seed`. With `labels`, or
    without DATA, the bar of the right class is grey and comes first.

    Raises:
        ConfigError: the run was not trained with labels and a softmax.
    """
    at_least_one(queries=queries)
    config = run.config
    if config.method != "supervised" or config.supervised_loss != "softmax":
        trained_as = (
            config.method if config.method != "supervised" else f"supervised with loss {config.supervised_loss}"
        )
        raise ConfigError(
            f"{run.path} was trained as {trained_as}, and only a run of `--method supervised --supervised-loss softmax` gives "
            "probabilities of classes; for any run, `visualize confusions` draws the classes that look alike."
        )
    classes = class_names(run)
    source = run.record.source_of(data or run.record.data)
    spec = labels or (run.record.labels if data is None else None)
    known = read_labels(source, spec) if spec else None
    store = run.record.open(source)
    rows = drawn(store, images, queries, None, config.seed if seed is None else seed)
    part = run.features_of(store)[rows]
    shares = torch.softmax(run.method.outputs(part).double(), dim=1).numpy()
    right = [None if known is None else right_class(known, store, row) for row in rows.tolist()]
    panels = [
        Panel(store.names[row], bars(thumbnail(store, row), shares[i], classes, right[i]))
        for i, row in enumerate(rows.tolist())
    ]
    note = (
        f"For each image the {min(OTHERS_SHOWN + 1, len(classes))} classes that the network, which was trained to tell "
        f"{len(classes)}, finds most likely."
    )
    if known is not None:
        note += " Grey and first: the class that the image has."
    table = [
        (store.names[row], right[i] or "", place, classes[c], f"{shares[i, c]:.6g}")
        for i, row in enumerate(rows.tolist())
        for place, c in enumerate(np.argsort(-shares[i], kind="stable").tolist(), 1)
    ]
    return {
        "softmax.svg": figure("What the network takes these images for", note, panels, columns=2),
        "softmax.csv": csv_text(("path", "class", "place", "softmax_class", "probability"), table),
    }


def class_names(run: Run) -> list[str]:
    """The names of the classes of the training, in the order of the head's outputs.

    Raises:
        DataError: the labels are no longer those of the training.
    """
    spec, outputs = run.record.labels, run.method.outputs(torch.zeros(1, run.backbone.feature_dim)).shape[1]
    names = read_labels(run.record.source(), spec).class_names if spec else []
    # The highest class of an image that could be read decides the width.
    if len(names) < outputs:
        raise DataError(
            f"labels '{spec}' of {run.record.data} name {len(names)} classes and the network has {outputs}; put them back."
        )
    return names[:outputs]


def right_class(known: Labels, store: ImageStore, row: int) -> str | None:
    """Name of the class of an image, None without one."""
    found = int(known.ids[store.index_in_source[row]])
    return known.class_names[found] if found >= 0 else None


def bars(pixels: NDArray[np.uint8], shares: NDArray[np.float64], classes: list[str], right: str | None) -> str:
    """An image uint8 [h, w, C] with its most likely classes beside it, shares [K], as one SVG."""
    order = [c for c in np.argsort(-shares, kind="stable").tolist() if classes[c] != right]
    items = [(classes[c], float(shares[c])) for c in order[: OTHERS_SHOWN + (right not in classes)]]
    if right in classes:
        items.insert(0, (right, float(shares[classes.index(right)])))
    chart = plots.ranked(items, first=right in classes)
    buffer = io.BytesIO()
    square(pixels, SIDE).save(buffer, "png")
    address = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    picture = f'<image href="{address}" x="0" y="3" width="{SIDE}" height="{SIDE}"/>'
    height = max(plots.size_of(chart)[1], SIDE + 6)
    return plots.chart([picture, chart.replace("<svg ", f'<svg x="{SIDE + 8}" y="0" ', 1)], SIDE + 8 + 300, height)
