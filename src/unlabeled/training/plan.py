"""What a run will need, said before it starts, and refused early where it cannot fit.

Numbers are bytes unless a name says otherwise. Shapes: N images, D feature dimensions, K clusters.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import nn

from unlabeled.cluster.novelty import FIT_ROWS
from unlabeled.config import Config, DataFacts
from unlabeled.device import autocast, resolve_precision
from unlabeled.distributed import alone, local_world_size
from unlabeled.errors import ConfigError, DataError
from unlabeled.features import SPILL_BYTES
from unlabeled.methods.base import Method
from unlabeled.progress import counted, size

WORKSPACE = 100 * 10**6
"""Bytes for views made ahead and for what the products of a layer need, measured on six networks."""
MEASURED_VIEWS = 2
"""Views that the network is run on to see what it keeps for the backward pass."""


@dataclass(frozen=True)
class Plan:
    """The memory a run will take, piece by piece, and what it will do."""

    images: int
    weights: int
    activations: int
    features: int
    clustering: int
    catalogue: int
    table: int
    images_per_epoch: int
    batch_size: int
    processes: int
    available: int
    """Free where the network trains."""
    host: int | None
    """Free main memory where the network trains on a GPU: features and clusters stay here. None without one."""

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch, every process one at a step."""
        return self.images_per_epoch // (self.batch_size * self.processes)

    @property
    def memory(self) -> int:
        """Bytes needed at once where the network trains; features beyond a limit go to disk instead.

        The catalogue is made at the end, when nothing is kept for a backward pass any more.
        """
        if self.host is not None:
            return WORKSPACE + self.weights + self.activations + self.table
        passing = max(self.activations, self.catalogue)
        return WORKSPACE + self.weights + passing + _in_memory(self.features) + self.clustering + self.table

    @property
    def host_memory(self) -> int:
        """Bytes needed at once in main memory beside a GPU."""
        return _in_memory(self.features) + max(self.clustering, self.catalogue)

    def sentence(self) -> str:
        """The plan in one line."""
        spilled = " (on disk)" if self.features > SPILL_BYTES else ""
        if self.host is not None:
            return (
                f"memory of the GPU about {size(self.memory)}: network and optimizer {size(self.weights)}, "
                f"activations {size(self.activations)}, targets {size(self.table)}, workspace {size(WORKSPACE)}; "
                f"{size(self.available)} are free. Main memory about {size(self.host_memory)}: features "
                f"{size(self.features)}{spilled}, clustering {size(self.clustering)}, after training "
                f"{size(self.catalogue)} for the catalogue instead of that; {size(self.host)} are free"
            )
        return (
            f"memory about {size(self.memory)}: network and optimizer {size(self.weights)}, activations "
            f"{size(self.activations)}, features {size(self.features)}{spilled}, clustering {size(self.clustering)}, "
            f"targets {size(self.table)}, workspace {size(WORKSPACE)}, after training {size(self.catalogue)} for the "
            f"catalogue instead of the activations; {size(self.available)} are free"
        )

    def check(self) -> None:
        """Refuse what cannot fit.

        Raises:
            DataError: one image, from which nothing can be learned.
            ConfigError: an epoch does not fill one batch, or more memory is needed than is free.
        """
        if self.images < 2:
            raise DataError(
                f"only {self.images} image can be read, and there is nothing to learn from fewer than 2; give more images."
            )
        if not self.steps_per_epoch:
            raise ConfigError(
                f"batch_size ({self.batch_size:,}) on each of {counted(self.processes, 'process', 'processes')} must be at most "
                f"the images of an epoch ({self.images_per_epoch:,}); try `--batch-size "
                f"{max(1, self.images_per_epoch // self.processes // 2)}`."
            )
        if self.memory > self.available:
            raise ConfigError(
                f"this run needs about {size(self.memory)} of memory and {size(self.available)} are free; "
                "lower --batch-size or --image-size, or choose a smaller --backbone or fewer --num-clusters."
            )
        if self.host is not None and self.host_memory > self.host:
            raise ConfigError(
                f"this run needs about {size(self.host_memory)} of main memory for features and clusters and {size(self.host)} are "
                "free; lower --pca-dims or --num-clusters, choose a smaller --backbone, or use more machines."
            )


