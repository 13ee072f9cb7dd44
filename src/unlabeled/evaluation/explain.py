"""What did it learn from? How much of the clusters each plain statistic of the images explains.

Shapes: N images, K clusters. For a number the share of its variance that lies between the clusters (R², the correlation
ratio); for a category the normalised mutual information with the clusters. Both are above zero by chance, the more so
the more clusters there are: each is given with what the same statistic reaches when it is dealt out to the images at
random, and the spread of that. Numbers are also cut into ten equally filled bins, so that all have an NMI.

Per cluster, "set apart" is twice the probability, minus one, that a random image of the cluster is nearer to the middle
of the cluster in this statistic than a random other image (the area under the curve, on a scale from 0 to 1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlabeled.data.image_statistics import Statistic
from unlabeled.errors import DataError
from unlabeled.metrics import nmi
from unlabeled.randomness import numpy_generator

PERMUTATIONS = 20
BINS = 10
SETS_APART = 0.6
"""From here on a statistic sets a cluster apart: eight of ten comparisons go its way."""
CLEARLY = 4.0
"""Standard deviations above chance that a finding needs, here and per cluster."""
NOTABLE = 0.05
"""What a statistic must explain beyond chance to be named in the summary."""
LEAST = 5
"""Images a cluster needs for a sentence."""

REMEDIES = {
    "brightness": "if that is exposure and not content, add colour jitter (--brightness 0.4 --contrast 0.4)",
    "contrast": "if that is exposure or haze and not content, add colour jitter (--brightness 0.4 --contrast 0.4)",
    "saturation": "if that is not content, add colour jitter and grey views (--saturation 0.4 --grey 0.2)",
    "colour": "if colour is not content, add colour jitter and grey views (--hue 0.1 --saturation 0.4 --grey 0.2) or train "
    "on edges (--stem sobel)",
    "sharpness": "if that is focus or compression and not content, add blur (--blur 0.5)",
    "size": "if that is only the camera or the scan, bring the files to one size before training",
    "aspect": "if that is only the format of the files, crop them alike, or widen --crop-ratio",
    "date": "look at what changed then: another camera, another light, another source",
    "folder": "look at what else the folders differ in: camera, light, source",
}
"""What to do when a statistic makes clusters that content should make."""


@dataclass(frozen=True)
class Explained:
    """How much of the clusters one statistic explains."""

    name: str
    kind: str
    explained: float
    """R² for a number, NMI for a category."""
    chance: float
    """Its mean over random permutations."""
    chance_spread: float
    """Its standard deviation over them."""
    nmi: float
    """NMI with the clusters; numbers in ten bins."""
    nmi_chance: float

    @property
    def beyond_chance(self) -> float:
        """Share of what chance leaves to be explained: 0 at chance, 1 where the statistic says all."""
        return (self.explained - self.chance) / max(1 - self.chance, 1e-12)

    @property
    def is_notable(self) -> bool:
        """Whether it is worth a word."""
        return self.beyond_chance >= NOTABLE and self.explained > self.chance + CLEARLY * self.chance_spread


@dataclass(frozen=True)
class Trait:
    """The statistic that sets a cluster apart most."""

    cluster: int
    images: int
    statistic: str
    set_apart: float
    """0: no more than any images; 1: every other image is farther away."""
    text: str
    """One sentence."""


@dataclass(frozen=True)
class Explanation:
    """What the clusters were made by, as far as plain statistics say."""

    statistics: list[Explained]
    """The most telling first."""
    traits: list[Trait]
    """Clusters that a statistic sets apart, the clearest first."""
    summary: str

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and texts."""
        rows = [asdict(one) | {"beyond_chance": one.beyond_chance} for one in self.statistics]
        return {"statistics": rows, "traits": [asdict(one) for one in self.traits], "summary": self.summary}


SETTINGS = {
    "brightness": ("brightness", "contrast"),
    "contrast": ("brightness", "contrast"),
    "saturation": ("saturation", "grey"),
    "colour": ("hue", "saturation", "grey"),
    "sharpness": ("blur",),
}
"""Settings of training that the remedy of a statistic turns on."""
_IS_ON = (
    "training already varied it ({on}), so this is content, or more than the views undo: raise that strength to see"
)


def remedy(statistic: str, settings: Mapping[str, float] | None) -> str:
    """What to do where a statistic makes clusters, given the settings the run had; nothing is advised that is on already."""
    text = REMEDIES.get(statistic, "look at what else differs along with it")
    names = SETTINGS.get(statistic, ())
    if settings is None or not names or not all(settings.get(name, 0) > 0 for name in names):
        return text
    return _IS_ON.format(on=", ".join(f"{name} {settings[name]:g}" for name in names))


def explain(
    statistics: Sequence[Statistic],
    clusters: NDArray[np.int64],
    seed: int = 0,
    settings: Mapping[str, float] | None = None,
) -> Explanation:
    """Say how much of `clusters` [N] (-1 = none) each statistic [N] explains, and which clusters one of them sets apart.

    Raises:
        DataError: a statistic speaks of other images.
    """
    for one in statistics:
        if len(one.values) != len(clusters):
            raise DataError(f"{one.name} is of {len(one.values):,} images and the clusters of {len(clusters):,}.")
    if not (clusters >= 0).any():
        raise DataError("there is no image with a cluster to explain.")
    # Metadata may be missing for some images; each statistic is judged on those that have it.
    kept = [
        _Kept(one, one.values[known], clusters[known])
        for one in statistics
        if (known := (clusters >= 0) & one.known).any()
    ]
    found = [_explained(one.statistic, one.values, one.clusters, seed) for one in kept]
    found.sort(key=lambda one: -one.beyond_chance)
    numbers = np.unique(clusters[clusters >= 0]).tolist()
    traits = [
        trait for cluster in numbers if (trait := _trait(cluster, int((clusters == cluster).sum()), kept, settings))
    ]
    traits.sort(key=lambda trait: -trait.set_apart)
    return Explanation(found, traits, _summary(found, traits))


