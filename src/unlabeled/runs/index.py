"""What a finished run knows about its images: features, clusters, distances, and how unlike them an image is.

Made once when training ends, stored without pickle, and asked for clusters and neighbours of images old and new.

Shapes: N images of the run, M queries, D feature dimensions, K clusters.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn.functional import normalize

from unlabeled import progress
from unlabeled.cluster.batches import LEAST_IMAGES, BatchCorrection
from unlabeled.cluster.batches import fit as fit_batches
from unlabeled.cluster.kmeans import assign, kmeans
from unlabeled.cluster.merge_tree import MergeTree, merge_tree
from unlabeled.cluster.neighbors import nearest_neighbors
from unlabeled.cluster.novelty import FALSE_ALARM_RATE, Novelty
from unlabeled.cluster.novelty import fit as fit_novelty
from unlabeled.cluster.whitening import Whitening, unchanged
from unlabeled.config import Config
from unlabeled.data.labels import read_labels
from unlabeled.data.sources import Source
from unlabeled.data.store import ImageStore
from unlabeled.distributed import all_gather_rows, shard, world_size
from unlabeled.errors import DataError, RunError, typed
from unlabeled.features import allocate
from unlabeled.randomness import seed_from
from unlabeled.writing import replacing

ROWS_AT_ONCE = 4096
"""Features scaled to length one at once."""


@dataclass(frozen=True)
class Assignment:
    """Clusters of M images: `cluster` int64 [M], `distance` to its centroid [M], `novelty` [M], see `cluster.novelty`."""

    cluster: torch.Tensor
    distance: torch.Tensor
    novelty: torch.Tensor


@dataclass(frozen=True)
class Catalogue:
    """Features of the training images and what was computed from them.

    `features` [N, D] unit rows; `clusters` int64 [N]; `distances` [N] to the centroid in the clustering space; `centroids`
    [K, d] in that space, largest cluster first. That space is the unit features themselves; in runs of 0.1.0 it is the
    whitened one. `batches` made the features of different batches comparable before all this.
    """

    features: torch.Tensor
    clusters: torch.Tensor
    distances: torch.Tensor
    centroids: torch.Tensor
    whitening: Whitening
    normalize_rows: bool
    batches: BatchCorrection | None = None
    groups: torch.Tensor | None = None
    """Group of each centroid, int64 [K], where clusters were merged; `clusters` are then groups."""

    @cached_property
    def tree(self) -> MergeTree:
        """How the clusters merge, from the most alike to one; of a catalogue that is not merged.

        Ward's criterion on the means of the unit features. In the whitened space, where the clusters were made, directions
        of little variance count as much as the largest, distances between centroids hardly differ, and nearly all images
        end in one group (measured by `benchmarks/claims/cluster_cut.py`).
        """
        sizes = torch.bincount(self.clusters, minlength=len(self.centroids))
        return merge_tree(mean_rows(self.features, self.clusters, len(sizes)).numpy(), sizes.numpy())

    def merged(self, num_clusters: int) -> Catalogue:
        """The same with fewer clusters, the most alike merged (see `tree`), largest first again.

        A distance stays the one to the centroid of the image's own, finer cluster.

        Raises:
            ConfigError: `num_clusters` is not between 1 and K.
        """
        groups = torch.from_numpy(self.tree.cut(num_clusters))
        return replace(self, clusters=groups[self.clusters], groups=groups)

    @cached_property
    def novelty(self) -> Novelty:
        """How unlike the training images an image is."""
        return fit_novelty(self.features)

    @cached_property
    def scores(self) -> torch.Tensor:
        """Novelty of the training images, [N]."""
        return self.novelty.score(self.features)

    def unlike(self, rate: float = FALSE_ALARM_RATE) -> torch.Tensor:
        """The training images that are unlike the others at this rate of false alarms, bool [N]."""
        return self.scores > self.novelty.threshold(rate)

    def prepared(self, features: torch.Tensor, batch: Sequence[str] | None = None) -> torch.Tensor:
        """Unit rows [M, D] of new features as those of training were made, batch by batch where these were corrected."""
        rows = normalize(features.float(), dim=1)
        return rows if self.batches is None else normalize(self.batches.apply(rows, batch), dim=1)

    def assign(self, features: torch.Tensor, batch: Sequence[str] | None = None) -> Assignment:
        """Cluster, distance and novelty of new images from their features [M, D]."""
        unit = self.prepared(features, batch)
        rows = self.whitening.apply(features if self.batches is None else unit, normalize_rows=self.normalize_rows)
        labels, squared = assign(rows, self.centroids)
        labels = labels if self.groups is None else self.groups[labels]
        return Assignment(labels, squared.clamp(min=0).sqrt(), self.novelty.score(unit))

    def assign_images(self, features: torch.Tensor, source: Source, store: ImageStore, batch: str | None) -> Assignment:
        """The same of features [M, D] of opened images, whose batches stand where `batch` says (see `batch_of`)."""
        if not batch or self.batches is None:
            return self.assign(features)
        given = batch_of(source, store, batch)
        known = replace(self, batches=self.batches.extended(normalize(features, dim=1), given))
        return known.assign(features, given)

    def nearest(
        self, features: torch.Tensor, k: int, batch: Sequence[str] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine similarity and index of the k nearest training images of each query, both [M, min(k, N)]."""
        found = nearest_neighbors(self.features, self.prepared(features, batch), k)
        return found.similarity, found.index

    def save(self, path: Path) -> None:
        """Write as safetensors, atomically.

        Raises:
            RunError: the disk is full or the folder cannot be written.
        """
        tensors = {
            "features": self.features,
            "clusters": self.clusters,
            "distances": self.distances,
            "centroids": self.centroids,
            "normalize_rows": torch.tensor(self.normalize_rows),
        }
        tensors |= {f"whitening.{name}": tensor for name, tensor in self.whitening.to_tensors().items()}
        if self.batches is not None:
            tensors |= {f"batches.{name}": tensor for name, tensor in self.batches.to_tensors().items()}
        try:
            with replacing(path) as partial:
                save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
        except (RunError, SafetensorError) as error:
            raise RunError(
                f"cannot write {path} ({error}); free some space, then `unlabeled resume {typed(path.parent)}` finishes the run."
            ) from None

    @staticmethod
    def load(path: Path) -> Catalogue:
        """Read back.

        Raises:
            RunError: the run has not finished, or the file is damaged.
        """
        if not path.is_file():
            failure = path.parent / "failure.json"
            if failure.is_file():
                raise RunError(f"{path.parent} has no features: {_reason(failure)}")
            raise RunError(
                f"{path.parent} has no features yet: its training has not ended; run `unlabeled resume {typed(path.parent)}`."
            )
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
            batches = _under("batches.", tensors)
            made = Catalogue(
                tensors["features"],
                tensors["clusters"],
                tensors["distances"],
                tensors["centroids"],
                Whitening.from_tensors(_under("whitening.", tensors)),
                bool(tensors["normalize_rows"]),
                BatchCorrection.from_tensors(batches) if batches else None,
            )
            _require_shapes(made)
            return made
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError, DataError) as error:
            raise RunError(
                f"{path} is damaged ({error}); delete it and run `unlabeled resume {typed(path.parent)}`, which makes it again."
            ) from None


