from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from unlabeled import metrics
from unlabeled.errors import DataError
from unlabeled.randomness import numpy_generator

RANDOM = numpy_generator(0, "metrics")
A, B = RANDOM.integers(12, size=500), RANDOM.integers(30, size=500)
B[:300] = A[:300]


@pytest.mark.parametrize("average", ["geometric", "arithmetic"])
def test_nmi_is_that_of_the_library(average: str) -> None:
    wanted = reference.normalized_mutual_info_score(A, B, average_method=average)
    assert metrics.nmi(A, B, average) == pytest.approx(wanted, abs=1e-12)
    assert metrics.nmi(B, torch.from_numpy(A), average) == pytest.approx(wanted, abs=1e-12)
    assert metrics.mutual_information(A, B) == pytest.approx(reference.mutual_info_score(A, B), abs=1e-12)


def test_nmi_does_not_see_names() -> None:
    names = RANDOM.permutation(1000)
    assert metrics.nmi(names[A], B) == pytest.approx(metrics.nmi(A, B), abs=1e-12)
    assert metrics.nmi(A, names[A]) == pytest.approx(1, abs=1e-12)


def test_nmi_at_the_extremes() -> None:
    one = np.zeros(500, dtype=int)
    assert metrics.nmi(one, one) == 1
    assert metrics.nmi(one, A) == 0
    missing = np.where(np.arange(500) < 100, -1, A)
    assert metrics.nmi(missing, B) == pytest.approx(metrics.nmi(A[100:], B[100:]), abs=1e-12)
    with pytest.raises(DataError, match="500 and 3"):
        metrics.nmi(A, [1, 2, 3])
    with pytest.raises(DataError, match="got none among 2"):
        metrics.nmi(np.array([-1, 0]), np.array([0, -1]))


def test_entropy_and_purity_by_hand() -> None:
    assert metrics.entropy([1, 1, 1, 1, 0]) == pytest.approx(math.log(4))
    assert metrics.relative_entropy_of_sizes([5, 5, 5]) == pytest.approx(1)
    assert metrics.relative_entropy_of_sizes([9, 0, 0]) == 0
    assert metrics.relative_entropy_of_sizes([9]) == 1
    assert metrics.purity(np.array([0, 0, 0, 1, 1]), np.array([4, 4, 2, 2, 2])) == pytest.approx(4 / 5)


def test_edge_ratio_is_what_a_loop_counts() -> None:
    neighbors, labels = RANDOM.integers(60, size=(60, 7)), RANDOM.integers(-1, 6, size=60)
    labels[labels == 3] = 4
    inside, leaving = np.zeros(6), np.zeros(6)
    for i in range(60):
        for j in neighbors[i]:
            if labels[i] >= 0:
                leaving[labels[i]] += 1
                inside[labels[i]] += labels[i] == labels[j]
    found = metrics.edge_ratio(torch.from_numpy(neighbors), labels)
    assert math.isnan(found.per_class[3])
    kept = leaving > 0
    np.testing.assert_allclose(found.per_class[kept], (inside / np.maximum(leaving, 1))[kept])
    assert found.mean == pytest.approx((inside[kept] / leaving[kept]).mean())
    with pytest.raises(DataError, match="edge ratio needs"):
        metrics.edge_ratio(neighbors, labels[:5])


@pytest.mark.parametrize("k", [1, 3, 10])
def test_topk_accuracy_is_that_of_the_library(k: int) -> None:
    scores, labels = RANDOM.normal(size=(200, 10)), RANDOM.integers(10, size=200)
    wanted = reference.top_k_accuracy_score(labels, scores, k=k, labels=range(10)) if k < 10 else 1.0
    assert metrics.topk_accuracy(torch.from_numpy(scores), labels, k) == pytest.approx(wanted)


def test_constant_scores_are_no_better_than_the_first_class() -> None:
    assert metrics.topk_accuracy(np.zeros((4, 3)), np.array([0, 1, 2, 2])) == 0.25
    assert metrics.topk_accuracy(np.full((4, 3), np.nan), np.array([0, 1, 2, 2]), 3) == 0
    with pytest.raises(DataError, match="must fit"):
        metrics.topk_accuracy(np.zeros((4, 3)), np.array([0]))


@pytest.mark.parametrize("levels", [1000, 7])
def test_average_precision_is_that_of_the_library(levels: int) -> None:
    relevant, scores = RANDOM.integers(2, size=90), RANDOM.integers(levels, size=90) / levels
    wanted = reference.average_precision_score(relevant, scores)
    assert metrics.average_precision(relevant, scores) == pytest.approx(wanted)
    precision, recall, _ = reference.precision_recall_curve(relevant, scores)
    first_full = np.flatnonzero(recall == 1)[-1]  # the older library drew the curve only until everything is found
    wanted = reference.auc(recall[first_full:], precision[first_full:])
    assert metrics.average_precision(relevant, scores, "trapezoid") == pytest.approx(wanted)


def test_the_interpolated_definitions_by_hand() -> None:
    relevant, scores = [1, 0, 1, 1, 0], [0.9, 0.8, 0.7, 0.6, 0.5]  # precision 1, 1/2, 2/3, 3/4, 3/5
    assert metrics.average_precision(relevant, scores, "envelope") == pytest.approx((1 + 3 / 4 + 3 / 4) / 3)
    assert metrics.average_precision(relevant, scores, "11-point") == pytest.approx((4 * 1 + 7 * 3 / 4) / 11)
    assert metrics.average_precision(relevant, scores, "step") == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)


