"""Optimisers and learning-rate schedules of the papers.

The body of the network keeps its momentum over the whole run, while the head may be replaced every epoch: two
optimisers, stepped together (spec O01, O02; golden `dc_two_optimizers`). Schedules are pure functions of the time in
epochs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from unlabeled.config import Config
from unlabeled.errors import RunError

_WARMUP_START = 0.01


def step_decay(lr: float, epoch: float, drops: Sequence[float], factor: float = 0.1) -> float:
    """`lr` times `factor` for every entry of `drops` that `epoch` has reached (NPID: drops 120, 160; spec O08, O09)."""
    return lr * factor ** sum(epoch >= drop for drop in drops)


def inverse_decay(lr: float, time: float, start: float, gamma: float) -> float:
    """`lr / (1 + gamma · max(0, time − start))` (NAT §3.3; transfer: gamma 0.3 from epoch 20, spec O07)."""
    return lr / (1 + gamma * max(0.0, time - start))


def cosine_decay(lr: float, progress: float) -> float:
    """Half a cosine from `lr` at progress 0 to 0 at progress 1."""
    return lr * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def learning_rate(config: Config, epoch: float) -> float:
    """Learning rate of the body at time `epoch` (0 at the start, `config.epochs` at the end), warm-up included.

    The loop asks before every step. Warm-up is linear from a hundredth of `config.lr` over the first `config.warmup`
    epochs. The cosine runs over what is left after it; `schedule_steps` and `inverse_start` count from the start of the run.
    """
    if epoch < config.warmup:
        return config.lr * (_WARMUP_START + (1 - _WARMUP_START) * epoch / config.warmup)
    if config.schedule == "cosine":
        return cosine_decay(config.lr, (epoch - config.warmup) / max(config.epochs - config.warmup, 1e-9))
    if config.schedule == "inverse":
        return inverse_decay(config.lr, epoch, config.inverse_start, config.inverse_gamma)
    if config.schedule == "steps":
        return step_decay(config.lr, epoch, config.schedule_steps)
    return config.lr


class MomentumSGD:
    """d = gradient + weight_decay · w; buffer = momentum · buffer + d; w −= lr · buffer, for every weight of a module.

    The same update as `torch.optim.SGD` and the same fused kernel: one pass over weights, gradients and buffers, of
    which AlexNet has 58 million each, instead of four. Building torch's class imports its compiler, which takes
    seconds.
    """

    def __init__(self, module: nn.Module, momentum: float, weight_decay: float) -> None:
        self.module = module
        self.momentum, self.weight_decay = momentum, weight_decay
        self.lr = 0.0
        self.buffers: dict[str, torch.Tensor] = {}
        """Momentum by parameter name, in the memory order of the parameter; absent (zero) before the first step."""

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient, and drop the gradients."""
        moved = [(name, weight) for name, weight in self.module.named_parameters() if weight.grad is not None]
        if not moved:
            return
        gradients: list[torch.Tensor] = []
        for name, weight in moved:
            gradient = weight.grad
            assert gradient is not None
            # The kernel runs through memory, so all tensors of a parameter must lie in the same order.
            in_order = gradient.stride() == weight.stride()
            gradients.append(gradient if in_order else torch.empty_like(weight).copy_(gradient))
            if self.momentum and name not in self.buffers:
                self.buffers[name] = torch.zeros_like(weight)
        torch.ops.aten._fused_sgd_(
            [weight for _, weight in moved],
            gradients,
            [self.buffers[name] for name, _ in moved] if self.momentum else [],
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            lr=self.lr,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,
        )
        for _, weight in moved:
            weight.grad = None


def sums_over_batch(config: Config) -> bool:
    """Whether the loss of a batch is a sum, not a mean, over its images."""
    is_square = config.method == "nat" or (config.method == "supervised" and config.supervised_loss == "square")
    return is_square and config.loss_reduction == "sum"


