"""Batches of views, made as whole tensors, the same on any number of ranks.

Shapes: N images of the store, M images of an epoch's order, B batch of this rank, C channels, S side of a view.
What a view looks like depends on (seed, epoch, step) and its place in the global batch only: not on the number of
ranks, not on prefetching, not on where an epoch is resumed.
"""

from __future__ import annotations

import atexit
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from unlabeled.data.augment import Parameters, Views, center, colour, draw
from unlabeled.data.resize import crop_cpu, crop_device
from unlabeled.data.store import ImageStore, available_cores
from unlabeled.distributed import rank, world_size
from unlabeled.errors import DataError
from unlabeled.randomness import generator

Item = TypeVar("Item")
Batch = tuple[torch.Tensor, torch.Tensor]
"""Positions in the store (int64 [B]) and views ([B, C, S, S]), both on the device."""

SMALL_SIDE = 96
"""Up to this side, images of one size are resampled on the CPU as a batch; beyond, one by one is cheaper."""
DEVICE_SHARE = 0.25
"""Share of the free device memory that a store of images of one size may take."""


class Loader:
    """Makes batches of training views and of central views from a store."""

    def __init__(
        self,
        store: ImageStore,
        views: Views,
        *,
        device: str | torch.device,
        seed: int,
        device_budget_bytes: int | None = None,
        prefetch: int | None = None,
    ) -> None:
        """Where the images have one size and fit into `device_budget_bytes` (a quarter of the free device memory unless
        given), they are kept on the device and cut there. `prefetch`: batches a thread prepares ahead; unless
        given 2 on a GPU or where images are decoded again, else none: on a CPU the network needs all cores itself.
        """
        self.store = store
        self.views = views
        self.device = torch.device(device)
        self.seed = seed
        self.rank = rank()
        self.world_size = world_size()
        self._on_gpu = self.device.type == "cuda"
        # On a CPU the network takes all cores; on a GPU they are free for cropping. Files that must be decoded again are
        # waited for, so that threads pay on both.
        has_threads = self._on_gpu or store.num_decoded_again > 0
        self._prefetch = (2 if has_threads else 0) if prefetch is None else prefetch
        self._pool = ThreadPoolExecutor(available_cores(), thread_name_prefix="crop") if has_threads else None
        self._resident = self._resident_images(device_budget_bytes)
        # The route depends on the images alone, never on how many of them a cache has room for: routes round differently.
        largest = max(*store.sizes[0].tolist(), views.image_size)
        self._in_batches = not self._on_gpu and store.has_one_size and largest <= SMALL_SIDE

    def train_batches(
        self, order: torch.Tensor, epoch: int, batch_size: int, start_step: int = 0
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Augmented views of the images `order` (int64 [M], the same on all ranks), from batch `start_step` on.

        A global batch is batch_size × world_size consecutive entries and this rank makes its contiguous part; the last,
        incomplete one is dropped. Yields (index [B], views [B, C, S, S]) on the device, channels last: uint8 where
        views are only cut and mirrored, else float32 in [0, 1]. Raises DataError if the order does not fill one global
        batch.
        """
        whole = batch_size * self.world_size
        if len(order) < whole:
            raise DataError(
                f"{len(order):,} images do not fill one batch of {batch_size} on each of {self.world_size} processes "
                f"({whole:,} together); set batch_size to at most {len(order) // self.world_size}."
            )
        mine = slice(self.rank * batch_size, (self.rank + 1) * batch_size)

        def prepare(step: int) -> Callable[[], Batch]:
            index = order[step * whole : (step + 1) * whole].cpu()
            parameters = draw(self.views, self.store.sizes[index], generator(self.seed, "views", epoch, step))
            return self._begin(index[mine], parameters[mine])

        return self._run(prepare, range(start_step, len(order) // whole))

    def center_batches(self, index: torch.Tensor, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Central views of the images `index` (int64 [n], this rank's own), in order, the last batch perhaps smaller.

        Yields (index [B], views uint8 [B, C, S, S]) on the device, channels last.
        """

        def prepare(batch: int) -> Callable[[], Batch]:
            part = index[batch * batch_size : (batch + 1) * batch_size].cpu()
            return self._begin(part, center(self.views, self.store.sizes[part]))

        return self._run(prepare, range(-(-len(index) // batch_size)))

    def cut(self, wanted: Iterable[tuple[torch.Tensor, Parameters]]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Views that are asked for one by one: batches of images (int64 [B]) and what is done to each of them.

        Yields (index [B], views [B, C, S, S]) as `train_batches`.
        """
        return self._finished(self._begin(index.cpu(), parameters) for index, parameters in wanted)

    def _run(self, prepare: Callable[[int], Callable[[], Batch]], steps: range) -> Iterator[Batch]:
        return self._finished(prepare(step) for step in steps)

    def _finished(self, begun: Iterator[Callable[[], Batch]]) -> Iterator[Batch]:
        for finish in ahead(begun, self._prefetch) if self._prefetch else begun:
            yield finish()

    def _begin(self, index: torch.Tensor, parameters: Parameters) -> Callable[[], Batch]:
        """Do now what the CPU has to do, perhaps in another thread; return what is left for the caller's."""
        if self._resident is not None:
            return lambda: self._finish(index, self._cut_resident(index, parameters), parameters)
        if self._in_batches:
            images = torch.stack(self._pixels(index.tolist()))
            return lambda: self._finish(index, crop_device(images, parameters, self.views.image_size), parameters)
        views = crop_cpu(self.store, index, parameters, self.views.image_size, self._pool)
        if self._on_gpu:
            index, views = index.pin_memory(), views.pin_memory()
        return lambda: self._finish(index, views.to(self.device, non_blocking=True), parameters)

    def _pixels(self, images: list[int]) -> list[torch.Tensor]:
        """Pixels of some images, decoded again by several threads where the store has no room for them."""
        if self._pool is None:
            return [self.store.pixels(i) for i in images]
        return list(self._pool.map(self.store.pixels, images))

    def _cut_resident(self, index: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        assert self._resident is not None
        images = self._resident[index.to(self._resident.device)]
        return crop_device(images, parameters, self.views.image_size)

    def _finish(self, index: torch.Tensor, views: torch.Tensor, parameters: Parameters) -> Batch:
        index = index.to(self.device, non_blocking=True)
        if not parameters.only_geometry:
            return index, colour(views, parameters)
        if views.dtype != torch.uint8:
            views = views.mul_(255).round_().to(torch.uint8)
        return index, views.contiguous(memory_format=torch.channels_last)

    def _resident_images(self, budget: int | None) -> torch.Tensor | None:
        """All images in one tensor on the device, where that is possible and pays."""
        images = self.store.uniform
        if images is None:
            return None
        if not self._on_gpu:
            return images if max(*images.shape[1:3], self.views.image_size) <= SMALL_SIDE else None
        if budget is None:
            budget = int(DEVICE_SHARE * torch.cuda.mem_get_info(self.device)[0])
        return images.to(self.device) if images.numel() <= budget else None


_running: set[tuple[threading.Event, threading.Thread]] = set()
"""Threads of `ahead` that have not been told to end."""


@atexit.register
def _end_all() -> None:
    # An iterator that something still holds when the program ends is never closed. Its thread would be torn out of the middle
    # of a torch function, which aborts the whole process.
    running = tuple(_running)  # an iterator that another thread closes meanwhile takes its own out
    for closed, _ in running:
        closed.set()
    for _, thread in running:
        thread.join()


def ahead(items: Iterator[Item], count: int) -> Iterator[Item]:
    """The same items, made by a thread that stays up to `count` ahead; its errors are raised here.

    The thread ends with the items, when the iterator returned is closed or forgotten, or with the program.
    """
    ready: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(count)
    closed = threading.Event()

    def put(entry: tuple[Item | None, BaseException | None]) -> bool:
        while not closed.is_set():
            try:
                ready.put(entry, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        failure: BaseException | None = None
        try:
            for item in items:
                if closed.is_set() or not put((item, None)):
                    return
        except BaseException as error:  # it must reach the thread that waits for the next item, whatever it is
            failure = error
        put((None, failure))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    _running.add((closed, thread))
    thread.start()
    try:
        while True:
            item, failure = ready.get()
            if failure is not None:
                raise failure
            if item is None:
                return
            yield item
    finally:
        closed.set()
        thread.join()
        _running.discard((closed, thread))
