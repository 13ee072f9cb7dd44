"""Pictures of classes, for labelled images: edges that stay inside a class, and the classes that look alike."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from unlabeled.errors import DataError
from unlabeled.evaluation.edge_ratio import NEIGHBORS, EdgeRatioProtocol
from unlabeled.evaluation.knn import nearest_others
from unlabeled.pictures.opened import at_least_one
from unlabeled.protocols.labelled import labelled
from unlabeled.protocols.neighbors import described
from unlabeled.runfolder import csv_text
from unlabeled.visualize import plots
from unlabeled.visualize.plots import Panel, figure

if TYPE_CHECKING:
    from unlabeled.run import Run

CLASSES_SHOWN = 24
OTHERS_SHOWN = 5
LEAST_SHOWN = 0.0005
"""A smaller share would be printed as 0.0 %."""


def edge_ratio(
    run: Run, data: str | Path | None = None, *, labels: str = "folder", neighbors: int = NEIGHBORS
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
    run: Run, data: str | Path | None = None, *, labels: str = "folder", neighbors: int = 20
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
