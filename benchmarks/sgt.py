"""Time of a mini-batch with the loss over some classes only ("SGT", the thesis, section 4.7 and table 4.3).

The thesis gives milliseconds of a mini-batch for subsets of 256 to 4,096 of its classes: 154 for the loss over all, then
177, 211, 277, 396 and 713. There a subset costs more the larger it is, and always more than none. What SGT saves is the
rest of the head, so with very many classes it must win: `crossover` rows look for that. Only the head is timed (features
[B, D] to their gradient, forward, backward and update), because the body costs the same whatever the head does. Beside
them the exact loss without keeping B × K logits: the head's classes in chunks, one pass for the sum of exponentials and one for
the gradients.

Rows: {"name", "ours", "reference", "ratio", "unit", "detail"}: ours is SGT or the chunked loss, the reference the plain
cross-entropy over all classes in the same run, median CPU milliseconds. `python -m benchmarks sgt [--quick]`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from benchmarks.timing import time_in_turn
from unlabeled.losses import class_subset, positions_in

BATCH, DIMS, LR = 256, 1024, 0.05
SUBSETS = (256, 512, 1024, 2048, 4096)
CHUNK = 8192
"""Classes whose logits the chunked loss holds at once."""


def run(quick: bool) -> list[dict[str, Any]]:
    """Table 4.3 at its number of classes, then the crossover with five times as many."""
    sizes = (2_000,) if quick else (10_000, 50_000)
    rows: list[dict[str, Any]] = []
    for classes in sizes:
        subsets = [size for size in SUBSETS if size < classes]
        works = {"none": full(classes), "chunked": chunked(classes)} | {
            str(size): restricted(classes, size) for size in subsets
        }
        seconds = time_in_turn(works, 2 if quick else 3)
        rows += [row(classes, name, seconds) for name in works if name != "none"]
    return rows


def row(classes: int, name: str, seconds: dict[str, float]) -> dict[str, Any]:
    """Milliseconds of one way, beside those of the plain loss over all classes."""
    what = f"SGT {int(name):,}" if name.isdigit() else "exact loss in chunks"
    faster = "faster" if seconds[name] < seconds["none"] else "slower"
    return {
        "name": f"head of {classes:,} classes, {what}, against the loss over all",
        "ours": 1e3 * seconds[name],
        "reference": 1e3 * seconds["none"],
        "ratio": seconds["none"] / seconds[name],
        "unit": "ms",
        "detail": f"batch {BATCH}, {DIMS} features: {faster} than all classes",
    }


def head(classes: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features [B, D], labels [B], weights [K, D] and biases [K] that learn."""
    random = torch.Generator().manual_seed(0)
    features = torch.randn(BATCH, DIMS, generator=random).requires_grad_()
    labels = torch.randint(classes, (BATCH,), generator=random)
    weight = (torch.randn(classes, DIMS, generator=random) * 0.01).requires_grad_()
    return features, labels, weight, torch.zeros(classes, requires_grad=True)


def full(classes: int) -> Callable[[], None]:
    """All logits, autograd, and a step of every row."""
    features, labels, weight, bias = head(classes)

    def step() -> None:
        features.grad = weight.grad = bias.grad = None
        cross_entropy(features @ weight.T + bias, labels).backward()
        with torch.no_grad():
            weight.sub_(weight.grad, alpha=LR)
            bias.sub_(bias.grad, alpha=LR)

    return step


def restricted(classes: int, size: int) -> Callable[[], None]:
    """Classes of the batch and random others; only their rows are read and moved, which is exact without momentum."""
    features, labels, weight, bias = head(classes)
    random = torch.Generator().manual_seed(1)

    def step() -> None:
        features.grad = None
        chosen = class_subset(labels, classes, size, random)
        rows, offsets = (part.detach()[chosen].requires_grad_() for part in (weight, bias))
        cross_entropy(features @ rows.T + offsets, positions_in(chosen, labels)).backward()
        with torch.no_grad():
            weight.index_add_(0, chosen, rows.grad, alpha=-LR)
            bias.index_add_(0, chosen, offsets.grad, alpha=-LR)

    return step


def chunked(classes: int) -> Callable[[], None]:
    """The exact loss and step with CHUNK columns of logits at a time: what a head needs that does not fit otherwise."""
    features, labels, weight, bias = head(classes)
    order = torch.arange(BATCH)

    @torch.no_grad()
    def step() -> None:
        parts = [slice(start, start + CHUNK) for start in range(0, classes, CHUNK)]
        x = features.detach()
        sums = [torch.logsumexp(x @ weight[part].T + bias[part], dim=1) for part in parts]
        total, gradient = torch.logsumexp(torch.stack(sums), dim=0), torch.zeros_like(x)
        for part in parts:
            shares = (x @ weight[part].T + bias[part] - total[:, None]).exp_()
            position = labels - part.start
            here = (position >= 0) & (position < shares.shape[1])
            shares[order[here], position[here]] -= 1
            shares /= BATCH
            gradient += shares @ weight[part]
            weight[part] -= LR * (shares.T @ x)
            bias[part] -= LR * shares.sum(dim=0)
        features.grad = gradient

    return step
