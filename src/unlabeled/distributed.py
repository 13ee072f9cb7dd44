"""One process and many are the same program.

Every function works without a process group (then there is one rank) and under `torchrun` (gloo on CPU, nccl on GPU).
Only these named collectives are used anywhere in the package, so what crosses ranks can be read off in one file.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from itertools import count
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
_groups = count()


_solitary = ContextVar("solitary", default=False)


def is_distributed() -> bool:
    """Whether a process group of more than one rank is up, and this process is not `alone`."""
    return dist.is_available() and dist.is_initialized() and not _solitary.get() and dist.get_world_size() > 1


@contextmanager
def alone() -> Generator[None]:
    """Inside, this process is one of one: for work of a single rank made of functions that would wait for the others."""
    token = _solitary.set(True)
    try:
        yield
    finally:
        _solitary.reset(token)


def rank() -> int:
    """Number of this process, 0 without a process group."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Number of processes, 1 without a process group."""
    return dist.get_world_size() if is_distributed() else 1


def local_world_size() -> int:
    """Number of processes on this machine, 1 without torchrun."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process is the one that writes files and prints."""
    return rank() == 0


@contextmanager
def process_group(device: str) -> Generator[None]:
    """Join the group that `torchrun` describes in the environment, if it started this process; leave it at the end."""
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ
    if not launched or dist.is_initialized():
        yield
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # Rank 0 may decode a large folder while the others wait at a barrier, which takes longer than the default half hour.
    store, rank, size = next(dist.rendezvous("env://"))
    # A name of its own for each group of a process, and for each restart by torchrun: a script that trains twice, or ranks
    # that come back, would find the addresses of those before.
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    own = dist.PrefixStore(f"unlabeled-{restart}-{next(_groups)}", store)
    # Features are gathered on the CPU also where the network is on a GPU, which NCCL alone refuses.
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=own, rank=rank, world_size=size, timeout=timedelta(hours=12))
    try:
        yield
        # Leave together: a rank that tears down while another still talks to it can abort. One that failed is not waited for.
        with suppress(RuntimeError):
            dist.barrier()
    finally:
        dist.destroy_process_group()


def barrier() -> None:
    """Wait until every rank is here."""
    if is_distributed():
        dist.barrier()


def shard(n: int) -> slice:
    """The contiguous part of `range(n)` that belongs to this rank; the parts of all ranks are disjoint and cover it."""
    return shard_of(n, rank(), world_size())


def shard_of(n: int, part: int, parts: int) -> slice:
    """Part number `part` of `range(n)` cut into `parts` contiguous pieces whose lengths differ by at most one."""
    return slice(n * part // parts, n * (part + 1) // parts)


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum `tensor` over ranks, in place, and return it."""
    if is_distributed():
        dist.all_reduce(tensor)
    return tensor


def all_reduce_max(tensor: torch.Tensor) -> torch.Tensor:
    """Elementwise maximum of `tensor` over ranks, in place, and return it."""
    if is_distributed():
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def all_gather_rows(tensor: torch.Tensor) -> torch.Tensor:
    """Rows of all ranks, in rank order: [n_r, ...] on each rank gives [sum n_r, ...] everywhere. Lengths may differ."""
    if not is_distributed():
        return tensor
    lengths = torch.zeros(world_size(), dtype=torch.int64, device=tensor.device)
    lengths[rank()] = len(tensor)
    dist.all_reduce(lengths)
    longest = int(lengths.max())
    padded = tensor.new_zeros((longest, *tensor.shape[1:]))
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in range(world_size())]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(length)] for part, length in zip(parts, lengths, strict=True)])


def broadcast(tensor: torch.Tensor) -> torch.Tensor:
    """Overwrite `tensor` on every rank with rank 0's, in place, and return it."""
    if is_distributed():
        dist.broadcast(tensor, 0)
    return tensor


def broadcast_object(value: T) -> T:
    """Rank 0's value on every rank. The group is our own processes, so its pickle never comes from a stranger."""
    if not is_distributed():
        return value
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]
