"""The fully connected end of a network made anew, for images of one size (FC6-FC7-FC8) or of any (FCN-32s).

VOC classification and segmentation with `fc6-8` keep the convolutions and train a new end. AlexNet and VGG-16 have one
as published: last pool, 4096, 4096, classes. Networks without fully connected layers get a stated equivalent: the last
map averaged to the largest grid of at most 6 × 6 with at most 10,000 numbers (AlexNet's own is 9,216), then two layers
of four times its channels, 4096 at most, then classes. For segmentation the same layers slide over the map: FC6 with a
window of 6 × 6 (AlexNet), 7 × 7 (VGG-16) or 3 × 3 (the others), FC7 and the scores pixel by pixel.

Shapes: x [B, c, h, w], the map of the last stage after its ReLU; K classes.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional

from unlabeled.models.alexnet import AlexNet, AlexNetSmall
from unlabeled.models.backbone import Backbone
from unlabeled.models.data_init import fold_pair
from unlabeled.models.resnet import ResNet
from unlabeled.models.vgg import Vgg16

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)

WIDTH = 4096
"""Units of FC6 and FC7."""
MOST = 10_000
"""Numbers FC6 reads at most, where the network does not say."""
GRID = 6
"""Side of the grid FC6 reads at most, where the network does not say."""
NEW_BIAS = 0.1
"""What biases of new layers begin with; weights begin N(0, 0.01²) (spec O11)."""


def has_fc(backbone: Backbone) -> bool:
    """Whether the network has fully connected layers of its own."""
    return isinstance(backbone, (AlexNet, Vgg16))


def pool_size(backbone: Backbone) -> int:
    """Window of the pool of stride 2 between the last convolution and FC6; 1 where there is none."""
    return 3 if isinstance(backbone, AlexNet) else 2 if isinstance(backbone, Vgg16) else 1


def last_pool(x: torch.Tensor, size: int) -> torch.Tensor:
    """[B, c, h, w] to about half the height and width, or as it is where `size` is 1."""
    return functional.max_pool2d(x, size, 2) if size > 1 else x


def channels_of(backbone: Backbone) -> int:
    """Channels of the last stage's map."""
    convolutions = [part for part in backbone.modules() if isinstance(part, nn.Conv2d)]
    return convolutions[-1].out_channels if has_fc(backbone) else backbone.feature_dim


