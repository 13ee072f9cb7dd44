from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from unlabeled import metrics


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as data:
        return {key: data[key] for key in data.files}


def test_nmi(golden: Path) -> None:
    data = load(golden / "nmi.npz")
    for i in range(int(data["n_cases"])):
        a, b = data[f"a_{i}"], torch.from_numpy(data[f"b_{i}"])
        assert metrics.nmi(a, b) == pytest.approx(float(data[f"nmi_geometric_{i}"]), abs=1e-9)
        assert metrics.nmi(a, b, "arithmetic") == pytest.approx(float(data[f"nmi_arithmetic_{i}"]), abs=1e-9)
        assert metrics.mutual_information(a, b) == pytest.approx(float(data[f"mi_nats_{i}"]), abs=1e-9)


def test_ratio_of_edges_inside_a_class(golden: Path) -> None:
    data = load(golden / "ratio_edge_intra_class.npz")
    found = metrics.edge_ratio(data["knn"], data["labels"])
    np.testing.assert_allclose(found.per_class, data["ratio_per_class"], atol=1e-9)
    assert found.mean == pytest.approx(float(data["mean_over_classes"]), abs=1e-9)
    quartiles = np.quantile(found.per_class, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(quartiles, [data["q1"], data["median"], data["q3"]], atol=1e-9)
    # The neighbors given are those of the features, the item itself left out.
    x = data["x"].astype(np.float64)
    distances = ((x[:, None] - x[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (np.sort(distances.argsort(axis=1)[:, : int(data["k"])]) == np.sort(data["knn"])).all()


@pytest.mark.parametrize(
    ("definition", "key"),
    [
        ("step", "ap_sklearn_step"),
        ("11-point", "ap_11point"),
        ("envelope", "ap_area_envelope"),
        ("trapezoid", "ap_trapezoid_old_sklearn"),
    ],
)
def test_average_precision_of_classification(golden: Path, definition: metrics.Definition, key: str) -> None:
    data = load(golden / "voc_classification_ap.npz")
    found = metrics.voc_classification_ap(data["gts"], data["scores"], definition)
    np.testing.assert_allclose(found, data[key], atol=1e-6)


@pytest.mark.parametrize(("overlap", "suffix"), [(0.5, "iou05"), (0.7, "iou07")])
@pytest.mark.parametrize(("definition", "key"), [("11-point", "ap11"), ("envelope", "area")])
def test_average_precision_of_detection(
    golden: Path, definition: metrics.Definition, key: str, overlap: float, suffix: str
) -> None:
    data = load(golden / "voc_detection_ap.npz")
    objects, found = data["gt_image_x1y1x2y2_difficult_isclass"], data["det_image_score_x1y1x2y2"]
    objects = objects[objects[:, 6] == 1]
    result = metrics.detection_ap(
        objects[:, 1:5],
        objects[:, 0],
        objects[:, 5],
        found[:, 2:],
        found[:, 0],
        found[:, 1],
        overlap=overlap,
        definition=definition,
    )
    assert result.average_precision == pytest.approx(float(data[f"{key}_{suffix}"]), abs=1e-9)
    if overlap == 0.5:
        np.testing.assert_allclose(result.recall, data["recall_iou05"], atol=1e-9)
        np.testing.assert_allclose(result.precision, data["precision_iou05"], atol=1e-9)


def test_segmentation(golden: Path) -> None:
    data = load(golden / "segmentation.npz")
    counts = metrics.confusion(data["gt"], data["pred"], 21)
    assert (counts == data["hist"]).all()
    scores = metrics.segmentation_scores(counts)
    np.testing.assert_allclose(scores.iou, data["iou"], atol=1e-12)  # nan where nan
    for found, key in (
        (scores.pixel_accuracy, "pixel_acc"),
        (scores.mean_accuracy, "mean_acc"),
        (scores.mean_iou, "mean_iou"),
        (scores.weighted_iou, "fwavacc"),
    ):
        assert found == pytest.approx(float(data[key]), abs=1e-12)


def test_average_precision_of_retrieval(golden: Path) -> None:
    data = load(golden / "oxford_ap.npz")
    found = [
        metrics.retrieval_ap(
            data[f"ranking_{q}"], np.concatenate([data[f"good_{q}"], data[f"ok_{q}"]]), data[f"junk_{q}"]
        )
        for q in range(int(data["n_queries"]))
    ]
    np.testing.assert_allclose(found, [data[f"ap_{q}"] for q in range(len(found))], atol=1e-5)
    assert np.mean(found) == pytest.approx(float(data["mean_ap"]), abs=1e-5)
