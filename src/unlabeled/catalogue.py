"""What a finished run knows about its images: features, clusters, distances, and what "unlike anything seen" means.

Made once when training ends, stored without pickle, and asked for clusters and neighbours of images old and new.

Shapes: N images of the run, M queries, D feature dimensions, K clusters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn.functional import normalize

from unlabeled.cluster.kmeans import assign, kmeans
from unlabeled.cluster.merge_tree import MergeTree, merge_tree
from unlabeled.cluster.whitening import Whitening
from unlabeled.config import Config
from unlabeled.distributed import all_gather_rows, shard, world_size
from unlabeled.errors import RunError, typed
from unlabeled.evaluation.knn import nearest_neighbors, nearest_others
from unlabeled.features import allocate
from unlabeled.methods.clusterer import fit_space
from unlabeled.randomness import seed_from
from unlabeled.runfolder import replacing

REFERENCE_ROWS = 20_000
"""Training images, evenly spaced, that an image is compared with to tell whether it is like anything seen."""

ROWS_AT_ONCE = 4096
"""Features scaled to length one at once."""

FLOAT_NOISE = 2e-3
"""Distances of unit rows below this are rounding: the same picture computed twice."""

NEIGHBORS = 5
"""How many nearest training images decide whether an image is like anything seen."""

FAMILIAR_SHARE = 0.99
"""The flag is set where an image is farther from its neighbours than this share of images of the kind seen in training."""


@dataclass(frozen=True)
class Assignment:
    """Clusters of M images: `cluster` int64 [M], `distance` to its centroid [M], `unlike` anything seen, bool [M]."""

    cluster: torch.Tensor
    distance: torch.Tensor
    unlike: torch.Tensor


@dataclass(frozen=True)
class Catalogue:
    """Features of the training images and what was computed from them.

    `features` [N, D] unit rows; `clusters` int64 [N]; `distances` [N] to the centroid in the clustering space; `centroids`
    [K, d] in that space, largest cluster first; `spread` [N] mean distance to the `NEIGHBORS` nearest others of the reference.
    """

    features: torch.Tensor
    clusters: torch.Tensor
    distances: torch.Tensor
    centroids: torch.Tensor
    spread: torch.Tensor
    whitening: Whitening
    normalize_rows: bool
    groups: torch.Tensor | None = None
    """Group of each centroid, int64 [K], where clusters were merged; `clusters` are then groups."""

    @cached_property
    def tree(self) -> MergeTree:
        """How the clusters merge, from the most alike to one; of a catalogue that is not merged."""
        return merge_tree(self.centroids.numpy(), torch.bincount(self.clusters, minlength=len(self.centroids)).numpy())

    def merged(self, num_clusters: int) -> Catalogue:
        """The same with fewer clusters, the most alike merged (see `tree`), largest first again.

        A distance stays the one to the centroid of the image's own, finer cluster.

        Raises:
            ConfigError: `num_clusters` is not between 1 and K.
        """
        groups = torch.from_numpy(self.tree.cut(num_clusters))
        return replace(self, clusters=groups[self.clusters], groups=groups)

    @property
    def familiar_distance(self) -> float:
        """Mean neighbour distance beyond which an image counts as unlike anything seen, by the training images themselves."""
        # The rank that a new image of the same kind exceeds once in a hundred times: among n + 1 images it is equally likely
        # to have any rank (conformal prediction; Vovk et al. 2005, section 2.2).
        rank = math.ceil(FAMILIAR_SHARE * (len(self.spread) + 1))
        return max(float(self.spread.sort().values[min(rank, len(self.spread)) - 1]), FLOAT_NOISE)

    @property
    def unlike(self) -> torch.Tensor:
        """The training images that are unlike all others, bool [N]."""
        return self.spread > self.familiar_distance

    def assign(self, features: torch.Tensor) -> Assignment:
        """Cluster, distance and flag of new images from their features [M, D]."""
        labels, squared = assign(self.whitening.apply(features, normalize_rows=self.normalize_rows), self.centroids)
        labels = labels if self.groups is None else self.groups[labels]
        found = nearest_neighbors(self.features[reference_rows(len(self.features))], features, NEIGHBORS)
        spread = distance_of(found.similarity).mean(1)
        return Assignment(labels, squared.clamp(min=0).sqrt(), spread > self.familiar_distance)

    def nearest(self, features: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine similarity and index of the k nearest training images of each query, both [M, min(k, N)]."""
        found = nearest_neighbors(self.features, features, k)
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
            "spread": self.spread,
            "normalize_rows": torch.tensor(self.normalize_rows),
        }
        tensors |= {f"whitening.{name}": tensor for name, tensor in self.whitening.to_tensors().items()}
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
            raise RunError(
                f"{path.parent} has no features yet: its training has not ended; run `unlabeled resume {typed(path.parent)}`."
            )
        prefix = "whitening."
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
            fitted = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            return Catalogue(
                tensors["features"],
                tensors["clusters"],
                tensors["distances"],
                tensors["centroids"],
                tensors["spread"],
                Whitening.from_tensors(fitted),
                bool(tensors["normalize_rows"]),
            )
        except (OSError, SafetensorError, KeyError) as error:
            raise RunError(
                f"{path} is damaged ({error}); delete it and run `unlabeled resume {typed(path.parent)}`, which makes it again."
            ) from None


def build(features: torch.Tensor, config: Config) -> Catalogue:
    """Cluster the final features once more and calibrate. `features`: this rank's rows; the result is the same on every rank."""
    fitted = fit_space(features, config, seed_from(config.seed, "catalogue"))
    rows = fitted.apply(features, normalize_rows=config.normalize_rows)
    total = len(all_gather_rows(torch.zeros(len(rows), 1)))
    found = kmeans(
        rows,
        min(config.num_clusters, total),
        seed=seed_from(config.seed, "catalogue"),
        iterations=config.kmeans_iterations,
    )
    labels, distances = all_gather_rows(found.labels), all_gather_rows(found.distances.clamp(min=0).sqrt())
    # Largest first: cluster 0 is what the folder holds most of.
    order = torch.bincount(labels, minlength=len(found.centroids)).argsort(descending=True, stable=True)
    rank_of = torch.empty_like(order)
    rank_of[order] = torch.arange(len(order))
    unit = unit_rows(features, total)
    spread = all_gather_rows(neighbor_spread(unit, shard(total)))
    return Catalogue(unit, rank_of[labels], distances, found.centroids[order], spread, fitted, config.normalize_rows)


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


def reference_rows(total: int) -> torch.Tensor:
    """Evenly spaced rows out of `total`, int64, all of them up to `REFERENCE_ROWS`: the work per image stays bounded."""
    count = min(total, REFERENCE_ROWS)
    return torch.arange(count) * total // count


def neighbor_spread(unit: torch.Tensor, rows: slice) -> torch.Tensor:
    """Mean distance of the n images `rows` to their `NEIGHBORS` nearest others in the reference, [n].

    From the unit features [N, D] of all images. With one image in all, its distance to others is 0.
    """
    reference = reference_rows(len(unit))
    asked = unit[rows]
    k = min(NEIGHBORS, len(reference) - 1)
    if k < 1 or not len(asked):
        return torch.zeros(len(asked))
    place = torch.full((len(unit),), -1)
    place[reference] = torch.arange(len(reference))
    return distance_of(nearest_others(unit[reference], asked, place[rows], k).similarity).mean(1)


def distance_of(cosine: torch.Tensor) -> torch.Tensor:
    """Euclidean distance of unit vectors with this cosine."""
    return (2 - 2 * cosine).clamp(min=0).sqrt()
