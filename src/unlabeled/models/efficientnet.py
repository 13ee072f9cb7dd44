"""EfficientNet-Lite0 (Tan & Le 2019, without squeeze-and-excitation and with ReLU6). Shapes: x [B, C, h, w].

Seven groups of inverted residual blocks between a 3×3 stem convolution and a 1×1 convolution to 1,280 channels.
Padding is TensorFlow's "same": at stride 2 the extra row and column stand below and to the right. Batch
normalization has ε = 1e-3. Parameters bear the names timm gives them (`tf_efficientnet_lite0`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from unlabeled.models.backbone import Backbone, check_size
from unlabeled.models.sync_batch_norm import BatchNorm2d

FEATURE_DIM = 1280


@dataclass(frozen=True)
class _Group:
    """Blocks of one width: `expansion` of the inner width, side of the depthwise kernel, stride of the first."""

    blocks: int
    channels: int
    kernel: int
    stride: int
    expansion: int


# EfficientNet-B0 (Tan & Le 2019, table 1); "Lite" keeps its widths and depths.
_GROUPS = (
    _Group(1, 16, 3, 1, 1),
    _Group(2, 24, 3, 2, 6),
    _Group(2, 40, 5, 2, 6),
    _Group(3, 80, 3, 2, 6),
    _Group(3, 112, 5, 1, 6),
    _Group(4, 192, 5, 2, 6),
    _Group(1, 320, 3, 1, 6),
)
_STEM_CHANNELS = 32


def _norm(channels: int) -> BatchNorm2d:
    return BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class SameConv2d(nn.Conv2d):
    """A convolution without bias whose output has ⌈side / stride⌉ positions, padded as TensorFlow pads."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        # An odd kernel at stride 1 pads both sides alike, which the convolution does itself.
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] to [B, C', ⌈h / stride⌉, ⌈w / stride⌉]."""
        if self.stride[0] > 1:
            vertical, horizontal = (self._missing(side) for side in input.shape[2:])
            before = horizontal // 2, vertical // 2
            after = horizontal - before[0], vertical - before[1]
            input = functional.pad(input, (before[0], after[0], before[1], after[1]))
        return super().forward(input)

    def _missing(self, side: int) -> int:
        kernel, stride = self.kernel_size[0], self.stride[0]
        return max(0, (-(-side // stride) - 1) * stride + kernel - side)


class DepthwiseSeparable(nn.Module):
    """Depthwise convolution and a linear 1×1 convolution: the first group, which does not expand."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = SameConv2d(channels, channels, kernel, stride, groups=channels)
        self.bn1 = _norm(channels)
        self.conv_pw = SameConv2d(channels, out, 1)
        self.bn2 = _norm(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] to [B, C', ⌈h / stride⌉, ⌈w / stride⌉]."""
        x = functional.relu6(self.bn1(self.conv_dw(x)), inplace=True)
        return self.bn2(self.conv_pw(x))


class InvertedResidual(nn.Module):
    """1×1 expansion, depthwise convolution, linear 1×1 projection; added to its input where the shapes agree."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.is_residual = stride == 1 and channels == out
        self.conv_pw = SameConv2d(channels, inner, 1)
        self.bn1 = _norm(inner)
        self.conv_dw = SameConv2d(inner, inner, kernel, stride, groups=inner)
        self.bn2 = _norm(inner)
        self.conv_pwl = SameConv2d(inner, out, 1)
        self.bn3 = _norm(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] to [B, C', ⌈h / stride⌉, ⌈w / stride⌉]."""
        inner = functional.relu6(self.bn1(self.conv_pw(x)), inplace=True)
        inner = functional.relu6(self.bn2(self.conv_dw(inner)), inplace=True)
        projected = self.bn3(self.conv_pwl(inner))
        return x + projected if self.is_residual else projected


class EfficientNetLite0(Backbone):
    """Stages `stem`, `group1` … `group7` and `head`; the feature is the mean of `head` over positions, 1,280 long.

    The maps of the groups are linear (they end with a projection); `stem` and `head` are after their ReLU6.
    """

    stages = ("stem", *(f"group{number}" for number in range(1, len(_GROUPS) + 1)), "head")
    feature_dim = FEATURE_DIM

    def __init__(self, channels: int, image_size: int) -> None:
        super().__init__()
        check_size("efficientnet_lite0", image_size, 32)
        self.image_size = image_size
        self.conv_stem = SameConv2d(channels, _STEM_CHANNELS, 3, stride=2)
        self.bn1 = _norm(_STEM_CHANNELS)
        groups: list[nn.Sequential] = []
        source = _STEM_CHANNELS
        for group in _GROUPS:
            blocks: list[nn.Module] = []
            for number in range(group.blocks):
                stride = group.stride if number == 0 else 1
                if group.expansion == 1:
                    blocks.append(DepthwiseSeparable(source, group.channels, group.kernel, stride))
                else:
                    blocks.append(InvertedResidual(source, group.channels, group.kernel, stride, group.expansion))
                source = group.channels
            groups.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*groups)
        self.conv_head = SameConv2d(source, FEATURE_DIM, 1)
        self.bn2 = _norm(FEATURE_DIM)

    def trunk(self, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Maps of the stem, of the seven groups, and of the last 1×1 convolution."""
        x = functional.relu6(self.bn1(self.conv_stem(x)), inplace=True)
        yield "stem", x
        for name, group in zip(self.stages[1:-1], self.blocks, strict=True):
            x = group(x)
            yield name, x
        yield "head", functional.relu6(self.bn2(self.conv_head(x)), inplace=True)

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 1280, h, w] to [B, 1280]: the mean over positions."""
        return x.mean((2, 3))
