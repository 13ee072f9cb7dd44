"""Features of a whole image set: this rank's rows, in index order, from the central view, in evaluation mode.

Shapes: N images, n rows of this rank, D feature dimensions.
"""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from unlabeled import progress
from unlabeled.data.augment import draw
from unlabeled.device import autocast
from unlabeled.distributed import shard
from unlabeled.errors import Interrupted, RunError
from unlabeled.models.sync_batch_norm import BatchNorm1d, BatchNorm2d
from unlabeled.progress import size
from unlabeled.randomness import generator

if TYPE_CHECKING:
    from unlabeled.data.loading import Loader

SPILL_BYTES = 4 * 10**9
"""Features larger than this go to a temporary memory-mapped file instead of memory."""


@contextmanager
def evaluation_mode(module: nn.Module) -> Generator[None]:
    """Dropout off and running batch statistics inside; the mode it had before, after."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


@contextmanager
def batch_statistics(module: nn.Module) -> Generator[None]:
    """Inside, batch normalisation uses each batch's own statistics as in training, dropout is off; nothing is changed after."""
    norms = [part for part in module.modules() if isinstance(part, (BatchNorm1d, BatchNorm2d))]
    shared = [part.synchronised for part in norms]
    kept = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with evaluation_mode(module):
        for part in norms:
            # Ranks may have parts of different length here, so none may wait for another.
            part.train()
            part.synchronised = False
        try:
            yield
        finally:
            for part, was in zip(norms, shared, strict=True):
                part.synchronised = was
            for name, buffer in module.named_buffers():
                buffer.copy_(kept[name])


@torch.no_grad()
def embed(
    backbone: nn.Module,
    loader: Loader,
    index: torch.Tensor | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    batch_size: int = 256,
    title: str = "features",
    stop: Callable[[], bool] = lambda: False,
    mode: Callable[[nn.Module], AbstractContextManager[None]] = evaluation_mode,
) -> torch.Tensor:
    """Features of this rank's shard of the images `index` (int64 [m], all if None), [n, D] float32 on the CPU, in order.

    The view is the one of DeepCluster section 3.4: short side resized, central crop, no augmentation, evaluation mode or
    `mode`.

    Raises:
        Interrupted: `stop()` became true.
    """
    asked = torch.arange(len(loader.store)) if index is None else index.cpu()
    own = asked[shard(len(asked))]
    # A rank without images looks at one of another's: it still has to know how long their features are.
    rows = own if len(own) else asked[:1]
    features: torch.Tensor | None = None
    done, begun = 0, time.monotonic()
    with mode(backbone), progress.bar(title, len(rows)) as update:
        for _, view in loader.center_batches(rows, batch_size):
            if stop():
                raise Interrupted
            with autocast(view.device, dtype):
                output = backbone(view)
            if features is None:
                features = allocate(len(rows), output.shape[1])
            features[done : done + len(output)] = output.float().cpu()
            done += len(output)
            update(done, f"{done / (time.monotonic() - begun):,.0f} images/s")
    return torch.zeros(0, 0) if features is None else features[: len(own)]


@torch.no_grad()
def embed_views(
    backbone: nn.Module, loader: Loader, index: torch.Tensor, seed: int, *, dtype: torch.dtype, batch_size: int = 256
) -> torch.Tensor:
    """Features of one augmented view of each of the images `index` (int64 [m]), [m, D] float32 on the CPU, on this rank."""
    views = draw(loader.views, loader.store.sizes[index], generator(seed, "views of the finished run"))
    slices = [slice(begin, begin + batch_size) for begin in range(0, len(index), batch_size)]
    parts: list[torch.Tensor] = []
    with evaluation_mode(backbone):
        for _, view in loader.cut((index[part], views[part]) for part in slices):
            with autocast(view.device, dtype):
                parts.append(backbone(view).float().cpu())
    return torch.cat(parts)


def _reserve(descriptor: int, needed: int) -> None:
    """Take the room on the disk now: a page without room ends the process when it is written, without a word."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, needed)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
            return  # a file system that cannot reserve
        raise RunError(
            f"the features take {size(needed)} in the folder for temporary files, {tempfile.gettempdir()}, which has no room for "
            f"them ({error.strerror}): set TMPDIR to a larger folder and go on with `unlabeled resume`."
        ) from None


def allocate(count: int, dims: int) -> torch.Tensor:
    """Uninitialised float32 [count, dims]: in memory, or where that exceeds `SPILL_BYTES` in a temporary mapped file."""
    needed = count * dims * 4
    if needed <= SPILL_BYTES:
        return torch.empty(count, dims)
    with tempfile.NamedTemporaryFile(prefix="unlabeled-features-", suffix=".f32") as file:
        _reserve(file.fileno(), needed)
        # The mapping keeps the unlinked file alive: the space comes back when the tensor goes, whatever ends the process.
        return torch.from_numpy(np.memmap(Path(file.name), dtype=np.float32, mode="w+", shape=(count, dims)))
