"""Two gloo processes, each with half of the rows, get what one process gets from all of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from unlabeled.cluster.graph import knn_graph
from unlabeled.cluster.kmeans import kmeans
from unlabeled.cluster.whitening import fit

WORKER = """
import sys
import torch
import torch.distributed as dist
from unlabeled import distributed
from unlabeled.runs import index as catalogue
from unlabeled.cluster.graph import knn_graph
from unlabeled.cluster.kmeans import kmeans
from unlabeled.cluster.whitening import fit
from unlabeled.errors import UnlabeledError

torch.set_num_threads(1)
with distributed.process_group("cpu"):
    everything = torch.load(sys.argv[1], weights_only=True)
    # Unequal shards, so that nothing can rely on equal lengths.
    cut = len(everything) * 2 // 5
    x = everything[:cut] if distributed.rank() == 0 else everything[cut:]
    out = {}
    whitening = fit(x, 8)
    out["white"] = distributed.all_gather_rows(whitening.apply(x, normalize_rows=False))
    out["components"] = whitening.components
    for rule in ("split", "copy", "halve"):
        result = kmeans(x, 12, seed=3, iterations=10, empty=rule)
        out[rule + "_labels"] = distributed.all_gather_rows(result.labels)
        out[rule + "_centroids"] = result.centroids
        out[rule + "_inertia"] = torch.tensor(result.inertia)
    far = torch.cat([everything[:9], torch.full((3, x.shape[1]), 1e3)])
    for rule in ("split", "copy", "halve"):
        result = kmeans(x, 12, seed=3, init=far, iterations=3, empty=rule)
        out[rule + "_refilled"] = distributed.all_gather_rows(result.labels)
        out[rule + "_refilled_centroids"] = result.centroids
    last = kmeans(x[:20], 37, seed=0, iterations=1)
    out["occupied"] = distributed.all_gather_rows(last.labels)
    neighbors, distances = knn_graph(x, 5)
    out["neighbors"] = distributed.all_gather_rows(neighbors)
    out["distances"] = distributed.all_gather_rows(distances)
    # The second rank has a row more, which takes it a part more.
    catalogue.ROWS_AT_ONCE = 83
    out["unit"] = catalogue.unit_rows(everything[distributed.shard(499)], 499)
    # A broken row on one rank is an error on both, not a hang.
    try:
        kmeans(x * float("nan") if distributed.rank() else x, 3, seed=0)
    except UnlabeledError as error:
        out["error"] = torch.tensor("hold NaN" in str(error))
    torch.save(out, sys.argv[2] + str(distributed.rank()))
"""


def rows() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(12, 20, generator=generator) * 2
    return centres[torch.randint(12, (500,), generator=generator)] + 0.5 * torch.randn(500, 20, generator=generator)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    torch.save(rows(), folder / "x.pt")
    (folder / "worker.py").write_text(WORKER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    command = [sys.executable, str(folder / "worker.py"), str(folder / "x.pt"), str(folder / "out")]
    processes = [subprocess.Popen(command, env={**shared, "RANK": str(rank)}) for rank in range(2)]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"out{rank}", weights_only=True) for rank in range(2)]


def test_ranks_agree(ranks: list[dict[str, torch.Tensor]]) -> None:
    for name, value in ranks[0].items():
        assert torch.equal(value, ranks[1][name]), name
    assert bool(ranks[0]["error"])


def test_whitening_of_shards_is_that_of_the_whole(ranks: list[dict[str, torch.Tensor]]) -> None:
    whitening = fit(rows(), 8)
    assert torch.allclose(ranks[0]["components"], whitening.components, atol=1e-5)
    assert torch.allclose(ranks[0]["white"], whitening.apply(rows(), normalize_rows=False), atol=1e-4)


@pytest.mark.parametrize("rule", ["split", "copy", "halve"])
def test_kmeans_of_shards_is_that_of_the_whole(ranks: list[dict[str, torch.Tensor]], rule: str) -> None:
    result = kmeans(rows(), 12, seed=3, iterations=10, empty=rule)
    assert torch.equal(ranks[0][f"{rule}_labels"], result.labels)
    assert torch.allclose(ranks[0][f"{rule}_centroids"], result.centroids, atol=1e-5)
    torch.testing.assert_close(ranks[0][f"{rule}_inertia"], torch.tensor(result.inertia), rtol=1e-6, atol=0)
    init = torch.cat([rows()[:9], torch.full((3, 20), 1e3)])
    refilled = kmeans(rows(), 12, seed=3, init=init, iterations=3, empty=rule)
    assert torch.equal(ranks[0][f"{rule}_refilled"], refilled.labels)
    assert torch.allclose(ranks[0][f"{rule}_refilled_centroids"], refilled.centroids, atol=1e-4)


def test_no_cluster_stays_empty_across_ranks(ranks: list[dict[str, torch.Tensor]]) -> None:
    assert len(ranks[0]["occupied"].unique()) == 37


def test_unit_rows_of_shards_are_those_of_the_whole(ranks: list[dict[str, torch.Tensor]]) -> None:
    assert torch.equal(ranks[0]["unit"], normalize(rows()[:499], dim=1))


def test_graph_of_shards_is_that_of_the_whole(ranks: list[dict[str, torch.Tensor]]) -> None:
    neighbors, distances = knn_graph(rows(), 5)
    assert torch.equal(ranks[0]["neighbors"], neighbors)
    assert torch.allclose(ranks[0]["distances"], distances, atol=1e-5)
