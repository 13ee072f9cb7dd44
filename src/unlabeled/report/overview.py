"""Looks once at all images of a finished run: where they lie, what is near, what plain statistics say of the clusters.

Shapes: N images of the run, n of them shown (all, up to `MOST_IMAGES`), D feature dimensions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from unlabeled import progress
from unlabeled.cluster.neighbors import nearest_others
from unlabeled.config import Config
from unlabeled.data.image_statistics import MEASURED, SECONDS_OF_A_DAY, Statistic, described, measure, of_files
from unlabeled.data.labels import read_labels
from unlabeled.data.metadata import MOST_CATEGORIES, of_rows, read_metadata
from unlabeled.data.sources import Source
from unlabeled.data.store import ImageStore
from unlabeled.errors import DataError, RunError
from unlabeled.evaluation import duplicates
from unlabeled.evaluation.explain import BINS, Explanation, explain
from unlabeled.report.atlas import coarse, even_sample, repeats
from unlabeled.report.facts import Atlas, Colouring
from unlabeled.report.projection import project
from unlabeled.runs.images import DataRecord
from unlabeled.runs.opened import OpenedRun
from unlabeled.visualize.thumbnails import square
from unlabeled.writing import replacing, write_json

NEIGHBORS = 12
SIDE = 48
"""Pixels of a thumbnail before it is packed."""
_SCALES: dict[str, Literal["pixels", "ratio", "share", "hue"]] = {
    "size": "pixels",
    "aspect": "ratio",
    "brightness": "share",
    "contrast": "share",
    "saturation": "share",
    "colour": "hue",
}


@dataclass(frozen=True)
class Overview:
    """What was seen."""

    atlas: Atlas
    explanation: Explanation
    place: NDArray[np.int64]
    """[N] position of each image in the atlas, -1 for one that is not shown."""


def overview(run: OpenedRun, store: ImageStore) -> Overview:
    """Look at the images of `store`, the training images of `run`.

    The map is kept in RUN/projection.safetensors for the features it was made of, and what was measured of every image, also
    of those that are not shown, in RUN/statistics.safetensors: the explorer, which reads no pixels of its own, colours by it.
    """
    catalogue = run.catalogue
    rows = even_sample(len(store))
    unit = catalogue.features[torch.from_numpy(rows)].float()
    source = store.source
    statistics = described(measured(run.folder.statistics, store)[rows], store.is_colour)
    statistics += of_files([store.names[i] for i in rows], source, store.index_in_source[rows])
    statistics += of_metadata(run.record, source, store.index_in_source[rows], {one.name for one in statistics})
    thumbnails: list[NDArray[np.uint8]] = []
    cells: list[NDArray[np.float32]] = []
    blank: list[bool] = []
    digests: list[bytes] = []
    with progress.bar("thumbnails", len(rows)) as update:
        for place, row in enumerate(rows.tolist()):
            pixels = store.pixels(row).numpy()
            digests.append(hashlib.blake2b(repr(pixels.shape).encode() + pixels.tobytes(), digest_size=12).digest())
            blank.append(bool((pixels == pixels[0, 0]).all()))
            cells.append(coarse(pixels))
            thumbnails.append(square(store.shown(row), min(SIDE, *pixels.shape[:2])))
            update(place + 1, "")
    similarity, index = neighbors(unit)
    clusters = catalogue.clusters[torch.from_numpy(rows)].numpy()
    names = [store.names[i] for i in rows]
    repeated = repeats(np.stack(cells), np.array(blank), index, digests)
    sizes = store.original_sizes[torch.from_numpy(rows)].prod(1).numpy()
    found = duplicates.to_json(duplicates.groups(index, repeated), names, sizes, digests, len(store))
    with suppress(RunError):  # a run that cannot be written gets its report all the same
        write_json(run.folder.duplicates, found)
    atlas = Atlas(
        thumbnails=thumbnails,
        names=names,
        positions=positions(run.folder.projection, unit, run.config.seed),
        clusters=clusters,
        distances=catalogue.distances[torch.from_numpy(rows)].numpy(),
        neighbours=index,
        similarities=similarity,
        repeated=repeated,
        tree=catalogue.tree,
        colourings=[*of_labels(run, source, store.index_in_source[rows]), *colourings(statistics)],
        total=len(store),
    )
    place = np.full(len(store), -1, np.int64)
    place[rows] = np.arange(len(rows))
    return Overview(atlas, explain(statistics, clusters, run.config.seed, strengths(run.config)), place)


def strengths(config: Config) -> dict[str, float]:
    """Strengths of the views that remedies speak of."""
    return {name: getattr(config, name) for name in ("brightness", "contrast", "saturation", "hue", "grey", "blur")}


def neighbors(unit: torch.Tensor, k: int = NEIGHBORS) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Cosine and position of the nearest others of unit rows [n, D], both [n, min(k, n - 1)]."""
    found = nearest_others(unit, unit, torch.arange(len(unit)), k)
    return found.similarity.numpy(), found.index.numpy()


