"""What the journal says where labels were given."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from runs import SMALL
from unlabeled import diagnostics, metrics
from unlabeled.config import Config
from unlabeled.errors import DataError
from unlabeled.evaluation.knn import knn_accuracy, split
from unlabeled.methods import build_method
from unlabeled.models import build_backbone
from unlabeled.protocols import monitor
from unlabeled.protocols.monitor import Monitor

COUNT, KINDS = 120, 4
LABELS = torch.arange(COUNT) % KINDS


def rows(noise: float) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    dims = build_backbone(SMALL["backbone"], image_size=SMALL["image_size"]).feature_dim
    centres = torch.randn(KINDS, dims, generator=random)
    return centres[LABELS] + noise * torch.randn(COUNT, dims, generator=random)


def watched(labels: torch.Tensor = LABELS, **changes: Any) -> Monitor:
    config = Config(**(SMALL | changes))
    return Monitor(build_method(config, COUNT, 3), labels, config)


def test_clusters_are_held_against_labels_every_epoch_without_a_look_at_features() -> None:
    def refused(index: torch.Tensor | None = None) -> torch.Tensor:
        raise AssertionError("no look was due")

    looked = watched()
    assert looked(refused, False) == {}, "nothing is clustered yet"
    clusters = (torch.arange(COUNT) // 7) % 5
    looked.method.labels.copy_(clusters)
    mutual, a, b = metrics.mutual_information(clusters, LABELS), np.bincount(clusters), np.bincount(LABELS)
    geometric = mutual / math.sqrt(metrics.entropy(a) * metrics.entropy(b))
    assert looked(refused, False) == {"nmi_labels": pytest.approx(geometric)}
    assert watched(method="nat", embedding_dims=8)(refused, False) == {}


def test_images_without_label_or_cluster_are_left_out() -> None:
    labels, clusters = LABELS.clone(), LABELS.clone()
    labels[:40], clusters[80:] = -1, -1
    looked = watched(labels)
    looked.method.labels.copy_(clusters)
    assert looked.nmi() == {"nmi_labels": pytest.approx(1)}
    looked.method.labels.fill_(-1)
    assert looked.nmi() == {}


def test_a_look_at_the_features(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whitening makes as much of the dimensions of the noise as of those of the kinds: keep the latter.
    looked, features = watched(pca_dims=KINDS - 1), rows(0.1)
    numbers = looked(lambda index=None: features, True)
    assert numbers["knn"] == 1
    assert numbers["edge_ratio"] == pytest.approx(1, abs=0.05)
    spread = diagnostics.feature_statistics(features)
    assert {name: numbers[f"backbone_{name}"] for name in monitor.SPREAD} == {n: spread[n] for n in monitor.SPREAD}
    chance = looked(lambda index=None: rows(1000.0), True)["edge_ratio"]
    assert chance == pytest.approx(1 / KINDS, abs=0.08)
    monkeypatch.setattr(monitor, "EDGE_ROWS", COUNT - 1)
    assert "edge_ratio" not in looked(lambda index=None: features, True)


def test_every_space_is_looked_at() -> None:
    looked = watched(method="instance", embedding_dims=8)
    numbers = looked(lambda index=None: rows(0.1), True)
    spaces = {"backbone", "output", "bank"}
    assert {"knn", "knn_output", "knn_bank"} <= numbers.keys()
    assert {f"{space}_{name}" for space in spaces for name in monitor.SPREAD} <= numbers.keys()
    assert "nmi_labels" not in numbers


def test_rows_of_the_bank_vote_on_outputs_made_anew() -> None:
    looked, features = watched(method="instance", embedding_dims=8, temperature=0.3), rows(2.0)
    bank, outputs = looked.method.memory.bank, looked.method.outputs(features)
    assert not torch.equal(bank, outputs)
    train, test = map(torch.from_numpy, split(LABELS.numpy(), seed=looked.config.seed))
    numbers = looked(lambda index=None: features, True)
    for name, voters, asked in (("", features, features), ("_output", outputs, outputs), ("_bank", bank, outputs)):
        parts = voters[train], LABELS[train], asked[test], LABELS[test]
        assert numbers[f"knn{name}"] == pytest.approx(knn_accuracy(*parts, k=20, temperature=0.3))
        assert numbers[f"nearest{name}"] == pytest.approx(knn_accuracy(*parts, k=1))


def test_labels_that_leave_nothing_to_hold_out_are_refused_at_once() -> None:
    with pytest.raises(DataError):
        watched(torch.full((COUNT,), -1))
