"""A training step of each method on the same network: what Noise As Targets, the proximal term and the memory bank cost.

Three statements about cost: Noise As Targets is "barely less efficient" to train than with labels (ICML 2017, section
1), the proximal term costs next to nothing (Wu et al., CVPR 2018, section 3.3), and a memory bank saves gradients and
storage of N weight vectors (section 3.1). A step is that of `training.py`: network, targets, loss, gradient, update, rows
rewritten. CPU time of one thread, all in turn in one process, medians. `ours` is the method, the reference what its row names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.timing import time_in_turn
from unlabeled.config import Config
from unlabeled.methods import build_method
from unlabeled.methods.base import Method
from unlabeled.training.optim import Optimizer

IMAGES, CLASSES = 50_000, 1000
SETTINGS: dict[str, dict[str, Any]] = {
    "labels": {"method": "supervised"},
    "NAT, trading": {"method": "nat", "permute_every": 1},
    "NAT, not trading": {"method": "nat", "permute_every": 0},
    "instance, running mean": {"method": "instance", "memory": "momentum"},
    "instance, proximal": {"method": "instance", "memory": "proximal"},
    "instance, weight vectors": {"method": "instance", "objective": "parametric"},
}
PAIRS = (
    ("NAT, trading", "labels"),
    ("NAT, not trading", "labels"),
    ("instance, running mean", "labels"),
    ("instance, proximal", "instance, running mean"),
    ("instance, weight vectors", "instance, running mean"),
)


def run(quick: bool) -> list[dict[str, Any]]:
    """Rows on the small AlexNet at 32 pixels, and unless `quick` on AlexNet at 224."""
    sizes = [("alexnet_small", 32, 128)] if quick else [("alexnet_small", 32, 256), ("alexnet", 224, 64)]
    return [row for network, size, batch in sizes for row in measure(network, size, batch, 2 if quick else 3)]


def measure(network: str, size: int, batch: int, turns: int) -> list[dict[str, Any]]:
    """A row for each pair."""
    draw = torch.Generator().manual_seed(0)
    views = torch.randint(256, (batch, 3, size, size), dtype=torch.uint8, generator=draw)
    views = views.to(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (IMAGES,), generator=draw)
    works: dict[str, Callable[[], None]] = {}
    storage: dict[str, int] = {}
    for name, settings in SETTINGS.items():
        config = Config(backbone=network, image_size=size, batch_size=batch, lr=0.01, stem="sobel", **settings)
        method = build_method(config, IMAGES, 3, labels)
        optimizer = Optimizer(method.backbone, config)
        method.before_epoch(0, lambda index=None: torch.empty(0))
        optimizer.adopt(method.head)
        works[name] = work(method, optimizer, views, draw)
        storage[name] = bytes_for_images(method, settings)
    seconds = time_in_turn(works, turns)
    return [
        {
            "name": f"step, {network} at {size} px, {name} against {other}",
            "ours": 1e3 * seconds[name],
            "reference": 1e3 * seconds[other],
            "ratio": seconds[other] / seconds[name],
            "unit": "ms",
            "detail": f"batch {batch}, {IMAGES:,} images; kept for the images {storage[name] / 1e6:,.1f} MB, "
            f"{storage[other] / 1e6:,.1f} MB",
        }
        for name, other in PAIRS
    ]


def work(method: Method, optimizer: Optimizer, views: torch.Tensor, draw: torch.Generator) -> Callable[[], None]:
    """One step on images drawn without replacement."""
    network = method.network().train()

    def step() -> None:
        index = torch.randperm(IMAGES, generator=draw)[: len(views)]
        method.before_step(index)
        with torch.autocast("cpu", torch.bfloat16):
            z = network(views)
        target = method.targets(index, z.detach())
        optimizer.step(method.loss(z.float(), target))
        method.after_step(index, z.detach())

    return step


def bytes_for_images(method: Method, settings: dict[str, Any]) -> int:
    """What is kept for every image: rows, or weight vectors with as large a gradient and momentum."""
    if settings.get("objective") == "parametric":
        weights = max((parameter.nbytes for parameter in method.head.parameters()), default=0)
        return 3 * weights
    return method.table_bytes()