def plan(method: Method, config: Config, facts: DataFacts, world_size: int = 1) -> Plan:
    """Estimate a run from its method and settings; `world_size` processes share the images, not the weights."""
    network, feature_dim = method.network(), method.backbone.feature_dim
    # Weights, gradients, momentum, and the averaged copy that a checkpoint makes.
    weights = 4 * sum(parameter.nbytes for parameter in network.parameters())
    rows = -(-facts.count // world_size)
    dims = min(config.pca_dims or feature_dim, feature_dim)
    return Plan(
        images=facts.count,
        weights=weights,
        activations=config.batch_size * activation_bytes(method, config, facts),
        features=rows * feature_dim * 4,
        clustering=rows * dims * 4
        + 4 * max(config.num_clusters, config.shown_clusters) * (dims + 8192)
        + 8 * feature_dim**2,
        # On every rank the features of all images, and those an image is compared with twice: as a table and scaled anew.
        catalogue=_in_memory(facts.count * feature_dim * 4) + 2 * min(facts.count, FIT_ROWS) * feature_dim * 4,
        table=method.table_bytes(),
        images_per_epoch=method.images_per_epoch,
        batch_size=config.batch_size,
        processes=world_size,
        available=free_memory(facts.device),
        host=free_memory("cpu") if facts.device == "cuda" else None,
    )


def activation_bytes(method: Method, config: Config, facts: DataFacts) -> int:
    """Bytes that one view keeps in memory for the backward pass, measured on a few made views.

    What two more views add: weights that autocast rounds are kept once, however many views there are. The network, its
    statistics and the random numbers that follow are as they were.
    """
    network = method.network()
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    was_training = network.training
    network.train()
    few, more = (_saved_bytes(network, views, config, facts) for views in (MEASURED_VIEWS, 2 * MEASURED_VIEWS))
    network.train(was_training)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            buffer.copy_(buffers[name])
    return (more - few) // MEASURED_VIEWS


def _saved_bytes(network: nn.Module, views: int, config: Config, facts: DataFacts) -> int:
    """Bytes of the storages that autograd saves of so many views, each counted once, weights not."""
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # held: a storage that is let go would give its place to another

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    view = torch.zeros(views, facts.channels, config.image_size, config.image_size)
    dtype = resolve_precision(config.precision, torch.device("cpu"))
    with (
        alone(),
        torch.random.fork_rng(devices=[]),
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        autocast(torch.device("cpu"), dtype),
    ):
        network(view.to(memory_format=torch.channels_last))
    return sum(storage.nbytes() for storage in kept.values())


def _in_memory(features: int) -> int:
    return 0 if features > SPILL_BYTES else features


def free_memory(device: str) -> int:
    """Bytes free on the device now; for the CPU within the limit of the container, if there is one, and this process's share
    where several on one machine need as much each."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    free = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")] if hasattr(os, "sysconf") else [2**40]
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        # Pages the system would give back on demand count as free.
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = [int(line.split()[1]) * 1024]
    free += [limit for limit in (*_cgroup_limits(), _address_space()) if limit is not None]
    return max(min(free), 0) // local_world_size()


def _cgroup_limits(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Bytes left in each control group this process is in, of version 1 and 2, from its own up to the root."""
    left: list[int] = []
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return left
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        base = root if not controllers else root / "memory"
        names = (
            ("memory.max", "memory.current") if not controllers else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        place = PurePosixPath(path.lstrip("/"))
        for folder in (place, *place.parents):
            try:
                limit, used = ((base / folder / name).read_text().strip() for name in names)
            except OSError:
                continue
            if limit.isdigit() and int(limit) < 2**60:
                left.append(int(limit) - int(used))
    return left


def _address_space() -> int | None:
    """Bytes that `ulimit -v` leaves this process; None without such a limit."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return limit
    return limit - pages * os.sysconf("SC_PAGE_SIZE")
