"""Looks once at all images of a finished run: where they lie, what is near, what plain statistics say of the clusters.

Shapes: N images of the run, n of them shown (all, up to `MOST_IMAGES`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from unlabeled import progress
from unlabeled.data.image_statistics import Statistic, image_statistics
from unlabeled.data.labels import read_labels
from unlabeled.data.sources import Source
from unlabeled.data.store import ImageStore
from unlabeled.errors import DataError, RunError
from unlabeled.evaluation.explain import Explanation, explain
from unlabeled.evaluation.knn import nearest_neighbors
from unlabeled.runfolder import replacing
from unlabeled.visualize.atlas import even_sample, repeats
from unlabeled.visualize.facts import Atlas, Colouring
from unlabeled.visualize.projection import project
from unlabeled.visualize.sprites import square

if TYPE_CHECKING:
    from unlabeled.run import Run

NEIGHBORS = 12
SIDE = 48
"""Pixels of a thumbnail before it is packed."""
MOST_CATEGORIES = 1000
"""Folders or labels that a colouring may have."""
_SCALES: dict[str, Literal["pixels", "ratio", "date", "share"]] = {
    "size": "pixels",
    "aspect": "ratio",
    "date": "date",
    "brightness": "share",
    "contrast": "share",
    "saturation": "share",
}


@dataclass(frozen=True)
class Overview:
    """What was seen."""

    atlas: Atlas
    explanation: Explanation
    place: NDArray[np.int64]
    """[N] position of each image in the atlas, -1 for one that is not shown."""


@dataclass(frozen=True)
class _Part:
    """Some images of a store, as far as their statistics go."""

    store: ImageStore
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def pixels(self, i: int) -> torch.Tensor:
        return self.store.pixels(int(self.rows[i]))

    @property
    def is_colour(self) -> bool:
        return self.store.is_colour

    @property
    def names(self) -> list[str]:
        return [self.store.names[i] for i in self.rows]

    @property
    def original_sizes(self) -> torch.Tensor:
        return self.store.original_sizes[torch.from_numpy(self.rows)]

    @property
    def index_in_source(self) -> NDArray[np.int64]:
        return self.store.index_in_source[self.rows]


def overview(run: Run, store: ImageStore) -> Overview:
    """Look at the images of `store`, the training images of `run`; reads the pixels of those shown.

    The map is kept in RUN/projection.safetensors for the features it was made of.
    """
    catalogue = run.catalogue
    rows = even_sample(len(store))
    unit = catalogue.features[torch.from_numpy(rows)].float()
    source = _source(run)
    with progress.bar("image statistics", len(rows)) as update:
        statistics = image_statistics(cast(ImageStore, _Part(store, rows)), source, update)
    thumbnails: list[NDArray[np.uint8]] = []
    digests: list[bytes] = []
    with progress.bar("thumbnails", len(rows)) as update:
        for place, row in enumerate(rows.tolist()):
            pixels = store.pixels(row).numpy()
            digests.append(hashlib.blake2b(repr(pixels.shape).encode() + pixels.tobytes(), digest_size=12).digest())
            thumbnails.append(square(pixels, min(SIDE, *pixels.shape[:2])))
            update(place + 1, "")
    similarity, index = neighbors(unit)
    clusters = catalogue.clusters[torch.from_numpy(rows)].numpy()
    shown = [_colouring(one) for one in statistics if _is_shown(one)]
    atlas = Atlas(
        thumbnails=thumbnails,
        names=[store.names[i] for i in rows],
        positions=positions(run.folder.projection, unit, run.config.seed, shown),
        clusters=clusters,
        distances=catalogue.distances[torch.from_numpy(rows)].numpy(),
        neighbours=index,
        similarities=similarity,
        repeated=repeats(thumbnails, index, digests),
        tree=catalogue.tree,
        colourings=[*_labels(run, store, source, rows), *shown],
        total=len(store),
    )
    place = np.full(len(store), -1, np.int64)
    place[rows] = np.arange(len(rows))
    return Overview(atlas, explain(statistics, clusters, run.config.seed), place)


def neighbors(unit: torch.Tensor, k: int = NEIGHBORS) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Cosine and position of the nearest others of unit rows [n, D], both [n, min(k, n - 1)]."""
    count = min(k + 1, len(unit))
    found = nearest_neighbors(unit, unit, count)
    is_self = found.index == torch.arange(len(unit))[:, None]
    # One with many exact copies may not be among those found; then the last is left out.
    is_self[:, -1] |= ~is_self.any(1)
    shape = (len(unit), count - 1)
    return found.similarity[~is_self].view(shape).numpy(), found.index[~is_self].view(shape).numpy()


