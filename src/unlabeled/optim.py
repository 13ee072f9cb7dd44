"""Optimisers and learning-rate schedules of the papers.

The body of the network keeps its momentum over the whole run, while the head may be replaced every epoch: two
optimisers, stepped together (spec O01, O02; golden `dc_two_optimizers`). Schedules are pure functions of the time in
epochs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

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

    Warm-up is linear from a hundredth of `config.lr` over the first `config.warmup` epochs. The cosine runs over what
    is left after it; the steps of `schedule_steps` count from the start of the run.
    """
    if epoch < config.warmup:
        return config.lr * (_WARMUP_START + (1 - _WARMUP_START) * epoch / config.warmup)
    if config.schedule == "cosine":
        return cosine_decay(config.lr, (epoch - config.warmup) / max(config.epochs - config.warmup, 1e-9))
    if config.schedule == "steps":
        return step_decay(config.lr, epoch, config.schedule_steps)
    return config.lr


class Optimizer:
    """SGD with momentum for the backbone, kept over the run, and one of its own for whichever head is adopted.

    The head's learning rate is `config.head_lr` (the body's if not given) and follows the same schedule. Weight decay
    is the same for every parameter of both, biases and batch normalisation included, as in DeepCluster.
    """

    def __init__(self, backbone: nn.Module, config: Config) -> None:
        self.config = config
        self._modules: dict[str, nn.Module] = {"backbone": backbone}
        self._optimizers = {"backbone": self._sgd(backbone, config.momentum)}
        self._gathered = 0
        self.set_lr(learning_rate(config, 0.0))

    def _sgd(self, module: nn.Module, momentum: float) -> torch.optim.SGD:
        # Fused: one pass over weights, gradients and momentum instead of four; AlexNet has 58 million of each.
        return torch.optim.SGD(
            module.parameters(), lr=self.config.lr, momentum=momentum, weight_decay=self.config.weight_decay, fused=True
        )

    def adopt(self, head: nn.Module) -> None:
        """Train `head` from now on, with an optimiser that remembers nothing (spec O02); the previous head is let go.

        A head that is adopted already keeps its optimiser, so this may be called at the start of every epoch.
        """
        if self._modules.get("head") is head:
            return
        self._modules["head"] = head
        self._optimizers["head"] = self._sgd(head, self.config.head_momentum)
        self.set_lr(self.lr)

    def set_lr(self, lr: float) -> None:
        """Set the body's learning rate, and the head's to the same share of `config.head_lr`."""
        self.lr = lr
        head_lr = self.config.lr if self.config.head_lr is None else self.config.head_lr
        rates = {"backbone": lr, "head": head_lr * (lr / self.config.lr)}
        for part, optimizer in self._optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = rates[part]

    def step(self, loss: torch.Tensor, *, last: bool = False) -> None:
        """Add the gradient of `loss` / `config.accumulate`; every `config.accumulate` calls the weights move.

        `last`: no more batches follow (the end of an epoch), so the weights move whatever has been gathered.
        """
        (loss / self.config.accumulate if self.config.accumulate > 1 else loss).backward()
        self._gathered += 1
        if self._gathered < self.config.accumulate and not last:
            return
        self._gathered = 0
        for optimizer in self._optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """Everything carried from step to step, by name: "momentum.backbone.conv1.weight", "momentum.head.…".

        Between two moves of the weights also the gradients gathered so far, "gradient.…", and their number, "gathered".
        """
        tensors = {"gathered": torch.tensor(self._gathered)}
        for part, name, parameter, state in self._entries():
            if state.get("momentum_buffer") is not None:
                tensors[f"momentum.{part}.{name}"] = state["momentum_buffer"]
            if parameter.grad is not None and self._gathered:
                tensors[f"gradient.{part}.{name}"] = parameter.grad
        return tensors

    def load_state_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over what `state_tensors` gave, after the head of that time has been adopted.

        Raises RunError if a name or a shape does not belong to these modules.
        """
        remaining = dict(tensors)
        self._gathered = int(remaining.pop("gathered", torch.tensor(0)))
        for part, name, parameter, state in self._entries():
            state.pop("momentum_buffer", None)
            for kind in ("momentum", "gradient"):
                stored = remaining.pop(f"{kind}.{part}.{name}", None)
                if stored is None:
                    continue
                if stored.shape != parameter.shape:
                    raise RunError(
                        f"the stored {kind} of {part}.{name} has shape {tuple(stored.shape)}, the parameter "
                        f"{tuple(parameter.shape)}: resume with the configuration this checkpoint was written with."
                    )
                # Like the parameter in device, dtype and memory order.
                value = torch.empty_like(parameter).copy_(stored).detach()
                if kind == "momentum":
                    state["momentum_buffer"] = value
                else:
                    parameter.grad = value
        if remaining:
            raise RunError(
                f"the checkpoint holds '{min(remaining)}', which belongs to no parameter of this network or its head: "
                f"resume with the configuration this checkpoint was written with."
            )

    def _entries(self) -> Iterator[tuple[str, str, nn.Parameter, dict[str, Any]]]:
        for part, module in self._modules.items():
            for name, parameter in module.named_parameters():
                yield part, name, parameter, self._optimizers[part].state[parameter]


class DampedSGD(torch.optim.Optimizer):
    """NAT's transfer optimiser (O07): buffer = m·buffer + (1 − m)·gradient; weights ×(1 − decay), then − lr·buffer.

    `decay` is independent of `lr` and acts on tensors of two or more dimensions only: not on biases, not on batch
    normalisation. The buffer begins at zero.
    """

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.9, decay: float = 1e-8) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Move every parameter that has a gradient; returns what `closure` returned if one was given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["buffer"] = torch.zeros_like(parameter)
                state["buffer"].lerp_(parameter.grad, 1 - group["momentum"])
                if parameter.ndim > 1:
                    parameter.mul_(1 - group["decay"])
                parameter.add_(state["buffer"], alpha=-group["lr"])
        return loss
