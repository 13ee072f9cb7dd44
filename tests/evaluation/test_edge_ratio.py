"""Edge ratio of features: against a plain loop, by class, and through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import unlabeled
from pictures import pictures
from runs import SMALL
from unlabeled.errors import DataError
from unlabeled.evaluation.edge_ratio import EdgeRatioProtocol


def test_against_a_plain_loop():
    random = np.random.default_rng(0)
    features = torch.from_numpy(random.normal(size=(80, 5))).float()
    labels = torch.from_numpy(random.integers(-1, 5, 80))
    inside = {c: [0, 0] for c in range(5)}
    for i in range(80):
        distances = (features - features[i]).square().sum(1)
        distances[i] = torch.inf
        for j in distances.argsort()[:10].tolist():
            if labels[i] >= 0:
                inside[int(labels[i])][0] += int(labels[i] == labels[j])
                inside[int(labels[i])][1] += 1
    protocol = EdgeRatioProtocol(features, labels)
    wanted = [hits / edges for hits, edges in inside.values()]
    assert protocol.per_class() == pytest.approx(wanted, abs=1e-12)
    scores = dict(protocol.run())
    assert scores["edge_ratio"] == pytest.approx(np.mean(wanted))
    assert scores["edge_ratio_median"] == pytest.approx(np.median(wanted))


def test_chance_is_what_random_features_reach():
    labels = torch.arange(2000) % 4
    scores = dict(EdgeRatioProtocol(torch.randn(2000, 8, generator=torch.Generator().manual_seed(0)), labels).run())
    assert scores["edge_ratio_chance"] == pytest.approx(499 / 1999)
    assert scores["edge_ratio"] == pytest.approx(scores["edge_ratio_chance"], abs=0.02)


def test_labels_must_fit_and_absent_classes_have_no_ratio():
    with pytest.raises(DataError, match="3 features and 2 labels"):
        dict(EdgeRatioProtocol(torch.eye(3), torch.zeros(2, dtype=torch.int64)).run())
    ratios = EdgeRatioProtocol(torch.randn(12, 3), torch.tensor([0, 2] * 6), 3).per_class()
    assert np.isnan(ratios).tolist() == [False, True, False]


def test_the_verb_writes_every_class(tmp_path: Path):
    images, kinds = pictures(72, side=20)
    np.save(tmp_path / "d.npy", images)
    np.save(tmp_path / "kinds.npy", kinds)
    run = unlabeled.train(tmp_path / "d.npy", tmp_path / "run", cache=tmp_path / "cache", **(SMALL | {"epochs": 1}))
    line = [sys.executable, "-m", "unlabeled", "evaluate", "edge-ratio", run.path]
    line += ["--labels", tmp_path / "kinds.npy", "--json", tmp_path / "out.json"]
    result = subprocess.run(line, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "edge_ratio" in result.stdout
    scores = json.loads((tmp_path / "out.json").read_text())
    assert scores["neighbors"] == 10
    assert len(scores["per_class"]) == 4
    assert scores["edge_ratio"] == pytest.approx(np.mean(list(scores["per_class"].values())))
    assert scores["edge_ratio"] > scores["edge_ratio_chance"]
    assert run.evaluate("edge-ratio", labels=str(tmp_path / "kinds.npy"), neighbors=3)["neighbors"] == 3