class Optimizer:
    """SGD with momentum for the backbone, kept over the run, and one of its own for whichever head is adopted.

    The head's learning rate is `config.head_lr`, at most what is stable for the features it was told to expect, and
    follows the same schedule; the body's as it is if no `head_lr` is given. Weight decay
    is the same for every parameter of both, biases and batch normalisation included, as in DeepCluster.
    """

    def __init__(self, backbone: nn.Module, config: Config) -> None:
        self.config = config
        self._parts = {"backbone": MomentumSGD(backbone, config.momentum, config.weight_decay)}
        self._gathered = 0
        self._head_lr = config.lr
        self.set_lr(learning_rate(config, 0.0))

    def adopt(self, head: nn.Module) -> None:
        """Train `head` from now on, with an optimiser that remembers nothing (spec O02); the previous head is let go.

        A head that is adopted already keeps its optimiser, so this may be called at the start of every epoch.
        """
        if "head" in self._parts and self._parts["head"].module is head:
            return
        self._parts["head"] = MomentumSGD(head, self.config.head_momentum, self.config.weight_decay)
        self._head_lr = self.config.lr
        if self.config.head_lr is not None:
            self._head_lr = min(self.config.head_lr, float(getattr(head, "stable_lr", math.inf)))
        self.set_lr(self.lr)

    def set_lr(self, lr: float) -> None:
        """Set the body's learning rate, and the head's to the same share of `config.head_lr`."""
        self.lr = lr
        for name, part in self._parts.items():
            part.lr = lr if name == "backbone" else self._head_lr * (lr / self.config.lr)

    def step(self, loss: torch.Tensor, *, last: bool = False) -> None:
        """Add the gradient of `loss`; every `config.accumulate` calls the weights move.

        A loss that is a mean over its batch is divided by `config.accumulate`, so that the gradient is that of one large
        batch; one that is a sum over its batch (NAT, section 3.3; the square loss) adds up to that of the large batch as it
        is.

        `last`: no more batches follow (the end of an epoch), so the weights move whatever has been gathered.
        """
        is_mean = self.config.accumulate > 1 and not sums_over_batch(self.config)
        (loss / self.config.accumulate if is_mean else loss).backward()
        self._gathered += 1
        if self._gathered < self.config.accumulate and not last:
            return
        self._gathered = 0
        for part in self._parts.values():
            part.step()

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """Everything carried from step to step, by name: "momentum.backbone.conv1.weight", "momentum.head.…".

        Between two moves of the weights also the gradients gathered so far, "gradient.…", and their number, "gathered".
        """
        tensors = {"gathered": torch.tensor(self._gathered)}
        for part, sgd in self._parts.items():
            tensors |= {f"momentum.{part}.{name}": buffer for name, buffer in sgd.buffers.items()}
            for name, parameter in sgd.module.named_parameters():
                if self._gathered and parameter.grad is not None:
                    tensors[f"gradient.{part}.{name}"] = parameter.grad
        return tensors

    def load_state_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over what `state_tensors` gave, after the head of that time has been adopted.

        Raises RunError if a name or a shape does not belong to these modules.
        """
        remaining = dict(tensors)
        self._gathered = int(remaining.pop("gathered", torch.tensor(0)))
        for part, sgd in self._parts.items():
            sgd.buffers = {}
            for name, parameter in sgd.module.named_parameters():
                momentum = remaining.pop(f"momentum.{part}.{name}", None)
                if momentum is not None:
                    sgd.buffers[name] = _like(parameter, momentum, f"momentum of {part}.{name}")
                gradient = remaining.pop(f"gradient.{part}.{name}", None)
                parameter.grad = None if gradient is None else _like(parameter, gradient, f"gradient of {part}.{name}")
        if remaining:
            raise RunError(
                f"the checkpoint holds '{min(remaining)}', which belongs to no parameter of this network or its head: "
                f"resume with the configuration this checkpoint was written with."
            )


def _like(parameter: nn.Parameter, stored: torch.Tensor, what: str) -> torch.Tensor:
    """`stored` on the device, in the dtype and the memory order of `parameter`."""
    if stored.shape != parameter.shape:
        raise RunError(
            f"the stored {what} has shape {tuple(stored.shape)}, the parameter {tuple(parameter.shape)}: "
            f"resume with the configuration this checkpoint was written with."
        )
    return torch.empty_like(parameter, requires_grad=False).copy_(stored)


class DampedSGD:
    """NAT's transfer optimiser (O07): buffer = m·buffer + (1 − m)·gradient; weights ×(1 − decay), then − lr·buffer.

    `decay` is independent of `lr` and acts on tensors of two or more dimensions only: not on biases, not on batch
    normalisation. The buffers begin at zero. Set `lr` between steps to follow a schedule.
    """

    def __init__(self, weights: Iterable[nn.Parameter], lr: float, momentum: float = 0.9, decay: float = 1e-8) -> None:
        self.weights = list(weights)
        self.lr, self.momentum, self.decay = lr, momentum, decay
        self.buffers = [torch.zeros_like(weight) for weight in self.weights]

    @torch.no_grad()
    def step(self) -> None:
        """Move every weight that has a gradient, and drop the gradients."""
        for weight, buffer in zip(self.weights, self.buffers, strict=True):
            if weight.grad is None:
                continue
            buffer.lerp_(weight.grad, 1 - self.momentum)
            if weight.ndim > 1:
                weight.mul_(1 - self.decay)
            weight.add_(buffer, alpha=-self.lr)
            weight.grad = None
