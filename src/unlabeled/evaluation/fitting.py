"""Plain supervised training for the protocols that need some: a classifier on frozen maps, or a network fine-tuned.

One process and many give the same steps: every rank sees its part of the batch and gradients are averaged. A fit that
was stopped goes on at the epoch after the last one kept.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import nn
from torch.nn import functional

from unlabeled import progress
from unlabeled.device import autocast
from unlabeled.distributed import all_reduce_sum, rank, world_size
from unlabeled.evaluation.result_cache import Partial
from unlabeled.models.backbone import Backbone
from unlabeled.models.sync_batch_norm import BatchNorm1d, BatchNorm2d, convert_sync
from unlabeled.randomness import seed_from
from unlabeled.training.optim import DampedSGD

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
    accumulate: int = 1
    """Batches whose gradients are averaged into one step: `batches` yields steps × accumulate of them."""


class Mover(Protocol):
    """What moves the weights after each step."""

    def prepare(self, step: int) -> None:
        """Set the learning rates of this step and forget the last gradients."""
        ...

    def step(self) -> None:
        """Move every weight that has a gradient."""
        ...

    def buffers(self) -> dict[str, torch.Tensor]:
        """What it remembers from step to step, by name."""
        ...

    def restore(self, buffers: Mapping[str, torch.Tensor]) -> None:
        """Take over what `buffers` gave."""
        ...


@dataclass(frozen=True)
class Group:
    """Weights that share a learning rate and a decay."""

    parameters: Sequence[nn.Parameter]
    lr: Callable[[int], float]
    """Learning rate of a step."""
    weight_decay: float = 0.0


class Sgd:
    """Stochastic gradient descent with momentum, on groups of weights with rates of their own."""

    def __init__(self, groups: Sequence[Group], momentum: float) -> None:
        self.groups = groups
        self.torch = torch.optim.SGD(
            [
                {"params": list(group.parameters), "lr": group.lr(0), "weight_decay": group.weight_decay}
                for group in groups
            ],
            momentum=momentum,
        )

    def prepare(self, step: int) -> None:
        """See Mover."""
        for group, own in zip(self.groups, self.torch.param_groups, strict=True):
            own["lr"] = group.lr(step)
        self.torch.zero_grad(set_to_none=True)

    def step(self) -> None:
        """See Mover."""
        self.torch.step()

    def buffers(self) -> dict[str, torch.Tensor]:
        """See Mover."""
        found = {number: self.torch.state.get(weight, {}).get("momentum_buffer") for number, weight in self._weights()}
        return {str(number): buffer for number, buffer in found.items() if buffer is not None}

    def restore(self, buffers: Mapping[str, torch.Tensor]) -> None:
        """See Mover."""
        for number, weight in self._weights():
            if str(number) in buffers:
                self.torch.state[weight]["momentum_buffer"] = buffers[str(number)].to(weight.device)

    def _weights(self) -> Iterable[tuple[int, nn.Parameter]]:
        return enumerate(weight for group in self.torch.param_groups for weight in group["params"])


class Damped:
    """NAT's transfer optimiser (`optim.DampedSGD`, spec O07) with a learning rate for every step."""

    def __init__(self, weights: Sequence[nn.Parameter], lr: Callable[[int], float], momentum: float, decay: float):
        self.lr = lr
        self.own = DampedSGD(weights, lr(0), momentum, decay)

    def prepare(self, step: int) -> None:
        """See Mover. The last gradients went with the last step."""
        self.own.lr = self.lr(step)

    def step(self) -> None:
        """See Mover."""
        self.own.step()

    def buffers(self) -> dict[str, torch.Tensor]:
        """See Mover."""
        return {str(number): buffer for number, buffer in enumerate(self.own.buffers)}

    def restore(self, buffers: Mapping[str, torch.Tensor]) -> None:
        """See Mover."""
        for number, buffer in enumerate(self.own.buffers):
            buffer.copy_(buffers[str(number)])


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
    mover: Mover | None = None,
) -> nn.Module:
    """Train those parameters of `module` that require a gradient, in place; returns it in evaluation mode.

    `partial` and `name` say where to keep the work so far; `after_epoch(epoch)` runs after each epoch in evaluation
    mode, on every rank. `mover` takes the place of the SGD that `how` describes.

    Raises:
        RunError: `partial` cannot be written.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    device = parameters[0].device
    moving = mover or Sgd([Group(parameters, how.lr, how.weight_decay)], how.momentum)
    kept = partial or Partial()
    begun = _restore(module, moving, kept, name)
    last_save, step = time.monotonic(), begun * how.steps
    with progress.bar(title, how.epochs * how.steps) as update:
        for epoch in range(begun, how.epochs):
            _training_mode(module, how.freeze_norm)
            for part, (view, target) in enumerate(batches(epoch), start=1):
                if part % how.accumulate == 1 % how.accumulate:
                    torch.manual_seed(seed_from(how.seed, "fit", epoch, step, rank()))
                    moving.prepare(step)
                with autocast(device, how.dtype):
                    output = module(view)
                value = loss(output.float(), target)
                (value / how.accumulate).backward()
                if part % how.accumulate:
                    continue
                _average_gradients(parameters)
                if how.clip is not None:
                    nn.utils.clip_grad_norm_(parameters, how.clip)
                moving.step()
                step += 1
                update(step, f"loss {float(value.detach()):.3f}")
            module.eval()
            after_epoch(epoch)
            # Every rank comes to the same decision only if it is one rank's.
            due = all_reduce_sum(torch.tensor(float(time.monotonic() - last_save > SAVE_SECONDS and rank() == 0)))
            if bool(due) and epoch + 1 < how.epochs:
                _keep(module, moving, kept, name, epoch + 1)
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


def _keep(module: nn.Module, moving: Mover, kept: Partial, name: str, epoch: int) -> None:
    momenta = {f"momentum.{key}": value for key, value in moving.buffers().items()}
    weights = {f"module.{key}": value for key, value in module.state_dict().items()}
    kept.save(name, weights | momenta | {"epoch": torch.tensor(epoch)})


def _restore(module: nn.Module, moving: Mover, kept: Partial, name: str) -> int:
    found = kept.load(name)
    if found is None:
        return 0
    weights, own = _part(found, "module."), module.state_dict()
    if {key: value.shape for key, value in weights.items()} != {key: value.shape for key, value in own.items()}:
        return 0  # what another version of this program kept is as good as nothing
    module.load_state_dict(weights)
    moving.restore(_part(found, "momentum."))
    return int(found["epoch"])


def _part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


NormStatistics = Literal["measured", "kept"]

MEASURED = 64
"""Training pictures that statistics are measured on, at most."""
BATCH = 8
"""Pictures of a batch while measuring: the variance inside a batch misses an eighth of what pictures differ by."""


@contextmanager
def measuring(network: nn.Module) -> Generator[None]:
    """What passes `network` inside this block gives every batch normalisation its statistics: the mean over batches.

    No gradients, everything else in evaluation mode. Every rank passes the same views.
    """
    norms = [part for part in network.modules() if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d))]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    shared = [part for part in norms if isinstance(part, (BatchNorm1d, BatchNorm2d)) and part.synchronised]
    # The same pictures counted once for every rank would change the unbiased variance.
    convert_sync(network, enabled=False)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
        norm.train()
    with torch.no_grad():
        yield
    for norm in shared:
        norm.synchronised = True
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def measured(backbone: Backbone, views: Iterable[torch.Tensor]) -> Backbone:
    """A copy of `backbone` whose batch normalisation has the statistics of `views`, batches [B, C, S, S]."""
    made = copy.deepcopy(backbone)
    with measuring(made):
        for view in views:
            made(view)
    return made


def batches(count: int) -> list[list[int]]:
    """At most `MEASURED` of `count` pictures, evenly spread, in batches of about `BATCH`.

    Never one alone, of which a fully connected layer has no variance: a single picture is taken twice.
    """
    taken = max(2, min(MEASURED, count))
    chosen = torch.tensor([i * count // taken for i in range(taken)])
    return [part.tolist() for part in chosen.tensor_split(-(-taken // BATCH))]


def squares(views: Sequence[torch.Tensor], side: int | None = None) -> torch.Tensor:
    """The central square of every view [1, C, h, w], all at one side: uint8 [n, C, side, side], or floating.

    side: pixels; the median of the squares' sides where not given.
    """
    cut = [min(view.shape[2:]) for view in views]
    common = side or sorted(cut)[len(cut) // 2]
    made: list[torch.Tensor] = []
    for view, own in zip(views, cut, strict=True):
        top, left = (view.shape[2] - own) // 2, (view.shape[3] - own) // 2
        square = view[:, :, top : top + own, left : left + own]
        if own != common:
            square = functional.interpolate(square, (common, common), mode="bilinear", antialias=True)
        made.append(square)
    return torch.cat(made)
