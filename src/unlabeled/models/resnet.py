"""Residual networks (He et al. 2016; spec B04 to B06). Shapes: x [B, C, h, w].

Parameters bear the names torchvision gives them, so published weights need no translation. The stride of a bottleneck
sits on its 3×3 convolution.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

from unlabeled.models.backbone import Backbone, check_size
from unlabeled.models.sync_batch_norm import BatchNorm2d

_WIDTHS = (64, 128, 256, 512)


class Block(nn.Module):
    """relu(shortcut(x) + convolutions(x)); `kernels` (3, 3) is the basic block, (1, 3, 1) the bottleneck."""

    def __init__(self, channels: int, width: int, out: int, stride: int, kernels: tuple[int, ...]) -> None:
        super().__init__()
        self.depth = len(kernels)
        source = channels
        for i, kernel in enumerate(kernels, start=1):
            target = out if i == self.depth else width
            # The first 3×3 convolution takes the stride.
            step = stride if i == kernels.index(3) + 1 else 1
            self.add_module(f"conv{i}", nn.Conv2d(source, target, kernel, step, kernel // 2, bias=False))
            self.add_module(f"bn{i}", BatchNorm2d(target))
            source = target
        self.downsample: nn.Sequential | None = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] to [B, C', h / stride, w / stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        for i in range(1, self.depth + 1):
            x = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(x))
            x = functional.relu(x if i < self.depth else x + shortcut, inplace=True)
        return x


class ResNet(Backbone):
    """Stem convolution, four levels of residual blocks, mean over positions: the feature, 512 or 2048 long.

    `small`: a 3×3 stem of stride 1 without pool, for images of 32 to 64 pixels (spec B06).
    """

    def __init__(
        self, name: str, channels: int, image_size: int, *, depths: tuple[int, ...], bottleneck: bool, small: bool
    ) -> None:
        super().__init__()
        check_size(name, image_size, 8 if small else 32)
        self.stages = ("conv1", "layer1", "layer2", "layer3", "layer4")
        expansion = 4 if bottleneck else 1
        self.feature_dim, self.image_size, self.small = _WIDTHS[-1] * expansion, image_size, small
        kernel, stride = (3, 1) if small else (7, 2)
        self.conv1 = nn.Conv2d(channels, _WIDTHS[0], kernel, stride, kernel // 2, bias=False)
        self.bn1 = BatchNorm2d(_WIDTHS[0])
        source = _WIDTHS[0]
        for level, (width, depth) in enumerate(zip(_WIDTHS, depths, strict=True), start=1):
            blocks: list[Block] = []
            for i in range(depth):
                step = 2 if level > 1 and i == 0 else 1
                blocks.append(Block(source, width, width * expansion, step, (1, 3, 1) if bottleneck else (3, 3)))
                source = width * expansion
            self.add_module(f"layer{level}", nn.Sequential(*blocks))

    def trunk(self, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Maps of the stem convolution (before its pool) and of the four levels, after their ReLU."""
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        yield "conv1", x
        x = x if self.small else functional.max_pool2d(x, 3, 2, padding=1)
        for level in self.stages[1:]:
            x = self.get_submodule(level)(x)
            yield level, x

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        """[B, D, h, w] to [B, D]: the mean over positions."""
        return x.mean((2, 3))
