"""AlexNet with batch normalisation in the two papers' versions, and a small one of ours for images of 32 to 96 pixels.

Shapes: x [B, C, h, w]. Channels 96-256-384-384-256 as in the papers; no groups, no local response normalisation.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

from unlabeled.errors import ConfigError
from unlabeled.models.backbone import Backbone, ConvNorm, check_size
from unlabeled.models.sync_batch_norm import BatchNorm1d, BatchNorm2d

# (channels, kernel, stride, padding, a 3×3 pool of stride 2 comes first); one more pool follows the last.
_LAYERS = (
    (96, 11, 4, 2, False),
    (256, 5, 1, 2, True),
    (384, 3, 1, 1, True),
    (384, 3, 1, 1, False),
    (256, 3, 1, 1, False),
)
_WIDTH = 4096
_LEAST = 63


class AlexNet(Backbone):
    """DeepCluster's AlexNet (§3.4; spec B01): five conv-BN-ReLU, pools after 1, 2, 5, two layers of 4096 and dropout.

    The feature is the second layer before its ReLU. Maps at 224 px: 55, 27, 13, 13, 13, pooled to 6×6.
    """

    def __init__(self, channels: int, image_size: int) -> None:
        super().__init__()
        check_size("alexnet", image_size, _LEAST)
        self.stages = tuple(f"conv{i + 1}" for i in range(len(_LAYERS)))
        self.feature_dim, self.image_size = _WIDTH, image_size
        side = image_size
        for stage, (out, kernel, stride, padding, pooled) in zip(self.stages, _LAYERS, strict=True):
            conv = nn.Conv2d(channels, out, kernel, stride, padding)
            self.add_module(stage, ConvNorm(conv, BatchNorm2d(out)))
            side = (side - 3) // 2 + 1 if pooled else side
            channels, side = out, (side + 2 * padding - kernel) // stride + 1
        side = (side - 3) // 2 + 1
        self.fc6 = nn.Linear(channels * side * side, _WIDTH)
        self.fc7 = nn.Linear(_WIDTH, _WIDTH)

    def trunk(self, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Maps of conv1 to conv5 after the ReLU and before the pool."""
        for stage, (_, _, _, _, pooled) in zip(self.stages, _LAYERS, strict=True):
            x = self.get_submodule(stage)(functional.max_pool2d(x, 3, 2) if pooled else x)
            yield stage, x

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 256, h, w] to [B, 4096]: max-pool, dropout, layer, ReLU, dropout, layer."""
        x = flatten_pooled(functional.max_pool2d(x, 3, 2), self.fc6, self.image_size)
        x = functional.dropout(x, 0.5, self.training)
        x = functional.dropout(functional.relu(self.fc6(x), inplace=True), 0.5, self.training)
        return self.fc7(x)


class AlexNetFc6(AlexNet):
    """`AlexNet` that ends with its first layer of 4096 (the thesis' "2FC" of its head study, section 4.2; spec B09).

    The feature is that layer before its ReLU; its numbers begin as those of `AlexNet` do.
    """

    def __init__(self, channels: int, image_size: int) -> None:
        super().__init__(channels, image_size)
        del self.fc7

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 256, h, w] to [B, 4096]: max-pool, dropout, layer."""
        x = flatten_pooled(functional.max_pool2d(x, 3, 2), self.fc6, self.image_size)
        return self.fc6(functional.dropout(x, 0.5, self.training))


class AlexNetNat(AlexNet):
    """The AlexNet of Noise As Targets (spec B02): batch normalisation in the perceptron too, one dropout.

    Convolution, normalisation, pool and ReLU commute as NAT orders them, so the convolutions are those of `AlexNet`.
    No golden fingerprint exists for this one. Its weights begin with Torch7's default, as NAT's did.
    """

    initialisation = "torch"

    def __init__(self, channels: int, image_size: int) -> None:
        super().__init__(channels, image_size)
        self.norm6 = BatchNorm1d(_WIDTH)
        self.norm7 = BatchNorm1d(_WIDTH)

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 256, h, w] to [B, 4096]: max-pool, layer, normalisation, ReLU, dropout, layer, normalisation."""
        x = self.norm6(self.fc6(flatten_pooled(functional.max_pool2d(x, 3, 2), self.fc6, self.image_size)))
        x = functional.dropout(functional.relu(x, inplace=True), 0.5, self.training)
        return self.norm7(self.fc7(x))


# (channels, a 2×2 pool comes first)
_SMALL = ((48, False), (96, True), (160, True), (160, False), (256, False))


class AlexNetSmall(Backbone):
    """Five 3×3 conv-BN-ReLU for images of 32 to 96 pixels (spec B12; ours): a tenth of the work of `resnet18_small`.

    Has the five levels conv1 to conv5 of AlexNet, so that layer-wise probes exist; the feature is the mean of conv5's
    map.
    """

    def __init__(self, channels: int, image_size: int) -> None:
        super().__init__()
        check_size("alexnet_small", image_size, 8)
        self.stages = tuple(f"conv{i + 1}" for i in range(len(_SMALL)))
        self.feature_dim, self.image_size = _SMALL[-1][0], image_size
        for stage, (out, _) in zip(self.stages, _SMALL, strict=True):
            self.add_module(stage, ConvNorm(nn.Conv2d(channels, out, 3, padding=1, bias=False), BatchNorm2d(out)))
            channels = out

    def trunk(self, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Maps of conv1 to conv5 after the ReLU."""
        for stage, (_, pooled) in zip(self.stages, _SMALL, strict=True):
            x = self.get_submodule(stage)(functional.max_pool2d(x, 2) if pooled else x)
            yield stage, x

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 256, h, w] to [B, 256]: the mean over positions."""
        return x.mean((2, 3))


def flatten_pooled(x: torch.Tensor, layer: nn.Linear, image_size: int) -> torch.Tensor:
    """[B, C, h, w] to [B, C·h·w]; ConfigError if the views were not of the size `layer` was built for."""
    flat = x.flatten(1)
    if flat.shape[1] != layer.in_features:
        raise ConfigError(
            f"this backbone was built for views of {image_size} pixels ({layer.in_features} inputs of fc6), "
            f"these give {flat.shape[1]}: resize them to {image_size}, or use forward_stages."
        )
    return flat
