"""The released FCN's bilinear kernels and VOC's scores against the reference numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from unlabeled import metrics
from unlabeled.evaluation.voc_classification import coded, mean
from unlabeled.models.fc import bilinear_kernel


@pytest.mark.parametrize("size", [3, 4, 63, 64])
def test_bilinear_kernels(golden: Path, size: int):
    with np.load(golden / "segmentation.npz") as data:
        np.testing.assert_allclose(bilinear_kernel(size).numpy(), data[f"bilinear_{size}"], atol=1e-12)


def test_confusion_added_up_picture_by_picture(golden: Path):
    with np.load(golden / "segmentation.npz") as data:
        pictures = zip(data["gt"], data["pred"], strict=True)
        counts = sum(torch.from_numpy(metrics.confusion(truth, found, 21)) for truth, found in pictures)
        assert isinstance(counts, torch.Tensor)
        assert (counts.numpy() == data["hist"]).all()
        assert metrics.segmentation_scores(counts).mean_iou == pytest.approx(float(data["mean_iou"]), abs=1e-12)


def test_classification_scores_from_voc_coding(golden: Path):
    """-1, 0, 1 through the protocol's coding give the reference's average precision."""
    with np.load(golden / "voc_classification_ap.npz") as data:
        gts, scores, wanted = data["gts"], data["scores"], data["ap_sklearn_step"]
    voc = torch.from_numpy(np.select([gts == 255, gts == 1], [0, 1], -1)).T
    found = metrics.voc_classification_ap(coded(voc).T, scores)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert mean(found) == pytest.approx(float(wanted.mean()), abs=1e-6)