def positions(kept: Path, unit: torch.Tensor, seed: int, statistics: Sequence[Colouring] = ()) -> NDArray[np.float32]:
    """Places [n, 2] of unit rows [n, D] on the map: those in the file `kept`, if it was made of the same rows.

    The statistics are kept beside them: the explorer colours by them without reading every image.
    """
    words = json.dumps([[one.name, list(one.categories), list(one.ends), one.scale] for one in statistics])
    found = kept_positions(kept, unit, seed)
    if found is not None and _metadata(kept).get("statistics", "[]") == words:
        return found
    if found is None:
        with progress.bar("map", 1) as update:
            found = project(unit.contiguous().numpy(), seed)
            update(1, "")
    tensors = {f"statistic {i}": torch.from_numpy(one.values).float() for i, one in enumerate(statistics)}
    # A run that cannot be written gets its report all the same.
    with suppress(RunError), replacing(kept) as partial:
        metadata = {"features": _digest(unit, seed), "statistics": words}
        save_file(tensors | {"positions": torch.from_numpy(found)}, partial, metadata)
    return found


def kept_positions(kept: Path, unit: torch.Tensor, seed: int) -> NDArray[np.float32] | None:
    """The places [n, 2] in the file `kept`, if it was made of these unit rows [n, D] with this seed."""
    with suppress(OSError, SafetensorError):
        if _metadata(kept).get("features") == _digest(unit, seed):
            with safe_open(kept, framework="pt") as file:
                return file.get_tensor("positions").numpy()
    return None


def kept_statistics(kept: Path) -> list[Colouring]:
    """The statistics in the file `kept`, of the images whose places are in it; none where it has none."""
    with suppress(OSError, SafetensorError, ValueError, TypeError):
        words = json.loads(_metadata(kept).get("statistics", "[]"))
        with safe_open(kept, framework="pt") as file:
            return [
                Colouring(
                    name, file.get_tensor(f"statistic {i}").double().numpy(), tuple(categories), (low, high), scale
                )
                for i, (name, categories, (low, high), scale) in enumerate(words)
            ]
    return []


def _metadata(kept: Path) -> dict[str, str]:
    with suppress(OSError, SafetensorError), safe_open(kept, framework="pt") as file:
        return file.metadata() or {}
    return {}


def _digest(unit: torch.Tensor, seed: int) -> str:
    rows = unit.contiguous().numpy()
    return hashlib.blake2b(f"{seed} {rows.shape}".encode() + rows.tobytes(), digest_size=16).hexdigest()


def _source(run: Run) -> Source | None:
    try:
        return run.record.source()
    except DataError:
        return None


def _labels(run: Run, store: ImageStore, source: Source | None, rows: NDArray[np.int64]) -> list[Colouring]:
    if source is None or run.record.labels is None:
        return []
    try:
        found = read_labels(source, run.record.labels)
    except DataError:
        return []  # they were optional at training, and the file may be gone
    if len(found.class_names) > MOST_CATEGORIES:
        return []
    return [Colouring("label", found.ids[store.index_in_source[rows]], found.class_names)]


def _is_shown(one: Statistic) -> bool:
    return len(one.categories) <= MOST_CATEGORIES


def _colouring(one: Statistic) -> Colouring:
    return Colouring(one.name, one.values, one.categories, (one.low, one.high), _SCALES.get(one.name, "plain"))
