"""Batch normalisation whose statistics span all ranks.

Shapes: B images of this rank, C channels, H×W positions. Torch's own `SyncBatchNorm` refuses to run on a CPU; this one
needs a sum over ranks and nothing else, so the program that trains on eight devices is tested on two gloo processes.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import nn

from unlabeled.distributed import all_reduce_sum, is_distributed


class _AcrossRanks(nn.modules.batchnorm._BatchNorm):  # pyright: ignore[reportPrivateUsage]
    """What both have beside torch's module.

    `synchronised`: while it trains, its batch is that of all ranks. `frozen`: it normalizes by its running statistics in
    training too, and changes neither these nor its scales.
    """

    synchronised: bool = True
    frozen: bool = False

    def train(self, mode: bool = True) -> Self:
        """Training mode, unless it is frozen."""
        return super().train(mode and not self.frozen)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise [B, C, ...]; equal to torch's module in evaluation, without other ranks, or with `synchronised` off."""
        if self.training and self.synchronised and is_distributed():
            return _normalise_over_ranks(self, input)
        return super().forward(input)


class BatchNorm1d(_AcrossRanks, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` on [B, C], over all ranks."""


class BatchNorm2d(_AcrossRanks, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` on [B, C, H, W], over all ranks."""


def convert_sync(module: nn.Module, enabled: bool) -> nn.Module:
    """Share batch statistics over ranks in every batch normalisation of `module`, or not; returns `module`."""
    for part in module.modules():
        if isinstance(part, _AcrossRanks):
            part.synchronised = enabled
    return module


def freeze_norm(module: nn.Module) -> nn.Module:
    """Keep statistics, scales and shifts of every batch normalization of `module`; returns `module`."""
    for part in module.modules():
        if isinstance(part, _AcrossRanks):
            part.frozen = True
            part.requires_grad_(False)
            part.eval()
    return module


def _normalise_over_ranks(norm: _AcrossRanks, input: torch.Tensor) -> torch.Tensor:
    channels = norm.num_features
    wide = input if input.dtype == torch.float64 else input.float()
    # Sums in float64: E[x²] − E[x]² cancels badly in float32, and there are only a few numbers per channel.
    variance, mean = torch.var_mean(wide, [axis for axis in range(input.ndim) if axis != 1], correction=0)
    mean, variance = mean.double(), variance.double()
    count = torch.full_like(mean[:1].detach(), input.numel() // channels)
    sums = _sum_over_ranks(torch.cat((count, count * mean, count * (variance + mean.square()))))
    count = sums[0].detach()
    mean = sums[1 : 1 + channels] / count
    variance = (sums[1 + channels :] / count - mean.square()).clamp_min(0)
    _track(norm, mean.detach(), variance.detach(), count)
    scale = (variance + norm.eps).rsqrt()
    shift = -mean * scale
    if norm.affine:
        scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
    shape = [1, channels] + [1] * (input.ndim - 2)
    # Half-precision inputs are scaled by float32 numbers, as torch's own kernel does.
    scale, shift = scale.to(wide.dtype).view(shape), shift.to(wide.dtype).view(shape)
    return torch.addcmul(shift, wide, scale).to(input.dtype)


@torch.no_grad()
def _track(norm: _AcrossRanks, mean: torch.Tensor, variance: torch.Tensor, count: torch.Tensor) -> None:
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked += 1
    momentum = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    unbiased = variance * count / (count - 1).clamp_min(1)
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
    norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), momentum)


def _sum_over_ranks(local: torch.Tensor) -> torch.Tensor:
    """Sum over ranks that gradients pass: every rank's `local` gets the sum of the gradients of all ranks."""
    total = all_reduce_sum(local.detach().clone())
    if not local.requires_grad:
        return total
    # Has the value of `total` and the graph of `local`; the hook adds what the other ranks send back.
    result = local + (total - local.detach())
    result.register_hook(lambda gradient: all_reduce_sum(gradient.clone()))
    return result
