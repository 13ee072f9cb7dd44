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
from unlabeled.cluster.graph import cliques, knn_graph
from unlabeled.cluster.pic import pic, power_embedding
from unlabeled.config import Config
from unlabeled.errors import ConfigError, DataError
from unlabeled.methods.clustering import Clusterer
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
    trained.before_epoch(0, lambda index=None, as_trained=False: rows)
    few = trained.head.linear.out_features
    assert few == int(trained.labels.max()) + 1 == trained.summary()["num_clusters"]
    assert nmi(trained.labels, kind) > 0.6
    trained.before_epoch(1, lambda index=None, as_trained=False: torch.randn(120, 6, generator=generator(5)))
    many = trained.head.linear.out_features
    assert many != few
    other = method(120)
    other.load_state_dict(trained.state_dict())
    assert other.head.linear.out_features == many
    for name, value in trained.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


@pytest.mark.parametrize("sampling", ["uniform", "cluster_then_member", "natural", "weighted"])
def test_dropped_singletons_are_never_drawn(sampling: str):
    rows, _ = clumps(120, outliers=7)
    trained = method(127, singletons="drop", sampling=sampling)
    trained.before_epoch(0, lambda index=None, as_trained=False: rows)
    dropped = (trained.labels < 0).nonzero()[:, 0].tolist()
    assert set(range(120, 127)) <= set(dropped)
    order = trained.draw(0)
    assert len(order) == 127
    assert not set(dropped) & set(order.tolist())
    assert trained.summary()["pic_singletons"] == len(dropped)
    z = torch.zeros(127, trained.head.linear.out_features)
    assert float(trained.loss(z, trained.targets(order, z))) > 0


def test_kept_singletons_are_clusters_and_attached_ones_are_not():
    rows, _ = clumps(120, outliers=7)
    sizes = {}
    for rule in ("keep", "attach"):
        trained = method(127, singletons=rule)
        trained.before_epoch(0, lambda index=None, as_trained=False: rows)
        sizes[rule] = torch.bincount(trained.labels)
        assert int(trained.labels.min()) == 0
    assert int((sizes["keep"] == 1).sum()) >= 7
    assert len(sizes["attach"]) < len(sizes["keep"])


def test_nothing_but_singletons_is_said_in_words():
    with pytest.raises(DataError, match=r"left every one of 60 images alone.* or bandwidth \(now 0.001\)"):
        method(60, singletons="drop", bandwidth=1e-3).before_epoch(
            0, lambda index=None, as_trained=False: torch.randn(60, 6, generator=generator(0))
        )
    # Where each names one other there is no triangle.
    with pytest.raises(
        DataError, match=r"cliques left every one of 60 images alone.* raise graph_neighbors \(now 1\)\.$"
    ):
        method(60, clustering="cliques", graph_neighbors=1).before_epoch(
            0, lambda index=None, as_trained=False: torch.randn(60, 6, generator=generator(0))
        )
    with pytest.raises(ConfigError, match=r"graph_neighbors \(5\) must be below .* \(5\)"):
        method(5)


def test_lin_and_cohen_separate_clumps_and_take_k_from_the_recipe():
    rows, kind = clumps(240)
    trained = method(240, clustering="pic_lin_cohen", num_clusters=6, graph_neighbors=12)
    trained.before_epoch(0, lambda index=None, as_trained=False: rows)
    assert trained.head.linear.out_features == 6
    assert nmi(trained.labels, kind) > 0.7


def test_power_embedding_is_the_dense_iteration():
    rows, _ = clumps(40)
    neighbors, squared = knn_graph(rows, 4)
    affinity = torch.zeros(40, 40, dtype=torch.float64)
    affinity.scatter_(1, neighbors, (-squared.double() / 4).exp())
    affinity = affinity + affinity.t()
    step = affinity / affinity.sum(1, keepdim=True)
    v = affinity.sum(1) / affinity.sum()
    for _ in range(3):
        v = step @ v
        v = v / v.sum()
    ours = power_embedding(neighbors, squared, bandwidth=2.0, iterations=3)
    assert torch.allclose(ours, (v - v.mean()) / v.std(correction=0), atol=1e-9)


