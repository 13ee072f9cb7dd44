"""VGG-16 with batch normalisation (DeepCluster §4.5; spec B03). Shapes: x [B, C, h, w]."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

from unlabeled.models.alexnet import flatten_pooled
from unlabeled.models.backbone import Backbone, ConvNorm, check_size
from unlabeled.models.sync_batch_norm import BatchNorm2d

# (channels, a 2×2 pool comes first); one more pool follows the last.
_LAYERS = (
    (64, False), (64, False), (128, True), (128, False), (256, True), (256, False), (256, False),
    (512, True), (512, False), (512, False), (512, True), (512, False), (512, False),
)  # fmt: skip
_WIDTH = 4096


class Vgg16(Backbone):
    """Thirteen 3×3 conv-BN-ReLU, five pools, two layers of 4096, a dropout between; feature: the second before ReLU."""

    def __init__(self, channels: int, image_size: int) -> None:
        super().__init__()
        check_size("vgg16", image_size, 32)
        self.stages = tuple(f"conv{i + 1}" for i in range(len(_LAYERS)))
        self.feature_dim, self.image_size = _WIDTH, image_size
        for stage, (out, _) in zip(self.stages, _LAYERS, strict=True):
            self.add_module(stage, ConvNorm(nn.Conv2d(channels, out, 3, padding=1), BatchNorm2d(out)))
            channels = out
        side = image_size // 32
        self.fc6 = nn.Linear(channels * side * side, _WIDTH)
        self.fc7 = nn.Linear(_WIDTH, _WIDTH)

    def trunk(self, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Maps of conv1 to conv13 after the ReLU."""
        for stage, (_, pooled) in zip(self.stages, _LAYERS, strict=True):
            x = self.get_submodule(stage)(functional.max_pool2d(x, 2) if pooled else x)
            yield stage, x

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 512, h, w] to [B, 4096]: max-pool, layer, ReLU, dropout, layer."""
        x = functional.relu(
            self.fc6(flatten_pooled(functional.max_pool2d(x, 2), self.fc6, self.image_size)), inplace=True
        )
        return self.fc7(functional.dropout(x, 0.5, self.training))
