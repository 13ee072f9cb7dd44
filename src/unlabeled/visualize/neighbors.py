"""Pictures of images: what the network takes for alike, trained beside untrained, and what is in each cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from unlabeled.cluster.neighbors import nearest_others
from unlabeled.data.labels import read_labels
from unlabeled.data.store import ImageStore
from unlabeled.errors import DataError
from unlabeled.progress import counted
from unlabeled.randomness import generator
from unlabeled.runs.opened import OpenedRun
from unlabeled.visualize.sheets import BAD, GOOD, Row, Section, Tile, grid, sheet
from unlabeled.visualize.thumbnails import at_least_one, choice, opened, thumbnail
from unlabeled.writing import csv_text

CANDIDATES = 1000
"""Images among which the best and worst queries are looked for."""
_SCORES = 2**24


@dataclass(frozen=True)
class Neighborhood:
    """Neighbours of queries: `index` int64 [Q, k], nearest first, and `value` [Q, k], their cosine or distance."""

    index: torch.Tensor
    value: torch.Tensor


def neighbors(
    run: OpenedRun,
    data: str | Path | None = None,
    *,
    queries: int = 8,
    images: str | None = None,
    neighbors: int = 5,
    metric: Literal["cosine", "l2"] = "cosine",
    labels: str | None = None,
    seed: int | None = None,
) -> dict[str, bytes | str]:
    """Queries with their nearest images by the trained and by the untrained network (V02).

    With `labels` the best and the worst queries are shown, those with most and with fewest neighbours of their class;
    else as many queries as wanted drawn by `seed`, or those that `images` names.
    """
    at_least_one(queries=queries, neighbors=neighbors)
    choice("metric", metric, ("cosine", "l2"))
    source = run.record.source_of(data or run.record.data)
    known = read_labels(source, labels) if labels else None
    store = run.record.open(source)
    if len(store) < 2:
        raise DataError(f"neighbours need at least 2 images, {data or run.record.data} has {len(store)}.")
    ids = None if known is None else known.ids[store.index_in_source]
    rows = drawn(store, images, queries, ids, run.config.seed if seed is None else seed)
    trained = nearest(run.features_of(store), rows, neighbors, metric)
    parts = {"": torch.arange(len(rows))}
    if ids is not None and images is None:
        parts = best_and_worst(by_share(trained, rows, ids), queries)
    chosen = torch.cat(list(parts.values()))
    rows, trained = rows[chosen], Neighborhood(trained.index[chosen], trained.value[chosen])
    untrained = nearest(run.features_of(store, run.untrained_backbone(), "untrained"), rows, neighbors, metric)
    shown = _Shown(store, ids, [] if known is None else list(known.class_names))
    tiles = [
        shown.row(query, [(found.index[i], found.value[i]) for found in (trained, untrained)])
        for i, query in enumerate(rows.tolist())
    ]
    heads = {0: "query", 2: "nearest, trained", 3 + trained.index.shape[1]: "nearest, untrained"}
    sections: list[Section] = []
    for heading, part in parts.items():
        begin = sum(len(section.rows) for section in sections)
        sections.append(Section(heading, tiles[begin : begin + len(part)], heads))
    value = "cosine similarity" if metric == "cosine" else "Euclidean distance of features"
    note = (
        f"In each row: the query, its {trained.index.shape[1]} nearest among {len(store):,} images by the trained network, then "
        f"by the untrained network; the number below is the {value}."
    )
    if ids is not None:
        note += " A plain blue frame: the class of the query. A dashed orange frame: another class."
    picture = sheet(
        "Nearest neighbours, trained and untrained", note, [part for part in sections if part.rows], side=80
    )
    header = ("query", "network", "place", "path", "cosine" if metric == "cosine" else "distance")
    return {"neighbors.png": picture, "neighbors.csv": csv_text(header, _rows(store, rows, trained, untrained))}


def _rows(
    store: ImageStore, queries: torch.Tensor, trained: Neighborhood, untrained: Neighborhood
) -> list[tuple[object, ...]]:
    return [
        (store.names[query], network, place, store.names[other], f"{value:.6g}")
        for network, found in (("trained", trained), ("untrained", untrained))
        for query, others, values in zip(queries.tolist(), found.index.tolist(), found.value.tolist(), strict=True)
        for place, (other, value) in enumerate(zip(others, values, strict=True), 1)
    ]


@dataclass(frozen=True)
class _Shown:
    """Tiles of images, with the names of their classes and frames where labels are known."""

    store: ImageStore
    ids: NDArray[np.int64] | None
    classes: list[str]

    def row(self, query: int, sides: list[tuple[torch.Tensor, torch.Tensor]]) -> Row:
        """The query, then its neighbours (index and value, [k] each) by one network after the other."""
        name = "" if self.ids is None or self.ids[query] < 0 else self.classes[int(self.ids[query])]
        tiles: list[Tile | None] = [Tile(thumbnail(self.store, query), name)]
        for index, value in sides:
            tiles.append(None)
            tiles += [self.neighbor(query, *pair) for pair in zip(index.tolist(), value.tolist(), strict=True)]
        return Row(tiles)

    def neighbor(self, query: int, other: int, value: float) -> Tile:
        """One neighbour, framed where the class of the query is known."""
        frame = None
        if self.ids is not None and self.ids[query] >= 0:
            frame = GOOD if self.ids[other] == self.ids[query] else BAD
        # Features that have hardly learned, or collapsed, all have cosines that three digits cannot tell apart.
        digits = 5 if 0.9995 <= value < 1 else 3
        return Tile(thumbnail(self.store, other), f"{value:.{digits}f}", frame)


def best_and_worst(order: torch.Tensor, count: int) -> dict[str, torch.Tensor]:
    """The first and the last of the queries in `order`, together at most `count`, the worst first among the last."""
    kept = min(count, len(order))
    half = (kept + 1) // 2
    return {
        "Best queries: most neighbours of their class": order[:half],
        "Worst queries: fewest neighbours of their class": order[len(order) - (kept - half) :].flip(0),
    }


def drawn(store: ImageStore, images: str | None, count: int, ids: NDArray[np.int64] | None, seed: int) -> torch.Tensor:
    """Rows of the queries, int64: those that are named, or drawn; with labels many, from which the best are taken."""
    if images is not None:
        place = {name: i for i, name in enumerate(store.names)}
        names = [name.strip() for name in images.split(",") if name.strip()]
        for name in names:
            if name not in place:
                raise DataError(
                    f"'{name}' is none of the {len(store):,} images; they are named like '{store.names[0]}'."
                )
        return torch.tensor([place[name] for name in names])
    rows = torch.arange(len(store)) if ids is None else torch.from_numpy(np.flatnonzero(ids >= 0))
    if not len(rows):
        raise DataError(f"none of the {len(store):,} images has a label; check --labels.")
    order = torch.randperm(len(rows), generator=generator(seed, "queries"))
    return rows[order[: count if ids is None else CANDIDATES]]


def nearest(features: torch.Tensor, queries: torch.Tensor, k: int, metric: Literal["cosine", "l2"]) -> Neighborhood:
    """The k rows of `features` [N, D] nearest to each of the rows `queries` (int64 [Q]), itself left out."""
    if metric == "cosine":
        found = nearest_others(features, features[queries], queries, k)
        return Neighborhood(found.index, found.similarity)
    # Distances do not mind a shift, rounding does.
    rows = features.float() - features.float().mean(0)
    k = min(k, len(rows) - 1)
    index: list[torch.Tensor] = []
    value: list[torch.Tensor] = []
    lengths = rows.square().sum(1)
    for part in queries.split(max(1, _SCORES // len(rows))):
        squared = (lengths[part, None] + lengths - 2 * rows[part] @ rows.t()).clamp(min=0)
        squared[torch.arange(len(part)), part] = torch.inf
        distances, order = torch.sort(squared, dim=1, stable=True)
        index.append(order[:, :k])
        value.append(distances[:, :k].sqrt())
    return Neighborhood(torch.cat(index), torch.cat(value))


def by_share(found: Neighborhood, rows: torch.Tensor, ids: NDArray[np.int64]) -> torch.Tensor:
    """Order of the queries `rows`, those with most neighbours of their class first; equal ones stay as they were."""
    labels = torch.from_numpy(ids)
    return (labels[found.index] == labels[rows, None]).sum(1).argsort(descending=True, stable=True)


def clusters(
    run: OpenedRun, data: str | Path | None = None, *, clusters: int = 20, per_cluster: int = 48
) -> dict[str, bytes | str]:
    """Contact sheets of the largest clusters, typical images first, and one sheet with a row for each of them."""
    at_least_one(clusters=clusters, per_cluster=per_cluster)
    store = opened(run, data)
    index = run.catalogue
    if data is None and run.names != store.names:
        raise DataError(
            f"the images of {run.record.data} are no longer those of the training; give DATA to draw the clusters of these."
        )
    labels, distances = index.clusters, index.distances
    if data is not None:
        found = index.assign_images(run.features_of(store), store.source, store, run.record.batch)
        labels, distances = found.cluster, found.distance
    members: dict[int, list[tuple[float, int]]] = {}
    for i, (label, distance) in enumerate(zip(labels.tolist(), distances.tolist(), strict=True)):
        members.setdefault(label, []).append((distance, i))
    order = sorted(members, key=lambda number: (-len(members[number]), number))
    rows: list[Row] = []
    files: dict[str, bytes | str] = {"clusters.png": b""}
    for number in order[:clusters]:
        images = sorted(members[number])
        tiles = [Tile(thumbnail(store, i)) for _, i in images[:per_cluster]]
        rows.append(Row(tiles[:10], f"{number}: {counted(len(images), 'image')}"))
        note = f"{counted(len(images), 'image')}, the {len(tiles)} nearest to the centre, the most typical first."
        files[f"clusters/cluster-{number:04d}.png"] = sheet(
            f"Cluster {number}", note, [Section("", grid(tiles, 8))], side=96
        )
    note = f"The {len(rows)} largest of {len(order)} clusters of {len(labels):,} images, the most typical images first."
    files["clusters.png"] = sheet("Clusters", note, [Section("", rows)], side=72)
    table = [
        (number, len(images), f"{sum(d for d, _ in images) / len(images):.6g}", store.names[min(images)[1]])
        for number in order
        if (images := members[number])
    ]
    files["clusters.csv"] = csv_text(("cluster", "images", "mean_distance", "most_typical"), table)
    return files