def test_cliques_against_all_subsets():
    from itertools import combinations

    neighbors, _ = knn_graph(torch.randn(14, 2, generator=generator(4)), 3)
    names = {(i, int(j)) for i, row in enumerate(neighbors) for j in row}
    edge = {(i, j) for i, j in combinations(range(14), 2) if (i, j) in names or (j, i) in names}
    whole = [
        set(rows)
        for size in range(2, 15)
        for rows in combinations(range(14), size)
        if size <= 7 and all(pair in edge for pair in combinations(rows, 2))
    ]
    maximal = [rows for rows in whole if not any(rows < other for other in whole)]
    found = cliques(neighbors, min_size=2)
    assert sorted(found.sizes.tolist()) == sorted(len(rows) for rows in maximal)
    inside = {row for rows in maximal if len(rows) >= 3 for row in rows}
    assert found.coverage(3) == pytest.approx(len(inside) / 14)
    assert found.coverage(1) == 1
    for number in range(found.num_clusters):
        members = set((found.labels == number).nonzero()[:, 0].tolist())
        assert any(members <= rows for rows in maximal)


def test_training_on_cliques_shows_only_their_images():
    rows, _ = clumps(90, outliers=6)
    trained = method(96, clustering="cliques")
    trained.before_epoch(0, lambda index=None, as_trained=False: rows)
    assert trained.summary()["labelled_share"] < 1
    assert bool((trained.labels[trained.draw(0)] >= 0).all())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "stripes.npy"
    np.save(path, pictures(96, side=20)[0])
    return path


def test_stopped_and_resumed_is_the_same_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The head of a checkpoint inside an epoch is as wide as that epoch's clusters, not as the recipe's number."""
    unlabeled.train(data, tmp_path / "whole", cache=tmp_path / "cache", **PIC)
    train_with_stops(data, tmp_path / "run", 3, monkeypatch, PIC)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_it_learns_on_photographs(tmp_path: Path):
    crops, labels = photograph_crops(tmp_path, 16)
    changes = {"epochs": 4, "reassign_every": 2, "pca_dims": 32, "batch_size": 16}
    run = unlabeled.train(crops, tmp_path / "run", cache=tmp_path / "cache", **(PIC | changes))
    assert run.history[-1]["loss"] < 0.95 * run.history[-1]["chance_loss"]
    gain = knn_gain(run, labels)
    assert gain > 0.02, gain


WORKER = """
import sys
import torch
torch.set_num_threads(1)
from pathlib import Path
import unlabeled
from unlabeled import distributed, training
from unlabeled.methods.deepcluster import DeepCluster

out, settings = Path(sys.argv[2]), eval(sys.argv[3])
original, seen = DeepCluster.before_epoch, []

def watched(self, epoch, embed):
    original(self, epoch, embed)
    seen.append((self.labels.clone(), self.draw(epoch), self.head.linear.weight.detach().clone()))

DeepCluster.before_epoch = watched
with distributed.process_group("cpu"):
    unlabeled.train(sys.argv[1], out / "two", cache=out / "cache", **settings)
    tensors = [tensor for entry in seen for tensor in entry]
    torch.save(tensors, out / f"rank{distributed.rank()}.pt")
"""


def test_two_ranks_have_one_table_and_train_as_one_process(data: Path, tmp_path: Path):
    settings = PIC | {"epochs": 2, "lr": 1e-3}
    unlabeled.train(data, tmp_path / "one", cache=tmp_path / "cache", **settings)
    (tmp_path / "worker.py").write_text(WORKER)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    line = [sys.executable, tmp_path / "worker.py", data, tmp_path, repr(settings | {"batch_size": 12})]
    workers = [
        subprocess.Popen(line, env=shared | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True) for rank in range(2)
    ]
    problems = [worker.communicate(timeout=300)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], problems
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    from unlabeled.runs.journal import read

    one, two = read(tmp_path / "one" / "metrics.jsonl"), read(tmp_path / "two" / "metrics.jsonl")
    assert one[0]["num_clusters"] == two[0]["num_clusters"]
    assert two[0]["loss"] == pytest.approx(one[0]["loss"], rel=2e-3)