def measured(kept: Path, store: ImageStore) -> NDArray[np.float32]:
    """What `measure` finds of every image of `store`, [N, 7]: from the file `kept`, if it is of these images."""
    found, images = kept_measurements(kept), _images(store)
    if found is not None and _metadata(kept).get("images") == images:
        return found
    with progress.bar("image statistics", len(store)) as update:
        found = measure(store, update)
    # A run that cannot be written gets its report all the same.
    with suppress(RunError), replacing(kept) as partial:
        save_file({"measured": torch.from_numpy(found)}, partial, {"images": images})
    return found


def kept_measurements(kept: Path) -> NDArray[np.float32] | None:
    """What was measured of every image, [N, 7], in the file `kept`; None where there is none that can be read."""
    with suppress(OSError, SafetensorError), safe_open(kept, framework="pt") as file:
        found = file.get_tensor("measured").numpy()
        if found.ndim == 2 and found.shape[1] == len(MEASURED):
            return found
    return None


def positions(kept: Path, unit: torch.Tensor, seed: int) -> NDArray[np.float32]:
    """Places [n, 2] of unit rows [n, D] on the map: those in the file `kept`, if it was made of the same rows."""
    found = kept_positions(kept, unit, seed)
    if found is not None:
        return found
    with progress.bar("map", 1) as update:
        found = project(unit.contiguous().numpy(), seed)
        update(1, "")
    with suppress(RunError), replacing(kept) as partial:
        save_file({"positions": torch.from_numpy(found)}, partial, {"features": _digest(unit, seed)})
    return found


def kept_positions(kept: Path, unit: torch.Tensor, seed: int) -> NDArray[np.float32] | None:
    """The places [n, 2] in the file `kept`, if it was made of these unit rows [n, D] with this seed."""
    with suppress(OSError, SafetensorError):
        if _metadata(kept).get("features") == _digest(unit, seed):
            with safe_open(kept, framework="pt") as file:
                return file.get_tensor("positions").numpy()
    return None


def colourings(statistics: Sequence[Statistic]) -> list[Colouring]:
    """Statistics as colours of a map, without those of too many categories to be told apart."""
    return [
        Colouring(one.name, one.values, one.categories, (one.low, one.high), _scale(one))
        if one.categories or one.known.all()
        else _in_steps(one)
        for one in statistics
        if len(one.categories) <= MOST_CATEGORIES
    ]


def _scale(one: Statistic) -> Literal["plain", "pixels", "ratio", "date", "share", "hue"]:
    return "date" if one.is_date else _SCALES.get(one.name, "plain")


def _in_steps(one: Statistic) -> Colouring:
    """A number that some images lack, as ten ranges: a colour of the scale would give these a value."""
    edges = np.unique(np.quantile(one.values[one.known], np.linspace(0, 1, BINS + 1)))
    step = np.searchsorted(edges[1:-1], one.values, side="right")
    texts = [_date(edge) if one.is_date else f"{edge:.4g}" for edge in edges.tolist()]
    ranges = tuple(f"{low} to {high}" for low, high in pairwise(texts))
    return Colouring(one.name, np.where(one.known, step, -1), ranges)


def _date(days: float) -> str:
    return datetime.fromtimestamp(days * SECONDS_OF_A_DAY, UTC).date().isoformat()


def _metadata(kept: Path) -> dict[str, str]:
    with suppress(OSError, SafetensorError), safe_open(kept, framework="pt") as file:
        return file.metadata() or {}
    return {}


def _digest(unit: torch.Tensor, seed: int) -> str:
    rows = unit.contiguous().numpy()
    return hashlib.blake2b(f"{seed} {rows.shape}".encode() + rows.tobytes(), digest_size=16).hexdigest()


def _images(store: ImageStore) -> str:
    # Which images were measured, and at which size: a digest of their names and of how large the files and the pixels are.
    words = hashlib.blake2b("\0".join(store.names).encode(errors="surrogateescape"), digest_size=16)
    for numbers in (store.sizes, store.original_sizes):
        words.update(numbers.numpy().tobytes())
    return words.hexdigest()


def of_labels(run: OpenedRun, source: Source, rows: NDArray[np.int64]) -> list[Colouring]:
    """The labels of the run, and those its training images were scored by, as colours; `rows` [n]: places in `source`, -1 for none.

    What cannot be read any more is left out: labels are optional, and the file may be gone.
    """
    found: list[Colouring] = []
    for spec in run.label_specs:
        try:
            labels = read_labels(source, spec)
        except DataError:
            continue
        if len(labels.class_names) <= MOST_CATEGORIES:
            ids = np.where(rows >= 0, labels.ids[np.maximum(rows, 0)], -1)
            name = "label" if not found else f"label ({spec if spec == 'folder' else Path(spec).name})"
            found.append(Colouring(name, ids, labels.class_names))
    return found


def of_metadata(
    record: DataRecord, source: Source, rows: NDArray[np.int64], taken: Container[str] = ()
) -> list[Statistic]:
    """The columns of the run's table of metadata, for the images `rows` [n] of `source`; those with a `taken` name say so."""
    if record.metadata is None:
        return []
    try:
        statistics, _ = read_metadata(source, Path(record.metadata))
    except DataError as error:
        progress.say(f"Note: the metadata is left out: {error}")
        return []
    named = [replace(one, name=f"{one.name} (metadata)" if one.name in taken else one.name) for one in statistics]
    return [one for one in of_rows(named, rows) if len(np.unique(one.values[one.known])) > 1]
