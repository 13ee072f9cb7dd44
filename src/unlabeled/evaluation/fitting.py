"""Plain supervised training for the protocols that need some: a classifier on frozen maps, or a network fine-tuned.

One process and many give the same steps: every rank sees its part of the batch and gradients are averaged. A fit that
was stopped goes on at the epoch after the last one kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

from unlabeled import progress
from unlabeled.device import autocast
from unlabeled.distributed import all_reduce_sum, rank, world_size
from unlabeled.evaluation.partial import Partial
from unlabeled.randomness import seed_from

SAVE_SECONDS = 20.0
"""A fit is kept no more often than this: seconds are soon repeated."""

Batches = Callable[[int], Iterable[tuple[torch.Tensor, torch.Tensor]]]
"""Epoch -> this rank's (input [B, ...], target [B, ...]) of every step, in an order keyed by seed and epoch alone."""

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(output, target) -> mean over the batch."""


@dataclass(frozen=True)
class Fit:
    """How to train. Stochastic gradient descent; `lr` as a function of the step since the beginning."""

    epochs: int
    """Passes over the data."""
    steps: int
    """Steps of an epoch, for progress and for `lr`."""
    lr: Callable[[int], float]
    """Learning rate of a step."""
    momentum: float = 0.9
    """Of plain SGD."""
    weight_decay: float = 0.0
    """On every parameter."""
    clip: float | None = None
    """Largest norm of the gradient."""
    seed: int = 0
    """Of dropout."""
    dtype: torch.dtype = torch.float32
    """Precision of the forward pass."""
    freeze_norm: bool = False
    """Whether batch statistics stay as they are (evaluation mode of the normalisation layers)."""


def fit(
    module: nn.Module,
    batches: Batches,
    loss: Loss,
    how: Fit,
    *,
    title: str,
    partial: Partial | None = None,
    name: str = "fit",
    after_epoch: Callable[[int], None] = lambda epoch: None,
) -> nn.Module:
    """Train those parameters of `module` that require a gradient, in place; returns it in evaluation mode.

    `partial` and `name` say where to keep the work so far; `after_epoch(epoch)` runs after each epoch in evaluation
    mode, on every rank.

    Raises:
        RunError: `partial` cannot be written.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    device = parameters[0].device
    optimizer = torch.optim.SGD(parameters, lr=how.lr(0), momentum=how.momentum, weight_decay=how.weight_decay)
    kept = partial or Partial()
    begun = _restore(module, optimizer, kept, name)
    last_save, step = time.monotonic(), begun * how.steps
    with progress.bar(title, how.epochs * how.steps) as update:
        for epoch in range(begun, how.epochs):
            _training_mode(module, how.freeze_norm)
            for view, target in batches(epoch):
                torch.manual_seed(seed_from(how.seed, "fit", epoch, step, rank()))
                for group in optimizer.param_groups:
                    group["lr"] = how.lr(step)
                with autocast(device, how.dtype):
                    output = module(view)
                value = loss(output.float(), target)
                optimizer.zero_grad(set_to_none=True)
                value.backward()
                _average_gradients(parameters)
                if how.clip is not None:
                    nn.utils.clip_grad_norm_(parameters, how.clip)
                optimizer.step()
                step += 1
                update(step, f"loss {float(value.detach()):.3f}")
            module.eval()
            after_epoch(epoch)
            # Every rank comes to the same decision only if it is one rank's.
            due = all_reduce_sum(torch.tensor(float(time.monotonic() - last_save > SAVE_SECONDS and rank() == 0)))
            if bool(due) and epoch + 1 < how.epochs:
                _keep(module, optimizer, kept, name, epoch + 1)
                last_save = time.monotonic()
    return module.eval()


def _training_mode(module: nn.Module, freeze_norm: bool) -> None:
    module.train()
    if freeze_norm:
        for part in module.modules():
            if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
                part.eval()


def _average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    if world_size() > 1:
        for parameter in parameters:
            if parameter.grad is not None:
                all_reduce_sum(parameter.grad).div_(world_size())


def _keep(module: nn.Module, optimizer: torch.optim.SGD, kept: Partial, name: str, epoch: int) -> None:
    momenta = {
        f"momentum.{number}": optimizer.state[parameter]["momentum_buffer"]
        for number, parameter in enumerate(optimizer.param_groups[0]["params"])
        if optimizer.state.get(parameter, {}).get("momentum_buffer") is not None
    }
    weights = {f"module.{key}": value for key, value in module.state_dict().items()}
    kept.save(name, weights | momenta | {"epoch": torch.tensor(epoch)})


def _restore(module: nn.Module, optimizer: torch.optim.SGD, kept: Partial, name: str) -> int:
    found = kept.load(name)
    if found is None:
        return 0
    module.load_state_dict({key.removeprefix("module."): value for key, value in found.items() if key[:7] == "module."})
    for number, parameter in enumerate(optimizer.param_groups[0]["params"]):
        if f"momentum.{number}" in found:
            buffer = found[f"momentum.{number}"].to(parameter.device)
            optimizer.state[parameter]["momentum_buffer"] = buffer
    return int(found["epoch"])
