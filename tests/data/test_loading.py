"""The loader: the same views whatever the ranks, the threads and the step it begins at."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from unlabeled.data import loading
from unlabeled.data import store as data_store
from unlabeled.data.augment import Views, center, colour, draw
from unlabeled.data.loading import Loader, ahead
from unlabeled.data.resize import crop_cpu
from unlabeled.data.sources import open_source
from unlabeled.data.store import ImageStore, open_store
from unlabeled.errors import DataError
from unlabeled.randomness import generator

JITTERED = Views(16, 18, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey=0.2, blur=0.3)
CUT = Views(16, 18)
Batches = list[tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture(scope="module", params=["uniform", "ragged"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    folder: Path = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for i in range(40):
        height = 20 if request.param == "uniform" else 20 + i % 5
        np.save(folder / f"{i:02d}.npy", random.integers(0, 256, (height, 24, 3), dtype=np.uint8))
    made = open_store(open_source(folder), short_side=32, cache=None, workers=1)
    assert (made.uniform is None) == (request.param == "ragged")
    return made


ORDER = torch.randperm(40, generator=generator(1))


def same(one: Batches, other: Batches) -> None:
    assert len(one) == len(other)
    for (index, view), (other_index, other_view) in zip(one, other, strict=True):
        assert torch.equal(index, other_index)
        torch.testing.assert_close(view, other_view, atol=1e-6, rtol=0)


def test_images_decoded_again_make_the_same_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 256, (30 + i % 5, 24, 3), dtype=np.uint8)
        np.save(tmp_path / f"{i:02d}.npy", pixels)

    def batches() -> Batches:
        images = open_store(open_source(tmp_path), short_side=20, cache=None, workers=1)
        seen.append(images.num_decoded_again)
        return list(Loader(images, JITTERED, device="cpu", seed=3).train_batches(torch.arange(12), 0, 4))

    seen: list[int] = []
    kept = batches()
    monkeypatch.setattr(data_store, "available_memory", lambda: 0)
    again = batches()
    assert seen == [0, 12]
    assert all(torch.equal(a, b) for x, y in zip(kept, again, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("views", [CUT, JITTERED], ids=["cut", "jittered"])
def test_batches_are_drawn_views_of_the_order(store: ImageStore, views: Views) -> None:
    batches = list(Loader(store, views, device="cpu", seed=3).train_batches(ORDER, 2, 16))
    assert len(batches) == 2
    for step, (index, view) in enumerate(batches):
        assert torch.equal(index, ORDER[16 * step : 16 * step + 16])
        assert view.shape == (16, 3, 16, 16)
        assert view.is_contiguous(memory_format=torch.channels_last)
        assert view.dtype == (torch.uint8 if views is CUT else torch.float32)
        params = draw(views, store.sizes[index], generator(3, "views", 2, step))
        expected = colour(crop_cpu(store, index, params, 16), params)
        actual = view.float() / 255 if views is CUT else view
        torch.testing.assert_close(actual, expected, atol=2 / 255 if views is CUT else 12 / 255, rtol=0)
        assert float((actual - expected).abs().mean()) < 1.5 / 255


def test_the_number_of_ranks_changes_nothing(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = list(Loader(store, JITTERED, device="cpu", seed=3).train_batches(ORDER, 0, 16))
    monkeypatch.setattr(loading, "world_size", lambda: 2)
    halves: list[Batches] = []
    for rank in range(2):
        monkeypatch.setattr(loading, "rank", lambda rank=rank: rank)
        halves.append(list(Loader(store, JITTERED, device="cpu", seed=3).train_batches(ORDER, 0, 8)))
    joined = [(torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])) for a, b in zip(*halves, strict=True)]
    same(joined, alone)


def test_prefetching_changes_nothing(store: ImageStore) -> None:
    plain = Loader(store, JITTERED, device="cpu", seed=3, prefetch=0).train_batches(ORDER, 1, 8)
    fetched = Loader(store, JITTERED, device="cpu", seed=3, prefetch=2).train_batches(ORDER, 1, 8)
    same(list(fetched), list(plain))


def test_start_step_skips_batches(store: ImageStore) -> None:
    loader = Loader(store, JITTERED, device="cpu", seed=3)
    whole = list(loader.train_batches(ORDER, 1, 8))
    same(list(loader.train_batches(ORDER, 1, 8, start_step=3)), whole[3:])
    assert list(loader.train_batches(ORDER, 1, 8, start_step=5)) == []


def test_seed_and_epoch_change_the_views(store: ImageStore) -> None:
    def first(seed: int, epoch: int) -> torch.Tensor:
        return next(Loader(store, CUT, device="cpu", seed=seed).train_batches(ORDER, epoch, 8))[1]

    assert torch.equal(first(0, 0), first(0, 0))
    assert not torch.equal(first(0, 0), first(0, 1))
    assert not torch.equal(first(0, 0), first(1, 0))


def test_an_order_shorter_than_a_batch_is_refused(store: ImageStore) -> None:
    with pytest.raises(DataError, match=r"40 images do not fill one batch of 41 on each of 1 processes.*at most 40"):
        Loader(store, CUT, device="cpu", seed=0).train_batches(ORDER, 0, 41)


def test_center_batches_are_in_order_and_whole(store: ImageStore) -> None:
    index = torch.arange(5, 32)
    batches = list(Loader(store, JITTERED, device="cpu", seed=0).center_batches(index, 8))
    assert [len(i) for i, _ in batches] == [8, 8, 8, 3]
    assert torch.equal(torch.cat([i for i, _ in batches]), index)
    view = torch.cat([v for _, v in batches])
    assert view.dtype == torch.uint8
    expected = crop_cpu(store, index, center(JITTERED, store.sizes[index]), 16)
    assert int((view.int() - expected.int()).abs().max()) <= 1
    assert list(Loader(store, CUT, device="cpu", seed=0).center_batches(index[:0], 8)) == []


def test_ahead_passes_errors_on_and_ends_its_thread() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    items = ahead(failing(), 2)
    assert next(items) == 1
    with pytest.raises(ValueError, match="broken"):
        next(items)
    endless = ahead(iter(int, 1), 2)
    assert next(endless) == 0
    endless.close()  # pyright: ignore
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_batches_can_be_left_early(store: ImageStore) -> None:
    batches = Loader(store, CUT, device="cpu", seed=0, prefetch=2).train_batches(ORDER, 0, 4)
    next(batches)
    batches.close()  # pyright: ignore
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_iterators_may_close_while_all_are_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    running: set[tuple[threading.Event, threading.Thread]] = set()

    class Closing(threading.Event):
        def set(self) -> None:
            super().set()
            running.pop()

    for _ in range(3):
        thread = threading.Thread(target=int)
        thread.start()
        running.add((Closing(), thread))
    told = [closed for closed, _ in running]
    monkeypatch.setattr(loading, "_running", running)
    loading._end_all()  # pyright: ignore[reportPrivateUsage]
    assert all(closed.is_set() for closed in told)


def test_a_program_may_end_while_a_thread_is_ahead() -> None:
    """An iterator that is still held then was never closed; torn out of a torch function, its thread aborted the process."""
    program = """
import itertools, torch
from unlabeled.data.loading import ahead
torch.set_num_threads(1)
a = torch.randn(1000, 1000)
held = ahead((a @ a for _ in itertools.count()), 1000)
next(held)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=300)
    assert (ended.returncode, ended.stderr) == (0, "")
