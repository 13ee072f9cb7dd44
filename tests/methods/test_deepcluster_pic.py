"""DeepCluster with clusterings that find the number of clusters: the head follows, on one rank and two, and resumed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unlabeled
from pictures import pictures
from runs import SMALL, assert_same_run, knn_gain, photograph_crops, train_with_stops
from unlabeled.cluster import whitening
from unlabeled.cluster.cliques import cliques
from unlabeled.cluster.graph import knn_graph
from unlabeled.cluster.lin_cohen import power_embedding
from unlabeled.cluster.pic import pic
from unlabeled.config import Config
from unlabeled.errors import ConfigError, DataError
from unlabeled.methods.clusterer import Clusterer
from unlabeled.methods.deepcluster import DeepCluster
from unlabeled.metrics import nmi
from unlabeled.models import build_backbone
from unlabeled.randomness import generator

PIC: dict[str, Any] = SMALL | {"clustering": "pic", "bandwidth": 0.5, "image_size": 24, "resize": 24}


def clumps(count: int, outliers: int = 0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [count + outliers, 6] about six centres, and rows far from everything."""
    random = generator(seed, "clumps")
    kind = torch.arange(count) % 6
    rows = torch.eye(6)[kind] * 10 + 0.3 * torch.randn(count, 6, generator=random)
    far = torch.randn(outliers, 6, generator=random) * 500
    return torch.cat([rows, far]), torch.cat([kind, torch.full((outliers,), -1)])


def method(count: int, **changes: Any) -> DeepCluster:
    config = Config(**(PIC | {"pca_dims": 0, "normalize_rows": False, "bandwidth": 2.0} | changes))
    backbone = build_backbone(config.backbone, image_size=config.image_size, generator=generator(0))
    return DeepCluster(backbone, count, config)


def test_targets_are_the_partition_of_the_prepared_rows():
    rows = torch.randn(150, 20, generator=generator(1))
    config = Config(**(PIC | {"pca_dims": 8}))
    found = Clusterer(config).cluster(rows.clone(), seed=3)
    prepared = whitening.fit(rows, 8, seed=3).apply(rows)
    wanted = pic(*knn_graph(prepared, 5), bandwidth=0.5)
    assert torch.equal(found.labels, wanted.labels)
    assert found.num_clusters == wanted.num_clusters
    assert found.numbers["pic_singletons"] == wanted.num_singletons


def test_the_head_follows_the_number_of_clusters_also_through_a_checkpoint():
    trained, (rows, kind) = method(120), clumps(120)
    assert trained.head.linear.out_features == SMALL["num_clusters"]
    trained.before_epoch(0, lambda index=None: rows)
    few = trained.head.linear.out_features
    assert few == int(trained.labels.max()) + 1 == trained.summary()["num_clusters"]
    assert nmi(trained.labels, kind) > 0.6
    trained.before_epoch(1, lambda index=None: torch.randn(120, 6, generator=generator(5)))
    many = trained.head.linear.out_features
    assert many != few
    other = method(120)
    other.load_state_dict(trained.state_dict())
    assert other.head.linear.out_features == many
    for name, value in trained.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