def fc_side(backbone: Backbone) -> int:
    """Side of the window that FC6 reads."""
    if has_fc(backbone):
        return math.isqrt(_own_fc(backbone)[0].weight.shape[1] // channels_of(backbone))
    return max(1, min(GRID, math.isqrt(MOST // channels_of(backbone))))


def new_layer(layer: Layer, generator: torch.Generator) -> Layer:
    """The layer with fresh numbers."""
    nn.init.normal_(layer.weight, 0, 0.01, generator=generator)
    assert layer.bias is not None
    nn.init.constant_(layer.bias, NEW_BIAS)
    return layer


class FcHead(nn.Module):
    """Last pool, FC6, ReLU, FC7, ReLU, FC8, all new, with the dropout of the network (VGG-16 has one, others two)."""

    def __init__(self, backbone: Backbone, classes: int, generator: torch.Generator) -> None:
        super().__init__()
        side, channels = fc_side(backbone), channels_of(backbone)
        width = WIDTH if has_fc(backbone) else min(WIDTH, 4 * channels)
        self.side, self.pool_size = side, pool_size(backbone)
        self.drops_input = not isinstance(backbone, Vgg16)
        self.fc6 = new_layer(nn.Linear(channels * side**2, width), generator)
        self.fc7 = new_layer(nn.Linear(width, width), generator)
        self.fc8 = new_layer(nn.Linear(width, classes), generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, c, h, w] to [B, K]."""
        x = last_pool(x, self.pool_size)
        if x.shape[2:] != (self.side, self.side):
            x = functional.adaptive_avg_pool2d(x, self.side)
        x = functional.dropout(x.flatten(1), 0.5, self.training and self.drops_input)
        x = functional.dropout(functional.relu(self.fc6(x), inplace=True), 0.5, self.training)
        return self.fc8(functional.relu(self.fc7(x), inplace=True))


def bilinear_kernel(size: int) -> torch.Tensor:
    """float64 [size, size]: weights of a transposed convolution that enlarges bilinearly (golden `bilinear_*`)."""
    factor = (size + 1) // 2
    middle = factor - 1 if size % 2 else factor - 0.5
    line = 1 - (torch.arange(size, dtype=torch.float64) - middle).abs() / factor
    return line[:, None] * line[None]


def geometry(backbone: Backbone) -> tuple[int, float]:
    """Pixels between two neighbours of the map that FC6 reads, and the pixel that the first of them looks at (its middle)."""
    if isinstance(backbone, AlexNet):
        return 32, 31.0
    if isinstance(backbone, Vgg16):
        return 32, 15.5
    if isinstance(backbone, AlexNetSmall):
        return 4, 1.5
    assert isinstance(backbone, ResNet)
    return (8 if backbone.small else 32), 0.0


def placement(backbone: Backbone, window: int) -> tuple[int, int, int]:
    """Padding of the image, side of the bilinear kernel, and where in its enlargement the image begins, all pixels.

    window: side of FC6's window. The first unit looks at pixel 13 of its stride of 32, as published: AlexNet is padded by 98
    (with its own 2, 100), has a kernel of 63 and begins at 18; VGG-16 by 99, 64 and 19. Networks without FC6 of their own
    are not padded, their new one is.
    """
    stride, first = geometry(backbone)
    pad = 0
    if has_fc(backbone):
        first += (window - 1) / 2 * stride
        pad = max(0, math.ceil(first - 13 * stride / 32))
    first -= pad
    # An even kernel has its middle between two pixels.
    size = 2 * stride - (1 if float(first).is_integer() else 0)
    return pad, size, int((size - 1) / 2 - first)


class FcnHead(nn.Module):
    """FC6 and FC7 as convolutions, scores, and bilinear enlargement to the pixels of the image (FCN-32s, Long et al. 2015).

    fresh: FC6 and FC7 are new; else the network's own are taken, where it has any. Scores are always new and begin at 0.
    `pad` is what the image has to be padded with on the left and above (see `placement`); on the other sides `pad` and one
    stride more, so that every pixel lies between units.
    """

    kernel: torch.Tensor

    def __init__(self, backbone: Backbone, classes: int, generator: torch.Generator, *, fresh: bool) -> None:
        super().__init__()
        self.pool_size = pool_size(backbone)
        self.stride, _ = geometry(backbone)
        channels, own = channels_of(backbone), _own_fc(backbone)
        if own and not fresh:
            inputs = (channels, *(layer.out_features for layer in own))
            layers = [_as_convolution(layer, count) for layer, count in zip(own, inputs, strict=False)]
        else:
            side, width = (fc_side(backbone), WIDTH) if own else (3, min(WIDTH, 4 * channels))
            layers = [nn.Conv2d(channels, width, side, padding=0 if own else 1), nn.Conv2d(width, width, 1)]
            for layer in layers:
                new_layer(layer, generator)
        self.layers = nn.ModuleList(layers)
        self.score = nn.Conv2d(layers[-1].out_channels, classes, 1)
        nn.init.zeros_(self.score.weight)
        assert self.score.bias is not None
        nn.init.zeros_(self.score.bias)
        self.pad, size, self.offset = placement(backbone, layers[0].kernel_size[0])
        self.register_buffer("kernel", bilinear_kernel(size).float(), persistent=False)

    def forward(self, x: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Map of the padded image to scores [B, K, height, width]."""
        x = last_pool(x, self.pool_size)
        for layer in self.layers:
            x = functional.dropout(functional.relu(layer(x), inplace=True), 0.5, self.training)
        x = self.score(x)
        classes = x.shape[1]
        weights = self.kernel.to(x.dtype).expand(classes, 1, -1, -1)
        x = functional.conv_transpose2d(x, weights, stride=self.stride, groups=classes)
        return x[:, :, self.offset : self.offset + height, self.offset : self.offset + width]


class Fcn(nn.Module):
    """A backbone and an `FcnHead`: pictures of any size in, a score for every pixel out.

    shrink: pictures are shown this many times smaller and scores enlarged again, for networks of small views.
    """

    def __init__(self, backbone: Backbone, head: FcnHead, shrink: float = 1.0) -> None:
        super().__init__()
        self.backbone, self.head, self.shrink = backbone, head, shrink

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] uint8, or floating in 0…1, to [B, K, H, W]."""
        size = view.shape[2:]
        if self.shrink > 1:
            shown = [max(1, round(side / self.shrink)) for side in size]
            view = functional.interpolate(view, shown, mode="bilinear", antialias=True)
        height, width = view.shape[2:]
        x = self.backbone.stem(view)
        before, after = self.head.pad, self.head.pad + self.head.stride
        x = functional.pad(x, (before, after, before, after))
        for _, stage in self.backbone.trunk(x):
            x = stage
        scores = self.head(x, height, width)
        return scores if self.shrink <= 1 else functional.interpolate(scores, size, mode="bilinear")


def _own_fc(backbone: Backbone) -> list[nn.Linear]:
    """The network's fully connected layers, each with the normalisation after it folded in."""
    found: list[nn.Linear] = []
    for layer, norm in (("fc6", "norm6"), ("fc7", "norm7")):
        own, after = getattr(backbone, layer, None), getattr(backbone, norm, None)
        if isinstance(own, nn.Linear):
            folded = fold_pair(own, after) if isinstance(after, nn.BatchNorm1d) else own
            assert isinstance(folded, nn.Linear)
            found.append(folded)
    return found


def _as_convolution(layer: nn.Linear, channels: int) -> nn.Conv2d:
    """A linear layer on a flattened map of so many channels as a convolution that slides over larger maps."""
    made = nn.Conv2d(channels, layer.out_features, math.isqrt(layer.in_features // channels))
    with torch.no_grad():
        made.weight.copy_(layer.weight.view(made.weight.shape))
        assert made.bias is not None
        made.bias.copy_(layer.bias)
    return made
