"""Names of parameters: ours, and those under which the same networks are published.

A rule is (our prefix, their prefix); what follows the prefix (`.weight`, `.running_mean`) is the same. Facts about published
layouts come from torchvision's and timm's documentation and from the key lists that loaders of the papers' weights print.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch

Rules = tuple[tuple[str, str], ...]

# Positions of the convolutions in the published `features`; each is followed by its normalisation.
_ALEXNET: Final = (0, 4, 8, 11, 14)
_VGG16: Final = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)


def _sequential(convolutions: tuple[int, ...], fc6: int, fc7: int) -> Rules:
    rules: list[tuple[str, str]] = []
    for number, place in enumerate(convolutions, start=1):
        rules += [(f"conv{number}.conv", f"features.{place}"), (f"conv{number}.norm", f"features.{place + 1}")]
    return (*rules, ("fc6", f"classifier.{fc6}"), ("fc7", f"classifier.{fc7}"))


RULES: Final[dict[str, Rules]] = {
    "alexnet": _sequential(_ALEXNET, 1, 4),
    "vgg16": _sequential(_VGG16, 0, 3),
    # Residual networks bear torchvision's names from the start.
    "resnet18": (),
    "resnet50": (),
    "resnet101": (),
    # The 3×3-stem ResNet of the CIFAR programs calls the projection of a block by another name.
    "resnet18_small": ((".downsample.", ".shortcut."),),
}
"""Networks that exist elsewhere, and how they are called there."""


def plain_key(key: str) -> str:
    """A key without what wrappers leave in it: `module` (data-parallel) and `_orig_mod` (torch.compile), in any order."""
    return ".".join(part for part in key.split(".") if part not in ("module", "_orig_mod"))


def to_ours(tensors: Mapping[str, torch.Tensor], backbone: str) -> dict[str, torch.Tensor]:
    """Published tensors under our names; a key that no rule knows keeps its own."""
    return {
        _renamed(key, [(theirs, ours) for ours, theirs in RULES[backbone]]): value for key, value in tensors.items()
    }


def to_theirs(tensors: Mapping[str, torch.Tensor], backbone: str) -> dict[str, torch.Tensor]:
    """Our tensors, without the stem's, under the published names."""
    own = {key: value for key, value in tensors.items() if not key.startswith("stem.")}
    return {_renamed(key, RULES[backbone]): value for key, value in own.items()}


def _renamed(key: str, rules: Rules | list[tuple[str, str]]) -> str:
    for before, after in rules:
        if before.startswith("."):
            if before in key:
                return key.replace(before, after)
        elif key.startswith(f"{before}."):
            return after + key[len(before) :]
    return key
