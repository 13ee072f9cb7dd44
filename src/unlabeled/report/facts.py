"""What a report says, as plain values: numbers, names and thumbnails, nothing of HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from unlabeled.cluster.merge_tree import MergeTree
    from unlabeled.evaluation.explain import Explanation
    from unlabeled.training.health import Verdict

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Cluster:
    """One cluster of the gallery: its number, how many images it has and some of them, most typical first.

    `thumbnails` are uint8 H×W or H×W×C of any size, `names` their file names in the same order (may be empty), and
    `tightness` the mean distance of the cluster's images to its centre, smaller is tighter (None if not known).
    """

    id: int
    size: int
    thumbnails: Sequence[np.ndarray]
    names: Sequence[str] = ()
    tightness: float | None = None
    rows: Sequence[int] = ()
    """Where the thumbnails' images are in the atlas, -1 for one that is not in it (may be empty)."""
    outliers: Sequence[np.ndarray] = ()
    """Its images farthest from the centre, farthest first, shown apart."""
    outlier_names: Sequence[str] = ()
    outlier_rows: Sequence[int] = ()
    nearest: Sequence[int] = ()
    """Numbers of the clusters most like it."""
    stability: float | None = None
    """How nearly it comes back when parts of the images are clustered again, 0 to 1 (`evaluation.stability`)."""


@dataclass(frozen=True)
class Colouring:
    """Something the map can be coloured by: one value for each image of the atlas."""

    name: str
    values: np.ndarray
    """[N] numbers, or positions in `categories`, -1 for none."""
    categories: Sequence[str] = ()
    """Names of the categories; none for numbers."""
    ends: tuple[str, str] = ("", "")
    """What an image with a small and one with a large number is, "darker" and "brighter"."""
    scale: Literal["plain", "share", "pixels", "ratio", "date", "hue"] = "plain"
    """What a number means: as it is; a share of 1; log2 of a count of pixels; log2 of width over height; days since 1970.
    `hue`: the categories are names of colours, and shown in them."""


@dataclass(frozen=True)
class Atlas:
    """Every image that the page can show, and how they lie. N images, at most 65,535, in any order, equal everywhere."""

    thumbnails: Sequence[np.ndarray]
    """uint8 pictures of any size."""
    names: Sequence[str]
    positions: np.ndarray
    """[N, 2] on the map, in any unit."""
    clusters: np.ndarray
    """[N] cluster of each."""
    distances: np.ndarray
    """[N] distance to the centre of its cluster."""
    neighbours: np.ndarray
    """[N, k] positions of the most similar others, best first, k at most 16."""
    similarities: np.ndarray
    """[N, k] cosines."""
    repeated: np.ndarray
    """[N, k] whether that neighbour is the same picture: 2 pixel by pixel, 1 nearly, 0 not."""
    tree: MergeTree
    """How the clusters merge."""
    colourings: Sequence[Colouring] = ()
    total: int = 0
    """Images of the run, where the atlas holds only some of them."""


@dataclass(frozen=True)
class Neighbours:
    """A sample image and the images nearest to it, nearest first, with their cosine similarities and names."""

    query: np.ndarray
    query_name: str
    thumbnails: Sequence[np.ndarray]
    similarities: Sequence[float]
    names: Sequence[str] = ()


@dataclass(frozen=True)
class Excited:
    """One filter and the images that excite it most, most first."""

    unit: int
    """Number of the filter in its stage."""
    thumbnails: Sequence[np.ndarray]
    names: Sequence[str]
    rows: Sequence[int]
    """Where the images are in the atlas, -1 for one that is not in it."""


@dataclass(frozen=True)
class Inside:
    """What the network looks for, as far as pictures say, trained and before it was trained. F filters of h × w pixels."""

    filters: np.ndarray
    """uint8 [F, h, w, 3], the first layer as tiles."""
    untrained_filters: np.ndarray
    """The same before training."""
    stem: str
    """Name of the fixed stem that the filters were composed with, empty for filters on the image itself."""
    stage: str
    """Name of the last stage."""
    num_filters: int
    """Filters of that stage."""
    num_dead: int
    """Those that none of the images excites."""
    excited: Sequence[Excited]
    """Some of the others."""
    num_images: int
    """Images looked at: those of the run, or an even sample."""
    spectrum: Mapping[str, Sequence[float]]
    """Share of the features' variance in the first 1, 2, 3 … principal directions, by network."""
    edge_ratios: Mapping[str, Sequence[float]] = field(default_factory=dict[str, Sequence[float]])
    """Of each class the share of neighbour edges that stay in it, by network; empty without labels."""
    edge_chance: float = 0.0
    """That share if neighbours were dealt out at random."""
    edge_neighbors: int = 0
    """Neighbours of an image that were counted."""


@dataclass(frozen=True)
class ReportFacts:
    """Everything a report says. Only `title` and `verdict` are needed; what is empty is left out of the page."""

    title: str
    """Name of the run."""
    verdict: Verdict
    """From `health.diagnose`."""
    place: str = ""
    """How commands name its folder; as the title does where not given."""
    subtitle: str = ""
    """One line under the name: when, where, which data."""
    run: Mapping[str, Mapping[str, Value]] = field(default_factory=dict[str, Mapping[str, Value]])
    """Run facts: section (data, method, network, time, versions …) → fact → value."""
    atlas: Atlas | None = None
    """Map, neighbours and merging of clusters."""
    explanation: Explanation | None = None
    """What the clusters were made by, as far as plain statistics say."""
    inside: Inside | None = None
    """What the network looks for."""
    history: Sequence[Mapping[str, Any]] = ()
    """Records of `metrics.jsonl`. Read are epoch, loss, chance_loss, nmi_previous, moved_share, size_entropy (of 1),
    empty_clusters, largest_share, effective_rank and knn."""
    cluster_sizes: Sequence[int] = ()
    """Images in every cluster, empty ones too; taken from `clusters` if empty."""
    clusters: Sequence[Cluster] = ()
    neighbours: Sequence[Neighbours] = ()
    num_images: int | None = None
    """Images trained on; the sum of the cluster sizes where not given."""
    labels: str = "given"
    """The labels the scores are by: `folder`, or the name of a file."""
    consistency: Mapping[str, float] | None = None
    """`trained`, `untrained`, `chance` and `images` of `evaluation.consistency`."""
    notes: Sequence[str] = ()
    """Sentences on what was left out, replaced or clipped while the images were read."""
    skipped: Sequence[tuple[str, str]] = ()
    """Files that could not be read: (name, reason)."""
    method: str = ""
    """Name of the method, which decides what the curves are said to show; empty if not known."""
    rewritten: Sequence[int] | None = None
    """Epochs, from 1, that began with a clustering or in which images and codes were matched; None if not known."""
    scores: Mapping[str, float] = field(default_factory=dict[str, float])
    """Fractions to compare, in this order, the run's own last: {"raw pixels": .34, "untrained network": .57, …}."""
    baseline: str = "untrained network"
    """Key of `scores` that the run's own is held against."""
    start: str = ""
    """What the run began from, in words; empty for random weights."""
    num_tested: int = 0
    """Images that the scores were measured on; 0 if not known."""
    score_name: str = "kNN accuracy"
    next_steps: Sequence[str] = ()
    """What to try next, one sentence each."""
    commands: Sequence[tuple[str, str]] = ()
    """Command lines to go on with: (command, what it does)."""
    generator: str = "unlabeled"
    """Who made the page, for its last line: name and version."""
