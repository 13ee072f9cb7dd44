"""What every backbone is: a fixed stem, named stages, one feature per view, and how its weights begin.

Shapes: views [B, C, S, S], features [B, D]. A backbone ends **before** the last ReLU and the head begins with it,
because that is where the methods read features (thesis Table 4.1, spec B10); nothing is ever cut out of a network and
put back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn

from unlabeled.errors import ConfigError

Initialisation = Literal["fan_out", "torch"]


class Backbone(nn.Module):
    """A network without head. Subclasses give `trunk`, which names every map it passes, and `pool`.

    stem: fixed front (normalisation, Sobel); buffers only.
    stages: names of the maps `forward_stages` returns, from input to output.
    feature_dim: D, length of the feature.
    image_size: side of the views it was built for, pixels.
    """

    stem: nn.Module
    stages: tuple[str, ...] = ()
    feature_dim: int
    image_size: int
    initialisation: Initialisation = "fan_out"

    def trunk(self, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Run the convolutions on the stem's output; yield (stage, map after its ReLU) in order."""
        raise NotImplementedError

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w], the last stage's map, to the feature [B, D]."""
        raise NotImplementedError

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        """[B, C, S, S], uint8 or floating in 0…1, to the feature [B, D] before the last ReLU."""
        x = self.stem(view)
        for _, stage in self.trunk(x):
            x = stage
        return self.pool(x)

    def forward_stages(self, view: torch.Tensor) -> dict[str, torch.Tensor]:
        """Every stage's map [B, channels, h, w] after its ReLU; views of any size the convolutions can take."""
        return dict(self.trunk(self.stem(view)))


class ConvNorm(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, conv: nn.Conv2d, norm: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] to [B, C', h', w']."""
        return nn.functional.relu(self.norm(self.conv(x)), inplace=True)


def initialise(module: nn.Module, how: Initialisation, generator: torch.Generator | None = None) -> None:
    """Fill every parameter and statistic of `module`, in order, from `generator` (spec B08).

    "fan_out": convolutions N(0, 2 / (k·k·channels out of a group)), linear layers N(0, 0.01²), biases 0 (DeepCluster, instance
    discrimination). "torch": weights and biases uniform in ±1/√fan-in (Torch7's default, which NAT used). Batch
    normalisation begins as the identity in both.
    """
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            _initialise_layer(part, how, generator)
        elif isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            part.reset_parameters()


@torch.no_grad()
def _initialise_layer(
    layer: nn.Conv2d | nn.Linear, how: Initialisation, generator: torch.Generator | None = None
) -> None:
    bias = layer.bias
    if how == "torch":
        bound = 1 / math.sqrt(layer.weight[0].numel())
        layer.weight.uniform_(-bound, bound, generator=generator)
        if bias is not None:
            bias.uniform_(-bound, bound, generator=generator)
        return
    if how != "fan_out":
        raise ConfigError(f"unknown initialisation '{how}'; give 'fan_out' or 'torch'.")
    std = 0.01
    if isinstance(layer, nn.Conv2d):
        fan_out = math.prod(layer.kernel_size) * layer.out_channels // layer.groups
        std = math.sqrt(2 / fan_out)
    layer.weight.normal_(0, std, generator=generator)
    if bias is not None:
        bias.zero_()


def check_size(name: str, image_size: int, least: int) -> None:
    """Raise ConfigError if views of `image_size` pixels would leave nothing of the last map."""
    if image_size < least:
        raise ConfigError(
            f"image_size is {image_size} pixels but the backbone '{name}' needs at least {least}: "
            f"raise image_size or choose a backbone for small images such as 'alexnet_small' or 'resnet18_small'."
        )
