"""The fixed front of a network: normalisation, then the image itself, its Sobel gradients, or its high frequencies.

Shapes: views are [B, C, H, W], uint8 in 0…255 or floating in 0…1. Nothing here is learned; everything is a buffer, so
it travels with the weights. Images stay uint8 until here, because a float batch costs four times the memory traffic.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from unlabeled.errors import ConfigError, unknown_name

OUTPUT_CHANNELS: dict[str, int | None] = {"rgb": None, "sobel": 2, "sobel_nat": 2, "highpass": 1}
"""Channels that leave each stem; the image itself keeps its own."""

HIGHPASS_SIGMA = 2.0
"""Standard deviation in pixels of the blur the high-pass stem subtracts."""


class Normalize(nn.Module):
    """(x − mean) / std, per channel with fixed numbers, or per image with that image's own two (NAT, spec P08).

    `mean`, `std`: one number per channel, in units of an image in 0…1. With `per_image` they are not used: every image
    is normalised by the mean and standard deviation over all its channels and pixels; a blank image becomes zero.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], *, per_image: bool = False) -> None:
        super().__init__()
        self.per_image = per_image
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def scale_and_shift(self, view: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The affine map of each channel, [B or 1, C] twice: normalised = view · scale + shift."""
        unit = 1.0 if view.is_floating_point() else 255.0
        if not self.per_image:
            scale = 1 / (self.std * unit)
            return scale[None], (-self.mean / self.std)[None]
        std, mean = torch.std_mean(view.to(self.mean.dtype), (1, 2, 3), correction=0)
        # Below a hundredth of a grey level nothing is there to be amplified.
        scale = torch.where(std > unit * 4e-5, 1 / std, 0)
        channels = view.shape[1]
        return scale[:, None].expand(-1, channels), (-mean * scale)[:, None].expand(-1, channels)

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] normalised, in the dtype the next layer computes in; the memory format of `view` is kept."""
        scale, shift = self.scale_and_shift(view)
        dtype = _compute_dtype(view, self.mean)
        if not view.is_contiguous(memory_format=torch.channels_last):
            return (view * scale[:, :, None, None]).add_(shift[:, :, None, None]).to(dtype)
        # Rows of W·C numbers against the factors repeated W times: broadcasting over a last axis of three is ten
        # times slower.
        batch, channels, height, width = view.shape
        rows = view.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
        rows = (rows * scale.repeat(1, width)[:, None]).add_(shift.repeat(1, width)[:, None]).to(dtype)
        return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)

    def grey(self, view: torch.Tensor) -> torch.Tensor:
        """[B, H, W]: mean of the normalised channels, all of them whatever their number, without forming them."""
        scale, shift = self.scale_and_shift(view)
        scale = scale / view.shape[1]
        grey = view[:, 0] * scale[:, 0, None, None]
        for channel in range(1, view.shape[1]):
            grey += view[:, channel] * scale[:, channel, None, None]
        return grey.add_(shift.mean(1)[:, None, None])


class Rgb(nn.Module):
    """The normalised image itself (spec P04)."""

    def __init__(self, normalize: Normalize) -> None:
        super().__init__()
        self.normalize = normalize

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] to the same shape."""
        return self.normalize(view)


class Sobel(nn.Module):
    """Two gradients of the grey image (DeepCluster §3.3 and spec P01; NAT §4 and spec P02).

    Grey is the mean of all normalised channels, whatever their number. Kernels [1 2 1]ᵀ⊗[1 0 −1] and its transpose,
    zero padding 1. `factor` scales both: 1 is DeepCluster's (left minus right, top minus bottom), −1 is NAT's; NAT's
    factor 1/3 over the sum of three channels is the mean taken here, and the random bias its released code leaves in
    is not kept.
    """

    factor: torch.Tensor

    def __init__(self, normalize: Normalize, factor: float = 1.0) -> None:
        super().__init__()
        self.normalize = normalize
        self.register_buffer("factor", torch.tensor(factor))

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] to [B, 2, H, W]: horizontal, then vertical gradient."""
        # The kernels are separable, and shifted sums of a grey plane are five times faster than a convolution with
        # so few channels. In float32: differences of nearly equal numbers are what bfloat16 is worst at.
        grey = functional.pad(self.normalize.grey(view), (1, 1, 1, 1)) * self.factor
        difference = grey[:, :, :-2] - grey[:, :, 2:]
        smooth = (grey[:, :, :-2] + grey[:, :, 2:]).add_(grey[:, :, 1:-1], alpha=2)
        horizontal = (difference[:, :-2] + difference[:, 2:]).add_(difference[:, 1:-1], alpha=2)
        vertical = smooth[:, :-2] - smooth[:, 2:]
        return torch.stack((horizontal, vertical), dim=1).to(_compute_dtype(view, grey))


class HighPass(nn.Module):
    """Grey minus its Gaussian blur (spec P03). NAT Table 2 names a high-pass filter, not its kernel: our choice."""

    kernel: torch.Tensor

    def __init__(self, normalize: Normalize, sigma: float = HIGHPASS_SIGMA) -> None:
        super().__init__()
        self.normalize = normalize
        radius = math.ceil(3 * sigma)
        offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
        weights = torch.exp(-offsets.square() / (2 * sigma**2))
        self.register_buffer("kernel", (weights / weights.sum()).float())

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] to [B, 1, H, W]."""
        grey = self.normalize.grey(view)[:, None]
        radius = len(self.kernel) // 2
        with torch.autocast(grey.device.type, enabled=False):
            # Edges are repeated, so that a border is no contour.
            blurred = functional.pad(grey, (radius, radius, radius, radius), mode="replicate")
            blurred = functional.conv2d(blurred, self.kernel.view(1, 1, 1, -1))
            blurred = functional.conv2d(blurred, self.kernel.view(1, 1, -1, 1))
        return (grey - blurred).to(_compute_dtype(view, grey))


def build_stem(name: str, normalize: Normalize) -> nn.Module:
    """The stem of this name around `normalize`.

    Raises ConfigError for a name nobody knows.
    """
    if name == "rgb":
        return Rgb(normalize)
    if name == "sobel":
        return Sobel(normalize)
    if name == "sobel_nat":
        return Sobel(normalize, factor=-1.0)
    if name == "highpass":
        return HighPass(normalize)
    raise ConfigError(unknown_name("stem", name, OUTPUT_CHANNELS))


def _compute_dtype(view: torch.Tensor, reference: torch.Tensor) -> torch.dtype:
    """What the first learned layer will compute in: autocast's dtype inside autocast, else that of `reference`."""
    device = view.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else reference.dtype
