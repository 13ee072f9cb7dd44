"""Numbers that describe labels, rankings, boxes and clusterings; all in float64, all fractions.

Shapes: N items, C classes, K clusters, k neighbors of an item, M entries of a ranking.

"Average precision" is four different numbers in this literature. Each has a name here (`Definition`), and a function
that needs one says which is its default and why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from unlabeled.errors import DataError, unknown_name

if TYPE_CHECKING:
    import torch

    Array = NDArray[Any] | torch.Tensor

Average = Literal["geometric", "arithmetic"]
Definition = Literal["step", "11-point", "envelope", "trapezoid"]
"""Area under precision over recall: `step` weights the precision at each threshold by the recall gained there
(scikit-learn since 0.19); `11-point` averages the best precision at recalls 0, .1 ... 1 (VOC 2007); `envelope` is the
area under the best precision at or beyond each recall (VOC since 2010); `trapezoid` joins the points by straight lines
(scikit-learn before 0.19, and the Oxford Buildings program)."""
IGNORED = 255
"""Label of what the VOC annotations leave undecided."""


def nmi(a: Array, b: Array, average: Average = "geometric") -> float:
    """Normalised mutual information of two labellings [N]: I(A; B) over the mean of H(A) and H(B).

    The geometric mean, I / sqrt(H(A) H(B)), is the definition of the DeepCluster paper (section 4.1); libraries use the
    arithmetic one today. 1 for the same partition under other names (also if both have a single part), 0 if only one
    of the two has a single part. Items labelled -1 in either are left out.
    """
    first, second = _both_labelled(a, b)
    mutual, entropy_a, entropy_b = _information(first, second)
    if entropy_a == 0 or entropy_b == 0:
        return float(entropy_a == entropy_b)
    mean = np.sqrt(entropy_a * entropy_b) if average == "geometric" else (entropy_a + entropy_b) / 2
    return float(min(max(mutual / mean, 0.0), 1.0))


def nmi_by_chance(a: Array, b: Array, *, draws: int = 10, seed: int = 0) -> float:
    """Mean geometric NMI of `b` with random permutations of `a` [N]: what clusters of these sizes reach without looking."""
    first, second = _both_labelled(a, b)
    random = np.random.default_rng(seed)
    return float(np.mean([nmi(random.permutation(first), second) for _ in range(draws)]))


def adjusted_nmi(a: Array, b: Array) -> float:
    """NMI adjusted for chance [N] (Vinh, Epps and Bailey 2010, arithmetic mean): 0 on average for random clusters."""
    from sklearn.metrics import adjusted_mutual_info_score

    first, second = _both_labelled(a, b)
    return float(adjusted_mutual_info_score(second, first))


def cluster_accuracy(clusters: Array, labels: Array) -> float:
    """Share of images in the class that their cluster was matched with, one cluster to one class, the best matching.

    Items labelled -1 in either are left out. With more clusters than classes most clusters match none.
    """
    from scipy.optimize import linear_sum_assignment

    first, second = _both_labelled(clusters, labels)
    table = np.zeros((int(first.max()) + 1, int(second.max()) + 1), np.int64)
    np.add.at(table, (first, second), 1)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / len(first))


def mutual_information(a: Array, b: Array) -> float:
    """Mutual information of two labellings [N], nats; items labelled -1 in either are left out."""
    return _information(*_both_labelled(a, b))[0]


def _information(a: NDArray[np.int64], b: NDArray[np.int64]) -> tuple[float, float, float]:
    # I(A; B), H(A), H(B) in nats, from the occupied cells only: 10,000 x 10,000 clusters would not fit as a table.
    count_b = int(b.max()) + 1
    cells, joint = np.unique(a * count_b + b, return_counts=True)
    counts_a, counts_b = np.bincount(a), np.bincount(b)
    total = len(a)
    logs = (
        np.log(joint / total) - np.log(counts_a[cells // count_b] / total) - np.log(counts_b[cells % count_b] / total)
    )
    return float((joint / total * logs).sum()), entropy(counts_a), entropy(counts_b)


def entropy(counts: Array) -> float:
    """Entropy of the distribution proportional to `counts`, nats."""
    values = as_array(counts).astype(np.float64).ravel()
    shares = values[values > 0] / values.sum()
    return float(-(shares * np.log(shares)).sum()) + 0.0


def relative_entropy_of_sizes(sizes: Array) -> float:
    """Entropy of cluster sizes [K] over ln K: 1 if all clusters are equally large, 0 if one holds everything."""
    values = as_array(sizes).ravel()
    return entropy(values) / float(np.log(len(values))) if len(values) > 1 else 1.0


def purity(a: Array, b: Array) -> float:
    """Sum over the parts of `a` [N] of their largest overlap with a part of `b` [N], over the number of items.

    Items labelled -1 in either are left out.
    """
    first, second = _both_labelled(a, b)
    width = int(second.max()) + 1
    cells, joint = np.unique(first * width + second, return_counts=True)
    largest = np.zeros(int(first.max()) + 1, dtype=np.int64)
    np.maximum.at(largest, cells // width, joint)
    return float(largest.sum() / len(first))


@dataclass(frozen=True)
class EdgeRatio:
    """Share of nearest-neighbor edges that stay inside a class."""

    per_class: NDArray[np.float64]
    """[C], nan for a class that no item has."""
    mean: float
    """Mean over the classes that items have."""


def edge_ratio(neighbors: Array, labels: Array) -> EdgeRatio:
    """Of the directed edges i -> neighbors[i] [N, k] that leave a class of `labels` [N], the share that ends in it.

    The thesis, section 4.1, with k = 10 and Euclidean neighbors of the features, the item itself not among them. Items
    labelled -1 belong to no class: edges from them are not counted, edges to them leave the class.
    """
    ids, classes = as_array(neighbors), as_array(labels).astype(np.int64)
    if ids.ndim != 2 or len(ids) != len(classes) or not (classes >= 0).any():
        raise DataError(
            f"the edge ratio needs the neighbors [N, k] of N labelled items, got neighbors {ids.shape} and "
            f"{int((classes >= 0).sum())} labels for {len(classes)} items."
        )
    known = classes >= 0
    inside = (classes[ids] == classes[:, None]).sum(axis=1)
    leaving = np.bincount(classes[known]) * ids.shape[1]
    staying = np.bincount(classes[known], weights=inside[known])
    ratios = np.divide(staying, leaving, out=np.full(len(leaving), np.nan), where=leaving > 0)
    return EdgeRatio(ratios, float(np.nanmean(ratios)))


def topk_accuracy(scores: Array, labels: Array, k: int = 1) -> float:
    """Share of rows of `scores` [N, C] whose label [N] is among the k best; of equal scores the smaller class comes
    first.

    A row with a score that is not a number counts as wrong.
    """
    values, wanted = as_array(scores).astype(np.float64), as_array(labels).astype(np.int64)
    if values.ndim != 2 or wanted.shape != values.shape[:1] or not len(wanted):
        raise DataError(f"scores [N, C] and labels [N] must fit, got {values.shape} and {wanted.shape}.")
    own = np.take_along_axis(values, wanted[:, None], axis=1)
    is_before = np.arange(values.shape[1]) < wanted[:, None]
    rank = ((values > own) | ((values == own) & is_before)).sum(axis=1)
    return float(((rank < k) & ~np.isnan(values).any(axis=1)).mean())


def average_precision(relevant: Array, scores: Array, definition: Definition = "step") -> float:
    """Average precision of a ranking of N items by `scores` [N], the higher the earlier; `relevant` [N] is 0 or 1.

    `step` and `trapezoid` take items of equal score together; the others, as the VOC programs, one after the other in
    the order given. nan if nothing is relevant.
    """
    truth, values = as_array(relevant).astype(bool).ravel(), as_array(scores).ravel()
    if truth.shape != values.shape:
        raise DataError(f"every item needs one score, got {len(truth)} items and {len(values)} scores.")
    order = np.argsort(-values, kind="stable")
    hits = np.cumsum(truth[order])
    if definition in ("step", "trapezoid"):
        ends = np.flatnonzero(np.append(np.diff(values[order]) != 0, True)) if len(values) else order
    else:
        ends = np.arange(len(values))
    total = int(truth.sum())
    return area_under_precision(hits[ends] / max(total, 1), hits[ends] / (ends + 1), definition) if total else math.nan


def area_under_precision(recall: Array, precision: Array, definition: Definition) -> float:
    """Average precision from the points [M] of a curve, recall rising; see `Definition`."""
    recalls, precisions = as_array(recall).astype(np.float64), as_array(precision).astype(np.float64)
    if definition == "step":
        return float((np.diff(recalls, prepend=0.0) * precisions).sum())
    if definition == "trapezoid":
        # The curve begins at recall 0 with precision 1 and ends where everything has been found.
        last = min(int(np.searchsorted(recalls, recalls[-1])), len(recalls) - 1) + 1
        x, y = np.append(0.0, recalls[:last]), np.append(1.0, precisions[:last])
        return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())
    # Best precision at or beyond each recall.
    best = np.append(np.maximum.accumulate(precisions[::-1])[::-1], 0.0)
    if definition == "envelope":
        return float((np.diff(np.append(recalls, 1.0), prepend=0.0) * best).sum())
    if definition == "11-point":
        return float(best[np.searchsorted(recalls, np.arange(0.0, 1.1, 0.1))].mean())
    raise DataError(unknown_name("definition of average precision", definition, get_args(Definition)))


def voc_classification_ap(relevant: Array, scores: Array, definition: Definition = "step") -> NDArray[np.float64]:
    """Average precision of each class: `relevant` [C, N] of 0, 1 and 255 = ignored, `scores` [C, N]; result [C].

    The default is what the published VOC 2007 classification numbers of DeepCluster are, not the 11-point metric. Equal
    scores count against the classifier: 1e-5 is taken from those of relevant images, as that evaluation does.
    """
    truth, values = as_array(relevant), as_array(scores).astype(np.float64)
    if truth.shape != values.shape or truth.ndim != 2:
        raise DataError(f"every image needs one score for each class, got {truth.shape} and {values.shape}.")
    result = np.empty(len(truth))
    for i, (row, score) in enumerate(zip(truth, values, strict=True)):
        kept = row != IGNORED
        result[i] = average_precision(row[kept], score[kept] - 1e-5 * row[kept], definition)
    return result


@dataclass(frozen=True)
class Detection:
    """The precision-recall curve of a class of boxes, and its average precision."""

    recall: NDArray[np.float64]
    """After each detection in falling order of score [M]."""
    precision: NDArray[np.float64]
    """Likewise [M]."""
    average_precision: float
    """By the definition asked for; nan if there is no object that counts."""


def detection_ap(
    truth: Array,
    truth_image: Array,
    difficult: Array,
    boxes: Array,
    image: Array,
    scores: Array,
    *,
    overlap: float = 0.5,
    definition: Definition = "11-point",
) -> Detection:
    """Average precision of the detections of one class, matched to the objects as the VOC 2007 protocol does.

    truth [G, 4] and boxes [M, 4] as (x1, y1, x2, y2), both corners inside the box; truth_image [G] and image [M] say
    in which image; difficult [G] objects neither count nor cost. In falling order of score [M], a detection belongs to
    the object of its image that it overlaps most; it is right if intersection over union is above `overlap` and the
    object is not taken yet. The default definition is that of VOC 2007.
    """
    objects, found = as_array(truth).astype(np.float64), as_array(boxes).astype(np.float64)
    objects_image, is_difficult = as_array(truth_image), as_array(difficult).astype(bool)
    found_image, is_taken = as_array(image), np.zeros(len(objects), dtype=bool)
    right, wrong = np.zeros(len(found)), np.zeros(len(found))
    for rank, i in enumerate(np.argsort(-as_array(scores), kind="stable")):
        here = np.flatnonzero(objects_image == found_image[i])
        ratios = _intersection_over_union(found[i], objects[here])
        best = int(here[ratios.argmax()]) if len(here) else -1
        if best < 0 or ratios.max() <= overlap:
            wrong[rank] = 1
        elif not is_difficult[best]:
            right[rank], wrong[rank] = not is_taken[best], is_taken[best]
            is_taken[best] = True
    total = int((~is_difficult).sum())
    hits, misses = right.cumsum(), wrong.cumsum()
    recall, precision = hits / max(total, 1), hits / np.maximum(hits + misses, 1)
    area = area_under_precision(recall, precision, definition) if total and len(found) else (0.0 if total else math.nan)
    return Detection(recall, precision, area)


def _intersection_over_union(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    # Corners are pixels that belong to the box, hence the + 1.
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]) + 1
    shared = np.clip(sides, 0, None).prod(axis=1)
    return shared / ((box[2:] - box[:2] + 1).prod() + (others[:, 2:] - others[:, :2] + 1).prod(axis=1) - shared)


def confusion(truth: Array, predicted: Array, num_classes: int) -> NDArray[np.int64]:
    """Counts [C, C] of pixels or items by true class (row) and predicted class; true labels outside 0..C-1 are left
    out."""
    a, b = as_array(truth).astype(np.int64).ravel(), as_array(predicted).astype(np.int64).ravel()
    if a.shape != b.shape:
        raise DataError(f"every pixel needs one prediction, got {len(a)} pixels and {len(b)} predictions.")
    counted = (a >= 0) & (a < num_classes)
    a, b = a[counted], b[counted]
    if len(b) and not (b.min() >= 0 and b.max() < num_classes):
        raise DataError(f"predictions must lie in 0..{num_classes - 1}, got {b.min()}..{b.max()}.")
    return np.bincount(a * num_classes + b, minlength=num_classes**2).reshape(num_classes, num_classes)


@dataclass(frozen=True)
class Segmentation:
    """Scores of a confusion matrix; means are over the classes that occur."""

    pixel_accuracy: float
    mean_accuracy: float
    iou: NDArray[np.float64]
    """Intersection over union of each class [C], nan for one that neither occurs nor is predicted."""
    mean_iou: float
    weighted_iou: float
    """Mean of `iou` weighted by how often each class occurs."""


def segmentation_scores(counts: Array) -> Segmentation:
    """Scores of a confusion matrix [C, C] as of `confusion` (Long et al., "Fully Convolutional Networks", section
    5)."""
    table = as_array(counts).astype(np.float64)
    right, occurring = np.diag(table), table.sum(axis=1)
    union = occurring + table.sum(axis=0) - right
    recall = np.divide(right, occurring, out=np.full(len(table), np.nan), where=occurring > 0)
    iou = np.divide(right, union, out=np.full(len(table), np.nan), where=union > 0)
    share = occurring / occurring.sum()
    return Segmentation(
        float(right.sum() / occurring.sum()),
        float(np.nanmean(recall)),
        iou,
        float(np.nanmean(iou)),
        float((share * np.nan_to_num(iou)).sum()),
    )


def retrieval_ap(ranking: Array, positive: Array, junk: Array) -> float:
    """Average precision of one query as the Oxford Buildings program computes it: by trapezoids, junk images skipped.

    `ranking` [M] holds image ids, best first, and may be cut short; `positive` those to be found ("good" and "ok"
    together); `junk` those that are neither right nor wrong. nan if nothing is to be found.
    """
    wanted = np.unique(as_array(positive))
    entries = as_array(ranking).ravel()
    entries = entries[~np.isin(entries, as_array(junk))]
    is_hit = np.isin(entries, wanted)
    if not len(wanted):
        return math.nan
    hits = is_hit.cumsum()
    precision = hits / np.arange(1, len(entries) + 1)
    # Recall rises by 1 / |wanted| at each hit; the precision before the first entry is 1.
    before = np.append(1.0, precision[:-1]) if len(entries) else precision
    return float(((precision + before)[is_hit] / 2).sum() / len(wanted))


def as_array(values: Array) -> NDArray[Any]:
    """A NumPy array of an array or of a tensor on any device."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)  # pyright: ignore


def _both_labelled(a: Array, b: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    first, second = as_array(a).astype(np.int64).ravel(), as_array(b).astype(np.int64).ravel()
    if len(first) != len(second):
        raise DataError(f"two labellings must speak of the same items, got {len(first)} and {len(second)} labels.")
    both = (first >= 0) & (second >= 0)
    if not both.any():
        raise DataError(f"two labellings need an item that both label, got none among {len(first)}.")
    return first[both], second[both]