def correlation_ratio(values: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Share of the variance of `values` [N] that lies between the groups `labels` [N]: R² of the group means."""
    centred = values - values.mean()
    total = float(centred @ centred)
    if total <= 0:
        return 0.0
    counts = np.bincount(labels)
    sums = np.bincount(labels, weights=centred)
    return float((sums[counts > 0] ** 2 / counts[counts > 0]).sum() / total)


def binned(values: NDArray[np.float64], bins: int = BINS) -> NDArray[np.int64]:
    """Numbers [N] cut into bins of nearly equal filling; equal numbers are in one bin."""
    edges = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(edges, values, side="right")


class _Kept(NamedTuple):
    """A statistic, and the n images that have a value and a cluster."""

    statistic: Statistic
    values: NDArray[np.float64]
    clusters: NDArray[np.int64]


def _explained(one: Statistic, values: NDArray[np.float64], labels: NDArray[np.int64], seed: int) -> Explained:
    is_number = one.kind == "number"
    bins = binned(values) if is_number else values.astype(np.int64)
    random = numpy_generator(seed, "explain", one.name)
    shuffles = [random.permutation(len(labels)) for _ in range(PERMUTATIONS)]
    information = nmi(bins, labels)
    by_chance = np.array([nmi(bins[order], labels) for order in shuffles])
    if not is_number:
        spread = float(by_chance.std())
        chance = float(by_chance.mean())
        return Explained(one.name, one.kind, information, chance, spread, information, chance)
    ratios = np.array([correlation_ratio(values[order], labels) for order in shuffles])
    return Explained(
        one.name,
        one.kind,
        correlation_ratio(values, labels),
        float(ratios.mean()),
        float(ratios.std()),
        information,
        float(by_chance.mean()),
    )


def _trait(cluster: int, images: int, kept: Sequence[_Kept], settings: Mapping[str, float] | None) -> Trait | None:
    best: tuple[float, Statistic, str] | None = None
    for one, values, clusters in kept:
        inside = clusters == cluster
        own, others = int(inside.sum()), int((~inside).sum())
        if own < LEAST or not others:
            continue
        # Standard deviation of the area under the curve (Mann-Whitney) where the statistic says nothing, on our scale.
        chance_spread = 2 * float(np.sqrt((own + others + 1) / (12 * own * others)))
        score, text = (_number_apart if one.kind == "number" else _category_apart)(one, values[inside], values[~inside])
        if text and score >= max(SETS_APART, CLEARLY * chance_spread) and (best is None or score > best[0]):
            best = score, one, text
    if best is None:
        return None
    score, one, text = best
    return Trait(
        cluster, images, one.name, score, f"Cluster {cluster} is {one.name}: {text}; {remedy(one.name, settings)}."
    )


def _number_apart(one: Statistic, own: NDArray[np.float64], others: NDArray[np.float64]) -> tuple[float, str]:
    middle = float(np.median(own))
    near, far = np.abs(own - middle), np.sort(np.abs(others - middle))
    # Area under the curve: how many of the others are farther than each of its own, ties by half.
    farther = len(far) - (np.searchsorted(far, near, side="left") + np.searchsorted(far, near, side="right")) / 2
    score = 2 * float(farther.mean()) / len(far) - 1
    below, above = float((others < middle).mean()), float((others > middle).mean())
    side, share = (one.high, below) if below >= above else (one.low, above)
    if share < 0.7:
        return score, f"its images are alike in {one.name}, in the middle of the range"
    # No more than the percentage says: of many images some may lie beyond and still round to a hundred.
    than = "all others" if share == 1 else f"{min(100 * share, 99):.0f} % of the others"
    return score, f"its images are {side} than {than}"


def _category_apart(one: Statistic, own: NDArray[np.float64], others: NDArray[np.float64]) -> tuple[float, str]:
    counts = np.bincount(own.astype(np.int64), minlength=len(one.categories))
    commonest = int(counts.argmax())
    share, elsewhere = counts[commonest] / len(own), float((others == commonest).mean())
    text = f"{100 * share:.0f} % of its images are '{one.categories[commonest]}', of the others {100 * elsewhere:.0f} %"
    return float(share - elsewhere), text


def _summary(found: Sequence[Explained], traits: Sequence[Trait]) -> str:
    notable = [one for one in found if one.is_notable]
    if not notable and not traits:
        return (
            "No plain statistic of the images explains the clusters: they follow something else, content where the network has "
            "learned and chance where it has not."
        )
    parts: list[str] = []
    if notable:
        names = [f"{one.name} ({100 * one.explained:.0f} %, by chance {100 * one.chance:.0f} %)" for one in notable[:3]]
        parts.append(f"The clusters have to do with {', '.join(names)}.")
    if traits:
        plural = "clusters are" if len(traits) > 1 else "cluster is"
        by = Counter(one.statistic for one in traits).most_common()
        names = ", ".join(f"{name} {times}" for name, times in by)
        parts.append(
            f"{len(traits)} {plural} set apart by one plain statistic ({names}); the clearest: {traits[0].text}"
        )
    return " ".join(parts)
