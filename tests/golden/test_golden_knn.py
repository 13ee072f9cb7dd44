from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from unlabeled.cluster.neighbors import nearest_neighbors
from unlabeled.evaluation.knn import KnnProtocol, weighted_knn


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["knn_k200_t007", "knn_k20_t01"])
def test_votes_predictions_and_neighbors(golden: Path, name: str, precision: str) -> None:
    with np.load(golden / f"{name}.npz") as data:
        given = {key: torch.from_numpy(data[key]) for key in data.files if data[key].ndim}
        k, temperature = int(data["k"]), float(data["T"])
        scores = {key: float(data[key]) for key in ("top1", "top5", "nn1_acc")}
    train, labels, test = given["train"], given["train_labels"], given["test"]
    votes = weighted_knn(
        train, labels, test, k=k, temperature=temperature, num_classes=given["votes"].shape[1], precision=precision
    )
    torch.testing.assert_close(votes.votes, given["votes"], rtol=1e-4, atol=1e-6)
    assert torch.equal(votes.prediction, given["prediction_order"][:, 0])
    assert torch.equal(nearest_neighbors(train, test, 5, precision=precision).index, given["neighbours_top5"])
    found = dict(KnnProtocol(train, labels, test, given["test_labels"], k=k, temperature=temperature).run())
    assert found["knn_top1"] == pytest.approx(scores["top1"])
    assert found["knn_top5"] == pytest.approx(scores["top5"])
    assert found["nearest_top1"] == pytest.approx(scores["nn1_acc"])
