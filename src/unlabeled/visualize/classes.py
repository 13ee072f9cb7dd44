"""Pictures of classes, for labelled images: edges that stay inside a class, and the classes that look alike."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from unlabeled.cluster.neighbors import nearest_others
from unlabeled.data.labels import Labels, read_labels
from unlabeled.data.store import ImageStore
from unlabeled.errors import ConfigError, DataError
from unlabeled.evaluation.edge_ratio import NEIGHBORS, EdgeRatioProtocol
from unlabeled.protocols.inputs import labelled
from unlabeled.protocols.neighbors import described
from unlabeled.runs.opened import OpenedRun
from unlabeled.visualize import plots
from unlabeled.visualize.neighbors import drawn
from unlabeled.visualize.plots import Panel, figure
from unlabeled.visualize.sheets import square
from unlabeled.visualize.thumbnails import at_least_one, thumbnail
from unlabeled.writing import csv_text

CLASSES_SHOWN = 24
OTHERS_SHOWN = 5
LEAST_SHOWN = 0.0005
"""A smaller share would be printed as 0.0 %."""


def edge_ratio(
    run: OpenedRun, data: str | Path | None = None, *, labels: str = "folder", neighbors: int = NEIGHBORS
) -> dict[str, bytes | str]:
    """Box plot over classes of the share of neighbour edges inside the class (V08), trained and untrained."""
    at_least_one(neighbors=neighbors)
    store, ids, names = labelled(run, data or run.record.data, labels)
    if len(store) < 2:
        raise DataError("edges need at least 2 images.")
    target = torch.from_numpy(ids)
    ratios: dict[str, NDArray[np.float64]] = {}
    chance = 0.0
    for name, backbone in (("trained", run.backbone), ("untrained", run.untrained_backbone())):
        rows = described(run, data or run.record.data, store, backbone, name)
        protocol = EdgeRatioProtocol(rows, target, neighbors)
        ratios[name], chance = protocol.per_class(), protocol.chance()
    known = ~np.isnan(ratios["trained"])
    groups = [(name, found[known].tolist()) for name, found in ratios.items()]
    note = (
        f"Of the edges from the images of a class to their {min(neighbors, len(store) - 1)} nearest neighbours, the share that "
        f"ends in the same class; one value for each of {int(known.sum())} classes. Orange: the median. Box: the middle half "
        "of the classes. Whiskers: to the last class within 1.5 times its height. Circles: the classes beyond."
    )
    picture = figure(
        "Edge ratio by class",
        note,
        [Panel("Share of edges that stay in the class", plots.boxes(groups, chance=chance))],
    )
    rows = [
        (names[i], f"{ratios['trained'][i]:.6g}", f"{ratios['untrained'][i]:.6g}")
        for i in np.flatnonzero(known).tolist()
    ]
    return {"edge-ratio.svg": picture, "edge-ratio.csv": csv_text(("class", "trained", "untrained"), rows)}


def confusions(
    run: OpenedRun, data: str | Path | None = None, *, labels: str = "folder", neighbors: int = 20
) -> dict[str, bytes | str]:
    """The classes whose images lie closest to each class (V09, A29): their shares of the weighted votes of neighbours."""
    at_least_one(neighbors=neighbors)
    store, ids, names = labelled(run, data or run.record.data, labels)
    rows = run.features_of(store)[torch.from_numpy(ids >= 0)]
    known = torch.from_numpy(ids[ids >= 0])
    if len(known.unique()) < 2:
        raise DataError("similar classes need images of at least 2 classes; check --labels.")
    shares = vote_shares(rows, known, len(names), neighbors, run.config.temperature)
    present = np.flatnonzero(~np.isnan(shares[:, 0]))
    # The classes that lose most votes to others come first: there is something to see.
    order = sorted(present.tolist(), key=lambda c: (float(shares[c, c]), c))
    panels: list[Panel] = []
    for own in order[:CLASSES_SHOWN]:
        others = sorted((c for c in present.tolist() if c != own), key=lambda c: (-float(shares[own, c]), c))
        items = [
            (names[c], float(shares[own, c]))
            for c in [own, *others[:OTHERS_SHOWN]]
            if c == own or shares[own, c] >= LEAST_SHOWN
        ]
        panels.append(Panel(names[own], plots.ranked(items)))
    shown = f", {CLASSES_SHOWN} of {len(order)}" if len(order) > CLASSES_SHOWN else ""
    note = (
        f"For the images of each class: how the votes of their {min(neighbors, len(known) - 1)} nearest neighbours among "
        f"{len(known):,} images fall, as in weighted kNN. Grey: the class itself. Blue: the classes that come next. The "
        f"classes that lose most votes come first{shown}."
    )
    table = [
        (names[own], names[other], f"{shares[own, other]:.6g}")
        for own in present.tolist()
        for other in sorted(present.tolist(), key=lambda c, own=own: (-float(shares[own, c]), c))
        if shares[own, other] > 0
    ]
    return {
        "confusions.svg": figure("Classes that look alike to this network", note, panels, columns=3),
        "confusions.csv": csv_text(("class", "votes_for", "share"), table),
    }


def vote_shares(
    features: torch.Tensor, labels: torch.Tensor, num_classes: int, k: int, temperature: float
) -> NDArray[np.float64]:
    """[C, C]: of the votes cast for the images of class c, the share for each class; rows of absent classes are nan.

    Each image, of features [N, D] and labels int64 [N], hears its k nearest others, weighted exp(cosine / temperature),
    and each image counts the same (spec A29).
    """
    found = nearest_others(features, features, torch.arange(len(features)), k)
    weights = torch.softmax(found.similarity.double() / temperature, dim=1)
    votes = torch.zeros(len(features), num_classes, dtype=torch.float64)
    votes.scatter_add_(1, labels[found.index], weights)
    sums = torch.zeros(num_classes, num_classes, dtype=torch.float64).index_add_(0, labels, votes)
    counts = torch.bincount(labels, minlength=num_classes).double()
    return (sums / counts[:, None]).numpy()


SIDE = 96
"""Pixels of an image beside its bars."""


def softmax(
    run: OpenedRun,
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


def class_names(run: OpenedRun) -> list[str]:
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