def _reason(failure: Path) -> str:
    try:
        return str(json.loads(failure.read_text())["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return "its training broke down; train again with a lower --lr."


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _require_shapes(made: Catalogue) -> None:
    """Raise ValueError where the parts of a stored catalogue do not belong together."""
    count = len(made.features)
    if made.features.ndim != 2 or made.clusters.shape != (count,) or made.distances.shape != (count,):
        raise ValueError(f"features {list(made.features.shape)} and clusters {list(made.clusters.shape)} do not fit")
    if count and not 0 <= int(made.clusters.min()) <= int(made.clusters.max()) < len(made.centroids):
        raise ValueError(f"clusters {int(made.clusters.min())} to {int(made.clusters.max())} of {len(made.centroids)}")


def build(
    features: torch.Tensor, config: Config, batch: Sequence[str] | None = None, batches: Sequence[str] = ()
) -> Catalogue:
    """Cluster the final features. The result is the same on every rank.

    The clusters are those of k-means on features of length one: there they agree better with the true kinds than in the
    whitened space in which DeepCluster makes its targets (five sets of five, LOG.md, 2026-12-01), and they merge well.

    features: this rank's rows. batch: the batch of each of them; batches: the names of all batches.
    """
    total = len(all_gather_rows(torch.zeros(len(features), 1)))
    rectify = config.feature == "after_relu"
    correction = None
    if batch is not None:
        rows = normalize(features.float(), dim=1)
        correction = fit_batches(rows, batch, batches)
        features = normalize(correction.apply(rows, batch), dim=1)
        rectify = False  # corrected features are no outputs of a ReLU
    space = unchanged(features.shape[1], rectify=rectify)
    rows = space.apply(features, normalize_rows=True)
    found = kmeans(
        rows,
        min(config.shown_clusters, total),
        seed=seed_from(config.seed, "catalogue"),
        iterations=config.kmeans_iterations,
    )
    labels, distances = all_gather_rows(found.labels), all_gather_rows(found.distances.clamp(min=0).sqrt())
    # Largest first: cluster 0 is what the folder holds most of.
    order = torch.bincount(labels, minlength=len(found.centroids)).argsort(descending=True, stable=True)
    rank_of = torch.empty_like(order)
    rank_of[order] = torch.arange(len(order))
    unit = unit_rows(features, total)
    return Catalogue(unit, rank_of[labels], distances, found.centroids[order], space, True, correction)


def recluster(unit: torch.Tensor, config: Config, batch: Sequence[str]) -> Catalogue:
    """A catalogue of the unit features [N, D] of a finished run after batch correction; `batch`: of each image."""
    own = shard(len(unit))
    return build(unit[own], config, batch[own], sorted(set(batch)))


def batch_of(source: Source, store: ImageStore, spec: str) -> list[str]:
    """The batch of every image of a store: a folder, a value of a column or of a file; empty for none.

    Raises:
        DataError: as `read_labels`.
    """
    found = read_labels(source, spec)
    names = [*found.class_names, ""]
    return [names[k] for k in found.ids[store.index_in_source]]


def standardized(
    features: torch.Tensor, source: Source, store: ImageStore, spec: str, known: BatchCorrection | None
) -> torch.Tensor:
    """Unit rows of features [M, D], standardized batch by batch: by the statistics of `known` batches, or by their own."""
    rows, batch = normalize(features.float(), dim=1), batch_of(source, store, spec)
    if known is None:
        own = shard(len(rows))
        correction = fit_batches(rows[own], batch[own], sorted(set(batch)))
    else:
        correction = known.extended(rows, batch)
        if unknown := correction.unknown(batch):
            progress.say(
                f"Note: {progress.counted(len(unknown), 'batch')} that training did not have and with under {LEAST_IMAGES} images "
                f"are corrected by the statistics of all images ({', '.join(unknown[:3])})."
            )
    return normalize(correction.apply(rows, batch), dim=1)


def mean_rows(rows: torch.Tensor, clusters: torch.Tensor, num_clusters: int) -> torch.Tensor:
    """The mean of the rows [N, D] of each cluster, float64 [K, D]; zeros for an empty one. A part at a time."""
    sums = torch.zeros(num_clusters, rows.shape[1], dtype=torch.float64)
    for begin in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(begin, begin + ROWS_AT_ONCE)
        sums.index_add_(0, clusters[part], rows[part].double())
    sizes = torch.bincount(clusters, minlength=num_clusters).clamp(min=1)
    return sums / sizes[:, None]


def unit_rows(features: torch.Tensor, total: int) -> torch.Tensor:
    """The rows of all ranks scaled to length one, float32 [total, D], from this rank's `features` [n, D]; zero rows stay.

    In memory, or on disk where `features.allocate` puts so many. A part at a time: nothing else as large is made.
    """
    unit = allocate(total, features.shape[1])
    own = torch.arange(total)[shard(total)]
    # Some ranks have a row more than others, and all of them must gather equally often.
    for begin in range(0, -(-total // world_size()), ROWS_AT_ONCE):
        part = slice(begin, begin + ROWS_AT_ONCE)
        unit[all_gather_rows(own[part])] = all_gather_rows(normalize(features[part].float(), dim=1))
    return unit