@pytest.mark.parametrize("definition", get_args(metrics.Definition))
def test_a_perfect_ranking_is_one_and_nothing_to_find_is_nan(definition: metrics.Definition) -> None:
    assert metrics.average_precision([1, 1, 0, 0], [4, 3, 2, 1], definition) == pytest.approx(1)
    assert math.isnan(metrics.average_precision([0, 0], [2, 1], definition))
    assert metrics.average_precision(np.array([0, 0, 1]), np.array([3.0, 2, 1]), definition) <= 1 / 3 + 1e-12


def test_unknown_definitions_are_named() -> None:
    with pytest.raises(DataError, match="did you mean 'trapezoid'"):
        metrics.average_precision([1, 0], [2, 1], "trapezoit")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="2 items and 3 scores"):
        metrics.average_precision([1, 0], [1, 2, 3])


def test_ignored_images_do_not_matter_and_ties_count_against() -> None:
    truth, scores = np.array([[1, 0, 255, 1, 0]]), np.array([[0.5, 0.5, 99, 0.4, 0.1]])
    wanted = reference.average_precision_score([1, 0, 1, 0], [0.5 - 1e-5, 0.5, 0.4 - 1e-5, 0.1])
    assert metrics.voc_classification_ap(truth, scores)[0] == pytest.approx(wanted)


def test_detection_by_hand() -> None:
    objects = np.array([[0, 0, 9, 9], [20, 20, 29, 29], [0, 0, 9, 9], [50, 50, 59, 59]])
    boxes = np.array([[0, 0, 9, 9], [1, 0, 10, 9], [50, 50, 59, 59], [20, 20, 29, 24], [20, 20, 29, 25]])
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    # In falling order: right, a second one of the same object, difficult, exactly half an overlap, a little more.
    found = metrics.detection_ap(objects, [0, 0, 1, 0], [0, 0, 0, 1], boxes, np.zeros(5), scores)
    assert found.recall.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1 / 3, 2 / 3])
    assert found.precision.tolist() == pytest.approx([1, 1 / 2, 1 / 2, 1 / 3, 2 / 4])
    assert found.average_precision == pytest.approx((4 * 1 + 3 * 1 / 2) / 11)
    area = metrics.detection_ap(objects, [0, 0, 1, 0], [0, 0, 0, 1], boxes, np.zeros(5), scores, definition="envelope")
    assert area.average_precision == pytest.approx(1 / 3 + 1 / 6)


def test_detection_of_nothing() -> None:
    none, box = np.zeros((0, 4)), np.array([[0, 0, 9, 9]])
    assert metrics.detection_ap(box, [0], [0], none, [], []).average_precision == 0
    assert math.isnan(metrics.detection_ap(none, [], [], box, [0], [0.5]).average_precision)
    assert math.isnan(metrics.detection_ap(box, [0], [1], box, [0], [0.5]).average_precision)


def test_confusion_is_that_of_the_library() -> None:
    truth, predicted = RANDOM.integers(5, size=(4, 9)), RANDOM.integers(5, size=(4, 9))
    truth[0, :3] = 255
    kept = truth != 255
    wanted = reference.confusion_matrix(truth[kept], predicted[kept], labels=range(5))
    counts = metrics.confusion(truth, predicted, 5)
    assert (counts == wanted).all()
    scores = metrics.segmentation_scores(counts)
    wanted_iou = reference.jaccard_score(truth[kept], predicted[kept], average=None, labels=range(5))
    np.testing.assert_allclose(scores.iou, wanted_iou)
    assert scores.mean_iou == pytest.approx(wanted_iou.mean())
    assert scores.mean_accuracy == pytest.approx(reference.balanced_accuracy_score(truth[kept], predicted[kept]))
    assert scores.pixel_accuracy == pytest.approx((truth[kept] == predicted[kept]).mean())


def test_predictions_outside_the_classes_are_refused() -> None:
    with pytest.raises(DataError, match=r"0..2, got 1..7"):
        metrics.confusion([0, 1], [1, 7], 3)
    with pytest.raises(DataError, match="2 pixels and 1 predictions"):
        metrics.confusion([0, 1], [1], 3)


def test_retrieval_by_hand() -> None:
    # After junk is gone: hit, miss, hit; precision 1, 1/2, 2/3, and 1 before the first.
    found = metrics.retrieval_ap([4, 9, 7, 8, 5], positive=[4, 8, 3], junk=[9, 5])
    assert found == pytest.approx(((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2) / 3)
    assert metrics.retrieval_ap([1, 2], [1, 2], []) == 1
    assert metrics.retrieval_ap([], [1], []) == 0
    assert math.isnan(metrics.retrieval_ap([1, 2], [], []))


def test_agreement_beside_chance_and_the_best_matching():
    """Against scikit-learn, and against every matching of three clusters with three classes."""
    from itertools import permutations

    from sklearn.metrics import adjusted_mutual_info_score

    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 200)
    clusters = np.where(random.random(200) < 0.6, (labels + 1) % 3, random.integers(0, 3, 200))
    assert metrics.adjusted_nmi(clusters, labels) == pytest.approx(adjusted_mutual_info_score(labels, clusters))
    best = max(float((np.array(order)[clusters] == labels).mean()) for order in permutations(range(3)))
    assert metrics.cluster_accuracy(clusters, labels) == pytest.approx(best)
    many = random.integers(0, 60, 200)
    chance = metrics.nmi_by_chance(many, labels)
    assert chance > 0.1 and metrics.nmi(many, labels) == pytest.approx(chance, abs=0.08)
