"""What the first layer looks for, as pictures (Noise As Targets figure 4, thesis figure 5.2, DeepCluster
figure 3; spec V01).

A network on the image itself has filters that are little images. Behind a fixed stem of gradients a filter is not what
the network looks for in the image: that is the composition of both, one kernel on the grey image. Convolutions in a
network are correlations, so the composition is the full convolution sum_c w[o, c] * s_c, k + m - 1 pixels wide for
filters of k and stem kernels of m pixels: 13 for the 11×11 filters of AlexNet behind Sobel.

Shapes: F filters, C channels that enter the first layer, k × k a filter, m × m a kernel of the stem.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from unlabeled.errors import ConfigError
from unlabeled.models import Backbone
from unlabeled.models.stem import HighPass, Rgb, Sobel


@dataclass(frozen=True)
class Filters:
    """The filters of a first layer as kernels on the image."""

    kernels: torch.Tensor
    """float32 [F, C', h, w]: C' is 1 behind a fixed stem, else the channels of the image."""
    composed: bool
    """Whether they were composed with the stem and act on the grey image."""

    def tiles(self) -> NDArray[np.uint8]:
        """[F, h, w, 3], each filter stretched to 0..255; of other than three channels grey, their mean."""
        kernels = self.kernels if self.kernels.shape[1] == 3 else self.kernels.mean(1, keepdim=True).repeat(1, 3, 1, 1)
        low, high = kernels.amin((1, 2, 3), keepdim=True), kernels.amax((1, 2, 3), keepdim=True)
        # A filter of equal numbers has nothing to show: middle grey.
        unit = torch.where(high > low, (kernels - low) / (high - low).clamp(min=1e-30), 0.5)
        return (255 * unit).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def first_filters(backbone: Backbone) -> Filters:
    """The filters of the first convolution, composed with the fixed stem if there is one."""
    weight = first_convolution(backbone).weight.detach().float().cpu()
    if isinstance(backbone.stem, Rgb):
        return Filters(weight, composed=False)
    return Filters(compose(weight, stem_kernels(backbone.stem)), composed=True)


def first_convolution(backbone: Backbone) -> nn.Conv2d:
    """The layer that sees the stem's output."""
    return next(module for module in backbone.modules() if isinstance(module, nn.Conv2d))


def stem_kernels(stem: nn.Module) -> torch.Tensor:
    """Kernels [C, m, m] that this stem correlates the grey image with, float32.

    Raises ConfigError for a stem that is no such thing.
    """
    if isinstance(stem, Sobel):
        smooth, difference = torch.tensor([1.0, 2.0, 1.0]), torch.tensor([1.0, 0.0, -1.0])
        horizontal = torch.outer(smooth, difference)
        return torch.stack((horizontal, horizontal.t())) * stem.factor.cpu()
    if isinstance(stem, HighPass):
        kernel = -torch.outer(stem.kernel.cpu(), stem.kernel.cpu())
        kernel[len(kernel) // 2, len(kernel) // 2] += 1
        return kernel[None]
    raise ConfigError(
        f"the stem {type(stem).__name__} is no convolution of the grey image; filters cannot be composed with it."
    )


def compose(weight: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """Filters [F, C, k, k] behind kernels [C, m, m] as one kernel each, [F, 1, k + m - 1, k + m - 1]."""
    if weight.shape[1] != len(kernels):
        raise ConfigError(f"filters of {weight.shape[1]} channels cannot follow a stem of {len(kernels)}.")
    # A correlation with the flipped kernel over a border of zeros is the full convolution.
    border = kernels.shape[-1] - 1
    return functional.conv2d(weight, kernels.flip(1, 2)[None], padding=border)
