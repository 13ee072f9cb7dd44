"""The report is written by one of two gloo processes: what it calls must not wait for the other."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from unlabeled.data.image_statistics import image_statistics
from unlabeled.data.sources import open_source
from unlabeled.data.store import open_store
from unlabeled.distributed import alone, is_main, world_size


def worker(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    sizes = [world_size()]
    if is_main():
        with alone():
            sizes.append(world_size())
            source = open_source(f"{folder}/images.npy")
            found = image_statistics(open_store(source, short_side=8, cache=None), source)
            np.save(f"{folder}/found.npy", found[0].values)
    sizes.append(world_size())
    assert sizes == ([2, 1, 2] if rank == 0 else [2, 2])
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_one_rank_looks_at_all_images(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    mp.spawn(worker, (str(tmp_path),), nprocs=2)
    assert np.load(tmp_path / "found.npy") == pytest.approx(images.mean((1, 2, 3)) / 255, abs=1e-5)
