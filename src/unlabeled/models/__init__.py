"""Networks without heads, by name.

`build_backbone("alexnet", stem="sobel")` gives a module that maps views to features; `known_backbones()` lists the
names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from unlabeled.errors import ConfigError, unknown_name
from unlabeled.models.alexnet import AlexNet, AlexNetFc6, AlexNetNat, AlexNetSmall
from unlabeled.models.backbone import Backbone, Initialisation, initialise
from unlabeled.models.efficientnet import EfficientNetLite0
from unlabeled.models.heads import L2Head, LinearHead, l2_head, linear_head
from unlabeled.models.resnet import ResNet
from unlabeled.models.stem import OUTPUT_CHANNELS, Normalize, build_stem
from unlabeled.models.sync_batch_norm import convert_sync
from unlabeled.models.vgg import Vgg16

__all__ = [
    "Backbone",
    "L2Head",
    "LinearHead",
    "build_backbone",
    "convert_sync",
    "known_backbones",
    "l2_head",
    "linear_head",
]

# Means and standard deviations of ImageNet's training images, which both DeepCluster and the transfer tasks use (P05).
_PHOTOGRAPHS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _resnet(
    name: str, depths: tuple[int, ...], bottleneck: bool, small: bool = False
) -> Callable[[int, int], Backbone]:
    return partial(ResNet, name, depths=depths, bottleneck=bottleneck, small=small)


# Name -> constructor of (channels, image_size).
_BACKBONES: dict[str, Callable[[int, int], Backbone]] = {
    "alexnet": AlexNet,
    "alexnet_fc6": AlexNetFc6,
    "alexnet_nat": AlexNetNat,
    "alexnet_small": AlexNetSmall,
    "efficientnet_lite0": EfficientNetLite0,
    "resnet18": _resnet("resnet18", (2, 2, 2, 2), bottleneck=False),
    "resnet18_small": _resnet("resnet18_small", (2, 2, 2, 2), bottleneck=False, small=True),
    "resnet50": _resnet("resnet50", (3, 4, 6, 3), bottleneck=True),
    "resnet101": _resnet("resnet101", (3, 4, 23, 3), bottleneck=True),
    "vgg16": Vgg16,
}


def known_backbones() -> list[str]:
    """Names `build_backbone` accepts, sorted."""
    return sorted(_BACKBONES)


def build_backbone(
    name: str,
    *,
    channels: int = 3,
    stem: str = "rgb",
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    image_size: int = 224,
    normalize: str = "dataset",
    initialisation: Initialisation | None = None,
    generator: torch.Generator | None = None,
) -> Backbone:
    """A freshly initialised backbone for views [B, channels, image_size, image_size], uint8 or floating in 0…1.

    stem: "rgb" (the image itself, any number of channels), "sobel" (DeepCluster), "sobel_nat" or "highpass".
    mean, std: one number per channel in units of 0…1; ImageNet's for three channels and 0.5, 0.25 else, if not given.
    normalize: "dataset" uses mean and std, "image" every image's own (NAT).
    initialisation: "fan_out" or "torch" (see `initialise`); the paper's of this backbone if not given.
    generator: where the weights come from, torch's own if not given.

    Weights are stored channels-last, which is what makes convolutions fast; their shapes are the usual ones.

    Raises ConfigError for unknown names, an image_size the backbone cannot take, or mean and std of another length.
    """
    if name not in _BACKBONES:
        raise ConfigError(unknown_name("backbone", name, _BACKBONES))
    if stem not in OUTPUT_CHANNELS:
        raise ConfigError(unknown_name("stem", stem, OUTPUT_CHANNELS))
    if normalize not in ("dataset", "image"):
        raise ConfigError(unknown_name("normalisation", normalize, ("dataset", "image")))
    if channels < 1:
        raise ConfigError(f"channels is {channels}, an image has at least 1.")
    mean, std = _statistics(channels, mean, std)
    # Without storage first: torch would fill 58 million numbers that are overwritten at once.
    with torch.device("meta"):
        backbone = _BACKBONES[name](OUTPUT_CHANNELS[stem] or channels, image_size)
    backbone.to_empty(device="cpu")
    initialise(backbone, initialisation or backbone.initialisation, generator)
    backbone.stem = build_stem(stem, Normalize(mean, std, per_image=normalize == "image"))
    return backbone.to(memory_format=torch.channels_last)


def _statistics(
    channels: int, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if mean is None and std is None:
        return _PHOTOGRAPHS if channels == 3 else ((0.5,) * channels, (0.25,) * channels)
    if mean is None or std is None:
        raise ConfigError("mean and std go together: give both or neither.")
    if len(mean) != channels or len(std) != channels:
        raise ConfigError(
            f"mean has {len(mean)} and std {len(std)} numbers, the images have {channels} channels: give one each."
        )
    if min(std) <= 0:
        raise ConfigError(f"std must be above 0 in every channel, got {std}.")
    return mean, std
